"""A node's proof: a GetCallerIdentity that it signed and did not send, made for one audience.

The document holds the headers of the signed request and nothing that says where to send it: whoever verifies it sends it to
STS's own address of the cloud's region, and STS says whose signature it is. The credentials of an instance profile have the
instance's id as their session name. The audience is a header that is signed along, and so are time and host.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import attrs

from anyscale_core.errors import Unauthenticated

AUDIENCE = "X-Anyscale-Core-Audience"
BODY = "Action=GetCallerIdentity&Version=2011-06-15"
CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"
LIFETIME = timedelta(minutes=5)
"""For how long a proof is taken; STS itself takes a signature for a quarter of an hour."""
SKEW = timedelta(minutes=1)
TIME = "%Y%m%dT%H%M%SZ"
HEADERS = frozenset({"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "Content-Type", "Host", AUDIENCE})
SIGNED = frozenset({"host", "x-amz-date", "content-type", AUDIENCE.lower()})
"""Headers that the signature must cover."""
SIZE_MAX = 8192


def sign(credentials: Any, *, endpoint: str, region: str, audience: str, now: datetime) -> str:
    """Return the document of a proof: signed with these credentials of botocore."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    headers = {"Content-Type": CONTENT_TYPE, "Host": urlsplit(endpoint).netloc, AUDIENCE: audience}
    request = AWSRequest(method="POST", url=f"{endpoint.rstrip('/')}/", data=BODY, headers=headers)
    stamp(SigV4Auth(credentials, "sts", region), request, now)
    return json.dumps({key: value for key, value in request.headers.items() if key in HEADERS}, sort_keys=True)


def stamp(auth: Any, request: Any, now: datetime) -> None:
    """Sign a request as of ``now``: botocore's own way in reads the time of this machine."""
    request.context["timestamp"] = now.astimezone(UTC).strftime(TIME)
    auth._modify_request_before_signing(request)
    signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    auth._inject_signature_to_request(request, signature)


def read(document: str, *, audience: str, endpoint: str, now: datetime) -> Mapping[str, str]:
    """Return the headers to send to STS. Raises Unauthenticated for what is not a fresh proof for this audience."""
    if not document:
        raise Unauthenticated("the proof is empty", reason="MISSING", hint="call prove on the node")
    headers = _headers(document)
    signed = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    if not set(signed) >= SIGNED:
        raise _forged("its signature does not cover the time, the host and the audience")
    if headers[AUDIENCE] != audience or not audience:
        raise _forged("it was made for another audience")
    if headers["Host"] != urlsplit(endpoint).netloc or headers["Content-Type"] != CONTENT_TYPE:
        raise _forged("it was signed for another request")
    try:
        made = datetime.strptime(headers["X-Amz-Date"], TIME).replace(tzinfo=UTC)
    except ValueError:
        raise _forged("it does not say when it was made") from None
    if now >= made + LIFETIME:
        raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="prove again")
    if made > now + SKEW:
        raise Unauthenticated("the proof is of the future", reason="CLOCK_SKEW", hint="set the node's clock")
    return headers


@attrs.frozen(kw_only=True)
class Caller:
    """Whom STS names: ``arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION``."""

    account: str
    arn: str

    @property
    def instance(self) -> str:
        """The id of the instance whose credentials these are; empty for credentials of anything else."""
        session = self.arn.rpartition("/")[2]
        return session if ":assumed-role/" in self.arn and session.startswith("i-") else ""


def _headers(document: str) -> dict[str, str]:
    try:
        found = json.loads(document) if len(document) <= SIZE_MAX else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not HEADERS >= set(found) >= HEADERS - {"X-Amz-Security-Token"}:
        raise _forged("it is not a signed request")
    if not all(isinstance(value, str) and value.isascii() and value.isprintable() for value in found.values()):
        raise _forged("its headers are none")
    return found


def _forged(why: str) -> Unauthenticated:
    return Unauthenticated(f"the proof is not genuine: {why}", reason="FORGED", hint="prove for this control plane")
