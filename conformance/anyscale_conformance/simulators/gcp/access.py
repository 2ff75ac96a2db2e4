"""Who calls, in which project, and whether they may."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs

from anyscale_conformance.simulators.gcp.calls import Call, Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError, not_found
from anyscale_conformance.simulators.gcp.schema import Json, Method
from anyscale_conformance.simulators.gcp.server import Request
from anyscale_conformance.simulators.gcp.tokens import Guard, unauthenticated
from anyscale_conformance.simulators.gcp.world import Project


def caller_of(cloud: Cloud, request: Request, api: str) -> Caller:
    """Return who calls. Raises 401 for a token that is not good, and for none where one is needed; sts needs none."""
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return cloud.tokens.caller(word.strip(), api)
    if api == "sts" or cloud.guard is Guard.OPEN:
        return Caller()
    raise unauthenticated(api)


def project_of(cloud: Cloud, method: Method, params: Mapping[str, str], body: Json) -> Project:
    """Return the project that a call is about. Raises 404, or 403 where Google does not tell whether there is one."""
    name = _project_name(method, params, body)
    project = cloud.project(name)
    if project is not None:
        return project
    if method.api == "compute":
        raise not_found(f"projects/{name}")
    if method.api == "storage":
        if "bucket" in params:
            raise ApiError(404, "notFound", "The specified bucket does not exist.", code="NoSuchBucket")
        raise ApiError(400, "invalid", f"Unknown project id: {name}")
    if method.api == "sts":
        raise ApiError(400, "invalid", 'Invalid value for "audience".', code="invalid_target")
    raise ApiError(403, "forbidden", "The caller does not have permission")


def form(text: bytes) -> Json:
    """Return a form as the body that it stands for: sts takes OAuth's words, with underscores, and its own."""
    pairs = parse_qs(text.decode(), keep_blank_values=True)
    return {re.sub(r"_(.)", lambda found: found[1].upper(), name): values[-1] for name, values in pairs.items()}


def check(call: Call) -> None:
    """Raise 403 unless the caller may do this; asks nothing while permissions are not enforced."""


def _project_name(method: Method, params: Mapping[str, str], body: Json) -> str:
    if method.api == "sts":
        found = re.search(r"/projects/([^/]+)/", str(body.get("audience", "")))
        return found[1] if found else ""
    if "project" in params:
        return params["project"]
    if "projectId" in params:
        return params["projectId"]
    words = next((params[name] for name in ("name", "parent", "resource") if name in params), "").split("/")
    if words[0] != "projects":
        return words[0]
    return words[1] if len(words) > 1 else ""
