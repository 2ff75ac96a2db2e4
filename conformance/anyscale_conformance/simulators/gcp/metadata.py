"""The metadata server of an instance: who it is, what it was given, and tokens of its service account.

Source: cloud.google.com/compute/docs/metadata/predefined-metadata-keys and .../instances/verifying-instance-identity.
"""

import json
from typing import Any

from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.credentials import identity
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.server import Answer, Request
from anyscale_conformance.simulators.gcp.tokens import LIFETIME
from anyscale_conformance.simulators.gcp.world import Project, Resource, words_of

ROOT = "/computeMetadata/v1"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}


def answer(cloud: Cloud, project: Project, instance: Resource, request: Request) -> Answer:
    """Answer what a machine asks about itself."""
    if request.path in ("", "/"):
        return _text("computeMetadata/\n")
    if not request.path.startswith(ROOT):
        return _text("not found", status=404)
    if request.headers.get("metadata-flavor") != "Google":
        return _text("Missing required header 'Metadata-Flavor': 'Google'", status=403)
    with cloud.lock:
        project.settle()
        words = [word for word in request.path.removeprefix(ROOT).split("/") if word]
        if words[:2] == ["instance", "service-accounts"] and len(words) > 3:
            special = _of_account(cloud, project, instance, words[2], words[3], request)
            if special is not None:
                return special
        found: Any = tree(project, instance)
        for word in words:
            found = found.get(word) if isinstance(found, dict) else None
    if found is None:
        return _text(f"{request.path} is not there", status=404)
    if not isinstance(found, dict):
        return _text(found)
    if request.query.get("recursive") == ["true"]:
        return _json(_camel(found))
    return _text("".join(f"{name}/\n" if isinstance(item, dict) else f"{name}\n" for name, item in found.items()))


def identity_token(cloud: Cloud, project: Project, instance: Resource, audience: str) -> str:
    """Return a token that says which machine this is, to one audience. Raises ValueError without a service account."""
    account = _account(cloud, instance)
    if account is None:
        raise ValueError(f"{instance.name} has no service account")
    zone = instance.scope.partition("/")[2]
    machine = {
        "instance_creation_timestamp": int(instance.created_at.timestamp()), "instance_id": instance.body["id"],
        "instance_name": instance.name, "project_id": project.id, "project_number": project.number, "zone": zone,
    }  # fmt: skip
    claims = identity(project, account, audience)
    more = {"email": account["email"], "email_verified": True, "google": {"compute_engine": machine}}
    return cloud.keys.sign(claims | more)


def tree(project: Project, instance: Resource) -> Json:
    """Return everything that a machine is told, but tokens."""
    zone = instance.scope.partition("/")[2]
    interface = instance.body["networkInterfaces"][0]
    spot = instance.body["scheduling"]["preemptible"]
    accounts = {
        name: {"email": account["email"], "aliases": "default", "scopes": "\n".join(account["scopes"])}
        for account in instance.body.get("serviceAccounts", [])
        for name in ("default", account["email"])
    }
    return {
        "instance": {
            "attributes": {item["key"]: item.get("value", "") for item in instance.body["metadata"].get("items", [])},
            "cpu-platform": instance.body["cpuPlatform"],
            "hostname": f"{instance.name}.{zone}.c.{project.id}.internal",
            "id": instance.body["id"],
            "machine-type": f"projects/{project.number}/machineTypes/{words_of(instance.body['machineType'])[-1]}",
            "maintenance-event": "NONE",
            "name": instance.name,
            "network-interfaces": {"0": {"ip": interface.get("networkIP", "")}},
            "preempted": "TRUE" if instance.hidden.get("preempted") else "FALSE",
            "scheduling": {"preemptible": "TRUE" if spot else "FALSE"},
            "service-accounts": accounts,
            "tags": json.dumps(instance.body["tags"].get("items", [])),
            "zone": f"projects/{project.number}/zones/{zone}",
        },
        "project": {
            "attributes": {},
            "numeric-project-id": str(project.number),
            "project-id": project.id,
        },
        "universe": {"universe-domain": "googleapis.com"},
    }


def _of_account(
    cloud: Cloud, project: Project, instance: Resource, name: str, word: str, request: Request
) -> Answer | None:
    """Return a token of the machine's service account; None when something else is asked."""
    if word not in ("token", "identity"):
        return None
    account = _account(cloud, instance)
    if account is None or name not in ("default", account["email"]):
        return _text("service account not found", status=404)
    if word == "token":
        caller = Caller(member=f"serviceAccount:{account['email']}")
        token = cloud.tokens.issue(caller, project=project, prefix="ya29.m.")
        return _json({"access_token": token, "expires_in": int(LIFETIME.total_seconds()) - 1, "token_type": "Bearer"})
    audience = request.query.get("audience", [""])[-1]
    if not audience:
        return _text("non-empty audience parameter required", status=400)
    if request.query.get("format", ["standard"])[-1] == "full":
        return _text(identity_token(cloud, project, instance, audience))
    return _text(cloud.keys.sign(identity(project, account, audience)))


def _account(cloud: Cloud, instance: Resource) -> Json | None:
    emails = [account["email"] for account in instance.body.get("serviceAccounts", [])]
    if not emails:
        return None
    found = cloud.account(emails[0])
    number = emails[0].partition("-")[0]
    return found or {"email": emails[0], "uniqueId": number}  # the project's default account


def _camel(value: Any) -> Any:
    """Return what a recursive answer calls things: ``service-accounts`` is ``serviceAccounts`` there; attributes stay."""
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        first, *rest = key.split("-")
        name = key if "@" in key else first + "".join(word.capitalize() for word in rest)
        result[name] = item if key == "attributes" else _camel(item)
    for listed in ("aliases", "scopes"):
        if listed in result:
            result[listed] = result[listed].split("\n")
    return result


def _text(text: str, *, status: int = 200) -> Answer:
    return Answer(status=status, body=text.encode(), headers={**FLAVOR, "Content-Type": "application/text"})


def _json(body: object) -> Answer:
    return Answer(body=json.dumps(body).encode(), headers={**FLAVOR, "Content-Type": "application/json"})
