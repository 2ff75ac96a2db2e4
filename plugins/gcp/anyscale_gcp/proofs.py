"""What a machine shows of itself: its identity token, signed by Google.

Source: cloud.google.com/compute/docs/instances/verifying-instance-identity.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from anyscale_core.errors import PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Principal

ISSUERS = ("https://accounts.google.com", "accounts.google.com")
ALGORITHM = "RS256"
SKEW = timedelta(seconds=30)


def claims_of(document: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the claims of a token that one of these keys (JWKS) has signed. Raises Unauthenticated(FORGED) for any other."""
    try:
        return jwt.decode(document, KeySet.import_key_set({"keys": list(keys["keys"])}), algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _forged("the proof was not signed by Google") from error


def key_of(document: str) -> str:
    """Return the id of the key that a token says it is signed with; empty when it says nothing."""
    try:
        return str(jws.extract_compact(document.encode()).headers().get("kid", ""))
    except (JoseError, ValueError, TypeError):
        return ""


def principal_of(claims: Mapping[str, Any], *, audience: str, project: str, now: datetime) -> Principal:
    """Return whom genuine claims are about. Raises Unauthenticated, and PermissionDenied for another project's machine."""
    if claims.get("iss") not in ISSUERS or not audience or claims.get("aud") != audience:
        raise _forged("the proof was made for another audience", hint=f"prove for {audience!r}")
    expires, issued = claims.get("exp"), claims.get("iat")
    if not isinstance(expires, int) or not isinstance(issued, int):
        raise _forged("the proof does not say when it was made")
    if now.timestamp() >= expires:
        raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="prove again")
    if issued > (now + SKEW).timestamp():
        raise Unauthenticated("the proof is of the future", reason="CLOCK_SKEW", hint="set this machine's clock")
    machine = (claims.get("google") or {}).get("compute_engine") or {}
    if not machine.get("instance_id"):
        raise _forged("the proof names no instance", hint="ask the metadata server for format=full")
    if machine.get("project_id") != project:
        raise PermissionDenied(
            f"the proof is of a machine in the project {machine.get('project_id')!r}", reason="BOUNDARY",
            hint=f"only machines of {project!r} are this cloud's",
        )  # fmt: skip
    zone, name, number = (str(machine.get(key, "")) for key in ("zone", "instance_name", "instance_id"))
    return Principal(
        subject=str(claims.get("sub", "")), account=project, instance=f"{zone}/{name}/{number}",
        claims={"email": str(claims.get("email", "")), "zone": zone},
    )  # fmt: skip


def _forged(message: str, hint: str = "show what prove returned on the node") -> Unauthenticated:
    return Unauthenticated(message, reason="FORGED", hint=hint)
