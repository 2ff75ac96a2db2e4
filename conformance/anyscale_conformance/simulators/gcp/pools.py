"""Workload identity pools and their providers."""

import json
import re
from urllib.parse import urlsplit

from joserfc.errors import JoseError

from anyscale_conformance.simulators.gcp import cel
from anyscale_conformance.simulators.gcp.answers import masked, operation, operation_named, paged
from anyscale_conformance.simulators.gcp.calls import HANDLERS, Call, handles
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.keys import keys_of
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project

POOLS = "iam.projects.locations.workloadIdentityPools"
ID = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
ATTRIBUTE = re.compile(r"google\.(subject|groups)|attribute\.[a-z0-9_]{1,100}")
LOOPBACK = ("127.0.0.1", "localhost")
"""Where an issuer may speak plain HTTP here; Google wants HTTPS everywhere."""


@handles(f"{POOLS}.create")
def create(call: Call) -> Json:
    """Make a pool."""
    id = _id(call.params.get("workloadIdentityPoolId", ""), "workload_identity_pool_id")
    return _made(call, f"{_parent(call)}/workloadIdentityPools/{id}", call.body)


@handles(f"{POOLS}.providers.create")
def create_provider(call: Call) -> Json:
    """Make a provider: an issuer whose tokens a pool takes."""
    pool = named(call.project, call.params["parent"])
    id = _id(call.params.get("workloadIdentityPoolProviderId", ""), "workload_identity_pool_provider_id")
    return _made(call, f"{pool['name']}/providers/{id}", _checked(call.body))


@handles(f"{POOLS}.get", f"{POOLS}.providers.get")
def get(call: Call) -> Json:
    """Answer with a pool or a provider, also with one that was deleted in the last 30 days."""
    return named(call.project, call.params["name"], deleted=True)


@handles(f"{POOLS}.list")
def list_pools(call: Call) -> Json:
    """Answer with the pools of a project."""
    return paged(call, "workloadIdentityPools", _below(call, f"{_parent(call)}/workloadIdentityPools/"), default=50)


@handles(f"{POOLS}.providers.list")
def list_providers(call: Call) -> Json:
    """Answer with the providers of a pool."""
    pool = named(call.project, call.params["parent"])
    return paged(call, "workloadIdentityPoolProviders", _below(call, f"{pool['name']}/providers/"), default=50)


@handles(f"{POOLS}.patch", f"{POOLS}.providers.patch")
def patch(call: Call) -> Json:
    """Change a pool or a provider."""
    thing = named(call.project, call.params["name"])
    changed = masked(thing, call.body, call.params.get("updateMask", ""))
    if "/providers/" in thing["name"]:
        changed = _checked(changed)
    call.project.pools[thing["name"]] = changed
    return operation(call, thing["name"], changed)


@handles(f"{POOLS}.delete", f"{POOLS}.providers.delete")
def delete(call: Call) -> Json:
    """Delete a pool or a provider: its id stays taken for 30 days, and nothing is exchanged by it."""
    thing = named(call.project, call.params["name"])
    thing["state"] = "DELETED"
    return operation(call, thing["name"], thing)


@handles(f"{POOLS}.undelete", f"{POOLS}.providers.undelete")
def undelete(call: Call) -> Json:
    """Have a deleted pool or provider back."""
    thing = named(call.project, call.params["name"], deleted=True)
    thing["state"] = "ACTIVE"
    return operation(call, thing["name"], thing)


HANDLERS[f"{POOLS}.operations.get"] = operation_named
HANDLERS[f"{POOLS}.providers.operations.get"] = operation_named


def named(project: Project, name: str, *, deleted: bool = False) -> Json:
    """Return a pool or provider by its name, with the project's id or number. Raises 404."""
    words = name.split("/")
    known = "/".join(["projects", str(project.number), *words[2:]])
    thing = project.pools.get(known)
    if thing is None or (thing["state"] == "DELETED" and not deleted):
        raise ApiError(404, "notFound", "Requested entity was not found.")
    return thing


def _made(call: Call, name: str, body: Json) -> Json:
    if name in call.project.pools:
        raise ApiError(409, "alreadyExists", "Requested entity already exists")
    call.project.pools[name] = {**body, "name": name, "state": "ACTIVE"}
    return operation(call, name, call.project.pools[name])


def _below(call: Call, prefix: str) -> list[Json]:
    found = [thing for name, thing in sorted(call.project.pools.items()) if name.startswith(prefix)]
    return [
        thing
        for thing in found
        if "/" not in thing["name"].removeprefix(prefix) and (thing["state"] == "ACTIVE" or call.flag("showDeleted"))
    ]


def _parent(call: Call) -> str:
    location = call.params["parent"].split("/")[3]
    if location != "global":
        raise ApiError(400, "badRequest", f"Location {location} is not supported; use global.")
    return f"projects/{call.project.number}/locations/global"


def _id(text: str, what: str) -> str:
    if not ID.fullmatch(text):
        raise ApiError(400, "badRequest", f"Invalid {what}: '{text}'. It has 4 to 32 characters of [a-z0-9-] and does not begin "
                       "with 'gcp-'.")  # fmt: skip
    return text


def _checked(provider: Json) -> Json:
    """Return a provider as it is kept. Raises 400 for a mapping, condition or issuer that cannot be."""
    mapping = provider.get("attributeMapping", {})
    if "google.subject" not in mapping:
        raise _bad("attribute_mapping: the mapping google.subject is required.")
    for name, expression in mapping.items():
        if not ATTRIBUTE.fullmatch(name):
            raise _bad(f"attribute_mapping: '{name}' is not a valid target attribute.")
        _parsed(str(expression), "attribute_mapping")
    if condition := provider.get("attributeCondition"):
        _parsed(str(condition), "attribute_condition")
    kinds = [kind for kind in ("aws", "oidc", "saml", "x509") if kind in provider]
    if len(kinds) != 1:
        raise _bad("Exactly one of aws, oidc, saml and x509 is required.")
    if kinds != ["oidc"]:
        raise ApiError(501, "notImplemented", f"this simulator has no providers of kind {kinds[0]}")
    oidc = provider["oidc"]
    issuer = urlsplit(str(oidc.get("issuerUri", "")))
    if issuer.scheme != "https" and not (issuer.scheme == "http" and issuer.hostname in LOOPBACK):
        raise _bad(f"oidc.issuer_uri: '{oidc.get('issuerUri', '')}' must be an HTTPS URL.")
    if len(oidc.get("allowedAudiences", [])) > 10:
        raise _bad("oidc.allowed_audiences: at most 10 are allowed.")
    if text := oidc.get("jwksJson"):
        try:
            keys_of(json.loads(text))
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise _bad(f"oidc.jwks_json: not a valid JWK set: {error}")
    return provider


def _parsed(expression: str, what: str) -> None:
    try:
        cel.parse(expression)
    except cel.CelError as error:
        raise _bad(f"{what}: {error}")


def _bad(message: str) -> ApiError:
    return ApiError(400, "badRequest", message)
