"""Who calls, in which project, and whether they may."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from joserfc.errors import JoseError
from joserfc.jws import extract_compact

from anyscale_conformance.simulators.gcp import boundaries, policies
from anyscale_conformance.simulators.gcp.calls import Call, Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError, info, not_found, singular
from anyscale_conformance.simulators.gcp.schema import Json, Method
from anyscale_conformance.simulators.gcp.server import Request
from anyscale_conformance.simulators.gcp.tokens import Guard, unauthenticated
from anyscale_conformance.simulators.gcp.world import Project, words_of

VERBS = {
    "insert": "create", "bulkInsert": "create", "patch": "update", "aggregatedList": "list", "listUsable": "list",
    "listInstances": "list", "wait": "get", "getHealth": "get", "getXpnHost": "get",
}  # fmt: skip
"""What permissions call a method that they call otherwise. Source: cloud.google.com/compute/docs/access/iam-permissions."""
CHANGES = {
    ("instanceGroups", "addInstances"), ("instanceGroups", "removeInstances"), ("clusters", "setResourceLabels"),
    ("nodePools", "create"), ("nodePools", "delete"), ("nodePools", "setSize"),
}  # fmt: skip
"""Methods that need the permission to update what they change."""
OF_NETWORKS = frozenset({"firewalls", "routers", "routes", "subnetworks"})
"""What is part of a network: to change it needs the network's policy to be changeable."""


def caller_of(cloud: Cloud, request: Request, api: str) -> Caller:
    """Return who calls. Raises 401 for a token that is not good, and for none where one is needed; sts needs none."""
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        word = word.strip()
        is_jwt = word.count(".") == 2 and word.startswith("ey")
        return _self_signed(cloud, word, api) if is_jwt else cloud.tokens.caller(word, api)
    if api in ("sts", "storage") or cloud.guard is Guard.OPEN:
        return Caller()  # public buckets are there for nobody in particular
    raise unauthenticated(api)


def project_of(cloud: Cloud, method: Method, params: Mapping[str, str], body: Json) -> Project:
    """Return the project that a call is about. Raises 404, or 403 where Google does not tell whether there is one."""
    name = _project_name(cloud, method, params, body)
    project = cloud.project(name)
    if project is not None:
        return project
    if method.api == "compute":
        library = cloud.library(name)
        if library is not None and method.id.startswith("compute.images."):
            return library
        raise not_found(f"projects/{name}")
    if method.api == "storage":
        if "bucket" in params or "destinationBucket" in params:
            raise ApiError(404, "notFound", "The specified bucket does not exist.", code="NoSuchBucket")
        raise ApiError(400, "invalid", f"Unknown project id: {name}")
    if method.api == "sts":
        message = 'Invalid value for "audience". This value should be the full resource name of the Identity Provider.'
        raise ApiError(400, "badRequest", message, code="invalid_request")
    raise ApiError(403, "forbidden", "The caller does not have permission")


def form(text: bytes) -> Json:
    """Return a form as the body that it stands for: sts takes OAuth's words, with underscores, and its own."""
    pairs = parse_qs(text.decode(), keep_blank_values=True)
    return {re.sub(r"_(.)", lambda found: found[1].upper(), name): values[-1] for name, values in pairs.items()}


def check(call: Call) -> None:
    """Raise 403 naming the first permission that the caller lacks; asks nothing while permissions are not enforced.

    What a token's boundary does not hold is refused in any case.
    """
    _keep_within(call)
    if call.method.api in ("sts", "iamcredentials"):
        return
    is_enforced, attributes = call.cloud.guard is Guard.PERMISSIONS, {"resource": _resource(call)}
    for permission, project, resource in needed(call):
        call.project.asked.add(permission)
        keys = [resource] if resource else []
        if is_enforced and not policies.permitted(call.cloud, call.caller, permission, project, keys, attributes):
            raise denied(call, permission, resource or f"projects/{project.id}")


def _keep_within(call: Call) -> None:
    """Raise 403 for a token with a boundary, unless it is used in a bucket for what the boundary holds."""
    if not call.caller.boundary:
        return
    if call.method.api != "storage":
        raise ApiError(403, "forbidden", "A token with an access boundary is of use in Cloud Storage alone.")
    for permission, _, resource in needed(call):
        attributes = {"resource": _resource(call)}
        if not boundaries.within(call.caller, permission, resource.removeprefix("b/"), attributes):
            raise denied(call, permission, resource)


def denied(call: Call, permission: str, resource: str) -> ApiError:
    """Return the 403 for want of a permission, in the words of its API."""
    if call.method.api == "compute":
        return ApiError(403, "forbidden", f"Required '{permission}' permission for '{resource}'")
    if call.method.api == "storage":
        who = call.caller.email if call.caller.member else "Anonymous caller"
        message = (
            f"{who} does not have {permission} access to the Google Cloud Storage resource. Permission '{permission}' denied on "
            "resource (or it may not exist)."
        )
        return ApiError(403, "forbidden", message, code="AccessDenied")
    details = [
        info("IAM_PERMISSION_DENIED", f"{call.method.api}.googleapis.com", permission=permission, resource=resource)
    ]
    where = f"//{call.method.api}.googleapis.com/{resource}"
    message = f"Permission '{permission}' denied on resource '{where}' (or it may not exist)."
    return ApiError(403, "forbidden", message, details=details)


def needed(call: Call) -> Iterator[tuple[str, Project, str]]:
    """Yield the permissions that a call needs, the project and the resource (its policy's key) that they are needed on."""
    collection, method = call.method.id.split(".")[-2:]
    verb = "update" if (collection, method) in CHANGES else VERBS.get(method, method)
    if verb == "testIamPermissions" or (call.method.api == "storage" and collection == "objects"):
        return  # of objects by Access.must, which knows the key
    if call.method.api == "compute":
        yield from _of_compute(call, collection, verb)
    elif call.method.api == "iam":
        name = call.params.get("name") or call.params.get("resource") or ""
        resource = name.split("/")[3] if collection == "serviceAccounts" and name.count("/") >= 3 else ""
        collection = collection.replace("providers", "workloadIdentityPoolProviders")
        yield f"iam.{collection}.{verb}", call.project, resource
    elif call.method.api == "cloudresourcemanager":
        yield f"resourcemanager.projects.{verb}", call.project, ""
    elif call.method.api == "storage":
        yield f"storage.buckets.{verb}", call.project, f"b/{call.params.get('bucket', '')}"
    elif call.method.api == "container":
        yield f"container.{collection.replace('nodePools', 'clusters')}.{verb}", call.project, ""


def _of_compute(call: Call, collection: str, verb: str) -> Iterator[tuple[str, Project, str]]:
    own, body = call.project, call.body
    if collection == "regionInstances":
        collection, body = "instances", body.get("instanceProperties", {})
    elif call.method.id.endswith("instances.bulkInsert"):
        body = body.get("instanceProperties", {})
    internal = "Internal" if collection == "addresses" and body.get("addressType") == "INTERNAL" else ""
    yield f"compute.{collection}.{verb}{internal}", own, ""
    if collection in OF_NETWORKS and verb in ("create", "update", "delete"):
        yield "compute.networks.updatePolicy", own, ""
    if (collection, verb) != ("instances", "create"):
        return
    yield "compute.disks.create", own, ""
    for field in ("labels", "metadata", "tags"):
        if body.get(field):
            yield f"compute.instances.set{field.capitalize()}", own, ""
    for account in body.get("serviceAccounts", []):
        yield "compute.instances.setServiceAccount", own, ""
        yield "iam.serviceAccounts.actAs", own, str(account.get("email", ""))
    for disk in body.get("disks", []):
        image = str(disk.get("initializeParams", {}).get("sourceImage", ""))
        words = words_of(image)
        if (
            image and call.cloud.library(words[1] if words[0] == "projects" else "") is None
        ):  # Google's own are anybody's
            yield "compute.images.useReadOnly", _home(call, image), ""
    for interface in body.get("networkInterfaces", []):
        kind = "subnetworks" if interface.get("subnetwork") else "networks"
        home = _home(call, str(interface.get(kind.removesuffix("s"), "")))
        yield f"compute.{kind}.use", home, ""
        if interface.get("accessConfigs"):
            yield f"compute.{kind}.useExternalIp", home, ""


def _resource(call: Call) -> Mapping[str, str]:
    """Return what conditions call a resource. Source: cloud.google.com/iam/docs/conditions-resource-attributes."""
    service = f"{call.method.api}.googleapis.com"
    if call.method.api == "storage":
        name = call.params.get("bucket") or str(call.body.get("name", ""))
        return {"service": service, "type": f"{service}/Bucket", "name": f"projects/_/buckets/{name}"}
    if call.method.api != "compute":
        return {"service": service}
    word = singular(call.method.id.split(".")[1])
    path = [part.format(**call.params) for part in call.method.template.split("/")]
    if word in call.params and word != "project":
        path = path[: path.index(call.params[word], 2) + 1]
    elif name := str(call.body.get("name", "")):
        path.append(name)
    return {"service": service, "type": f"{service}/{word[:1].upper()}{word[1:]}", "name": "/".join(path)}


def _home(call: Call, reference: str) -> Project:
    words = words_of(reference)
    found = call.cloud.project(words[1]) if words[:1] == ["projects"] and len(words) > 1 else None
    return found or call.project


def _self_signed(cloud: Cloud, word: str, api: str) -> Caller:
    """Return the service account that signed a token itself. Raises 401 when it did not, or the token has expired."""
    try:
        claims: dict[str, Any] = json.loads(extract_compact(word.encode()).payload)
        email = str(claims["iss"])
        cloud.keys.claims_of(email, word)
    except (JoseError, ValueError, KeyError) as error:
        raise unauthenticated(api) from error
    home = next((project for project in cloud.projects.values() if email in project.accounts), None)
    if home is None or datetime.fromtimestamp(claims.get("exp", 0), UTC) <= home.clock.now():
        raise unauthenticated(api)
    return Caller(member=f"serviceAccount:{email}")


def _project_name(cloud: Cloud, method: Method, params: Mapping[str, str], body: Json) -> str:
    if method.api == "sts":
        found = re.search(r"/projects/([^/]+)/", str(body.get("audience", "")))
        token = cloud.tokens.find(str(body.get("subjectToken", "")))
        return found[1] if found else token.project.id if token else ""
    for word in ("bucket", "destinationBucket"):
        if method.api == "storage" and word in params:
            return cloud.home_of(params[word])
    if "project" in params:
        return params["project"]
    if "projectId" in params:
        return params["projectId"]
    words = next((params[name] for name in ("name", "parent", "resource") if name in params), "").split("/")
    if words[0] != "projects":
        return words[0]
    if words[1] == "-" and len(words) > 3:  # any project: that of the service account
        email = words[3].partition(":")[0]
        return next((id for id, project in cloud.projects.items() if email in project.accounts), "")
    return words[1] if len(words) > 1 else ""
