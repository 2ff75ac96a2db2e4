"""Signed URLs, version 4: who signed one, and whether it is good for this request now.

Source: cloud.google.com/storage/docs/authentication/canonical-requests and .../signatures.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.server import Request

HOST = "storage.googleapis.com"
"""Whom this simulator stands in for: obstore signs for this host wherever the store is."""
ALGORITHM = "GOOG4-RSA-SHA256"
LONGEST = timedelta(days=7)
SKEW = timedelta(minutes=15)


def is_signed(request: Request) -> bool:
    """Return whether a request comes by a signed URL."""
    return "X-Goog-Signature" in request.query or "x-goog-signature" in request.query


def signer_of(cloud: Cloud, request: Request, now: datetime) -> Caller:
    """Return who signed a request. Raises 400 for a URL that has expired or lacks something, 403 for a wrong signature."""
    query = {name.lower(): values[-1] for name, values in request.query.items()}
    needed = [f"x-goog-{word}" for word in ("algorithm", "credential", "date", "expires", "signedheaders", "signature")]
    if missing := [name for name in needed if not query.get(name)]:
        raise _bad("InvalidQueryParameterValue", f"The query parameters {', '.join(missing)} are missing.")
    if query["x-goog-algorithm"] != ALGORITHM:
        raise _bad("InvalidQueryParameterValue", f"The algorithm must be {ALGORITHM}.")
    email, _, scope = query["x-goog-credential"].partition("/")
    words = scope.split("/")
    try:
        made = datetime.strptime(query["x-goog-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        lifetime = timedelta(seconds=int(query["x-goog-expires"]))
    except ValueError:
        raise _bad("InvalidQueryParameterValue", "X-Goog-Date or X-Goog-Expires is malformed.")
    if len(words) != 4 or words[0] != f"{made:%Y%m%d}" or words[2:] != ["storage", "goog4_request"]:
        raise _bad(
            "InvalidQueryParameterValue", "X-Goog-Credential is malformed, or its date is not that of X-Goog-Date."
        )
    if not timedelta() < lifetime <= LONGEST:
        raise _bad("InvalidQueryParameterValue", "X-Goog-Expires must be at most 604800 seconds (7 days).")
    if made > now + SKEW:
        raise ApiError(403, "forbidden", "The request is not valid yet.", code="AccessDenied")
    if now >= made + lifetime:
        raise ApiError(400, "invalid", f"The provided token has expired. Request signature expired at: {made + lifetime}",
                       code="ExpiredToken")  # fmt: skip
    texts = [
        string_to_sign(request, query["x-goog-date"], scope, query["x-goog-signedheaders"], host=host)
        for host in (request.headers.get("host", ""), HOST)
    ]
    try:
        signature = bytes.fromhex(query["x-goog-signature"])
    except ValueError:
        signature = b""
    account = cloud.account(email)
    if (
        account is None
        or account.get("disabled")
        or not any(cloud.keys.is_signed(email, text.encode(), signature) for text in texts)
    ):
        message = "The request signature we calculated does not match the signature you provided."
        raise ApiError(403, "forbidden", message, code="SignatureDoesNotMatch")
    return Caller(member=f"serviceAccount:{email}")


def string_to_sign(request: Request, date: str, scope: str, signed_headers: str, *, host: str) -> str:
    """Return what has to be signed for a request to a host."""
    pairs = sorted(
        (_encoded(unquote(name)), _encoded(unquote(value.replace("+", "%20"))))
        for name, _, value in (part.partition("=") for part in request.target.partition("?")[2].split("&"))
        if name.lower() != "x-goog-signature"
    )
    names = signed_headers.split(";")
    if "host" not in names:
        raise _bad("InvalidHeader", "The host header must be signed.")
    for name in names:
        if name not in request.headers:
            raise _bad(
                "MalformedSecurityHeader", f"The header {name} was included in signedheaders, but not in the request."
            )
    given = {**request.headers, "host": host}
    headers = "".join(f"{name}:{' '.join(given[name].split())}\n" for name in sorted(names))
    unsigned = [name for name in request.headers if name.startswith("x-goog-") and name not in names]
    if unsigned:
        raise _bad("MalformedSecurityHeader", f"Your request has headers that were not signed: {', '.join(unsigned)}.")
    canonical = "\n".join(
        [
            request.http,
            request.path,
            "&".join(f"{name}={value}" for name, value in pairs),
            headers,
            signed_headers,
            request.headers.get("x-goog-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )
    return "\n".join([ALGORITHM, date, scope, hashlib.sha256(canonical.encode()).hexdigest()])


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _bad(code: str, message: str) -> ApiError:
    return ApiError(400, "invalid", message, code=code)
