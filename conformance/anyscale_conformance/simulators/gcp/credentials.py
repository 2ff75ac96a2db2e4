"""Tokens and signatures of service accounts, for those who may act as them. Source: the iamcredentials reference."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any

from anyscale_conformance.simulators.gcp import policies
from anyscale_conformance.simulators.gcp.calls import Call, Caller, handles
from anyscale_conformance.simulators.gcp.errors import ApiError, info
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.tokens import LIFETIME
from anyscale_conformance.simulators.gcp.world import Project

PREFIX = "iamcredentials.projects.serviceAccounts"
ISSUER = "https://accounts.google.com"


@handles(f"{PREFIX}.generateAccessToken")
def access_token(call: Call) -> Json:
    """Give an access token of a service account, for an hour at most."""
    account = _account(call, "iam.serviceAccounts.getAccessToken")
    if not call.body.get("scope"):
        raise ApiError(400, "badRequest", "Request contains an invalid argument: scope is required.")
    text = str(call.body.get("lifetime", "3600s"))
    if not re.fullmatch(r"\d+(\.\d+)?s", text) or not 0 < float(text[:-1]) <= LIFETIME.total_seconds():
        raise ApiError(400, "badRequest", f"The lifetime {text} is not between 1 and 3600 seconds.")
    lifetime = timedelta(seconds=float(text[:-1]))
    caller = Caller(member=f"serviceAccount:{account['email']}")
    token = call.cloud.tokens.issue(caller, project=call.project, lifetime=lifetime, prefix="ya29.c.")
    ends = (call.project.clock.now() + lifetime).astimezone(UTC)
    return {"accessToken": token, "expireTime": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}


@handles(f"{PREFIX}.generateIdToken")
def id_token(call: Call) -> Json:
    """Give a token of identity of a service account, for one audience."""
    account = _account(call, "iam.serviceAccounts.getOpenIdToken")
    if not (audience := str(call.body.get("audience", ""))):
        raise ApiError(400, "badRequest", "Request contains an invalid argument: audience is required.")
    more = {"email": account["email"], "email_verified": True} if call.body.get("includeEmail") else {}
    return {"token": call.cloud.keys.sign(identity(call.project, account, audience) | more)}


@handles(f"{PREFIX}.signBlob")
def sign_blob(call: Call) -> Json:
    """Sign bytes as a service account."""
    account = _account(call, "iam.serviceAccounts.signBlob")
    payload = base64.b64decode(str(call.body.get("payload", "")))
    if not payload:
        raise ApiError(400, "badRequest", "Request contains an invalid argument: payload is required.")
    key, signature = call.cloud.keys.sign_as(account["email"], payload)
    return {"keyId": key, "signedBlob": base64.b64encode(signature).decode()}


@handles(f"{PREFIX}.signJwt")
def sign_jwt(call: Call) -> Json:
    """Sign claims as a service account."""
    account = _account(call, "iam.serviceAccounts.signJwt")
    try:
        claims = json.loads(str(call.body.get("payload", "")))
    except ValueError:
        raise ApiError(400, "badRequest", "The payload is not a JSON object of claims.")
    key, token = call.cloud.keys.jwt_as(account["email"], claims)
    return {"keyId": key, "signedJwt": token}


def identity(project: Project, account: Mapping[str, Any], audience: str) -> Json:
    """Return the claims of a service account's token of identity."""
    now = int(project.clock.now().timestamp())
    return {
        "iss": ISSUER, "aud": audience, "azp": account["uniqueId"], "sub": account["uniqueId"], "iat": now,
        "exp": now + int(LIFETIME.total_seconds()),
    }  # fmt: skip


def _account(call: Call, permission: str) -> Json:
    """Return the account, when the caller may act as it; asked in every case, as acting as another is what this API is for.

    Raises 403, also where there is no such account: Google does not tell.
    """
    email = call.params["name"].rpartition("/")[2]
    account = next(
        (found for found in call.project.accounts.values() if email in (found["email"], found["uniqueId"])), None
    )
    resources = [] if account is None else [account["email"]]
    if account is None or not _may(call, permission, resources):
        details = [info("IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission)]
        message = f"Permission '{permission}' denied on resource (or it may not exist)."
        raise ApiError(403, "forbidden", message, details=details)
    if account.get("disabled"):
        raise ApiError(400, "failedPrecondition", "Service account is disabled.", status="FAILED_PRECONDITION")
    return account


def _may(call: Call, permission: str, resources: list[str]) -> bool:
    call.project.asked.add(permission)
    return policies.permitted(call.cloud, call.caller, permission, call.project, resources)
