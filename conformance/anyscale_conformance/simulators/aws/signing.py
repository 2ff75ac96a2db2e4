"""Signature Version 4, from the side that checks it (AWS General Reference, "Signing AWS API requests")."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote

import attrs

ALGORITHM = "AWS4-HMAC-SHA256"
FORMAT = "%Y%m%dT%H%M%SZ"
UNSIGNED = "UNSIGNED-PAYLOAD"


@attrs.frozen(kw_only=True)
class Key:
    """An access key. ``principal``: the ARN that it speaks as.

    ``role``: the role whose policies bind it, empty for an administrator. ``policy``: a document that binds it beyond that.
    ``scope``: a session policy, beyond which nothing is allowed whatever else allows it. ``expires``: never when it is None.
    """

    id: str
    secret: str = attrs.field(repr=False)
    account: str
    principal: str
    user_id: str
    session_token: str = attrs.field(default="", repr=False)
    role: str = ""
    policy: Mapping[str, Any] | None = None
    scope: Mapping[str, Any] | None = None
    expires: datetime | None = None


class Refusal(Exception):
    """A request that is not carried out: code, HTTP status and message, as the vendor writes them."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@attrs.frozen(kw_only=True)
class Signature:
    """What a request says of its signature."""

    key_id: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str
    time: str
    token: str
    expires_s: int | None = None
    """Of a presigned URL: how long it is good for."""

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> "Signature | None":
        """Return it; None for a request without one."""
        header = environ.get("HTTP_AUTHORIZATION", "")
        if header.startswith(ALGORITHM):
            fields = dict(part.strip().partition("=")[::2] for part in header[len(ALGORITHM) :].split(","))
            query: Mapping[str, str] = {}
        else:
            query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
            if query.get("X-Amz-Algorithm") != ALGORITHM:
                return None
            fields = {
                "Credential": query.get("X-Amz-Credential", ""),
                "SignedHeaders": query.get("X-Amz-SignedHeaders", ""),
                "Signature": query.get("X-Amz-Signature", ""),
            }
        scope = fields.get("Credential", "").split("/")
        if len(scope) != 5:
            raise Refusal("IncompleteSignature", "Credential must have 5 parts")
        return cls(
            key_id=scope[0], date=scope[1], region=scope[2], service=scope[3],
            signed=tuple(fields.get("SignedHeaders", "").split(";")), signature=fields.get("Signature", ""),
            time=query.get("X-Amz-Date") or environ.get("HTTP_X_AMZ_DATE", ""),
            token=query.get("X-Amz-Security-Token") or environ.get("HTTP_X_AMZ_SECURITY_TOKEN", ""),
            expires_s=int(query["X-Amz-Expires"]) if "X-Amz-Expires" in query else None,
        )  # fmt: skip

    def check(self, environ: Mapping[str, Any], body: bytes, key: Key, *, now: datetime) -> None:
        """Raise Refusal unless the request was signed with this key and is not too old."""
        if key.session_token and not hmac.compare_digest(key.session_token, self.token):
            raise Refusal("InvalidClientTokenId", "The security token included in the request is invalid.", status=403)
        if key.expires is not None and now >= key.expires:
            raise Refusal("ExpiredToken", "The security token included in the request is expired", status=403)
        if self.expires_s is not None and not self._signed_at() <= now < self._signed_at() + timedelta(
            seconds=self.expires_s
        ):
            raise Refusal("AccessDenied", "Request has expired", status=403)
        request = "\n".join(
            (
                environ["REQUEST_METHOD"],
                self._path(environ),
                self._query(environ),
                *(f"{name}:{_header(environ, name)}" for name in self.signed),
                "",
                ";".join(self.signed),
                self._digest(environ, body),
            )
        )
        scope = f"{self.date}/{self.region}/{self.service}/aws4_request"
        text = "\n".join((ALGORITHM, self.time, scope, hashlib.sha256(request.encode()).hexdigest()))
        signing = f"AWS4{key.secret}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        if not hmac.compare_digest(hmac.new(signing, text.encode(), "sha256").hexdigest(), self.signature):
            raise Refusal(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
                status=403,
            )

    def _signed_at(self) -> datetime:
        return datetime.strptime(self.time, FORMAT).replace(tzinfo=UTC)

    def _path(self, environ: Mapping[str, Any]) -> str:
        raw: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or quote(environ["PATH_INFO"])
        path = raw.partition("?")[0]
        if "://" in path:
            path = "/" + path.split("/", 3)[3]
        # S3 alone takes the path as it is; the others escape it once more.
        return path if self.service == "s3" else quote(path, safe="/-_.~")

    def _query(self, environ: Mapping[str, Any]) -> str:
        pairs = [part.partition("=")[::2] for part in environ.get("QUERY_STRING", "").split("&") if part]
        return "&".join(f"{name}={value}" for name, value in sorted(pairs) if name != "X-Amz-Signature")

    def _digest(self, environ: Mapping[str, Any], body: bytes) -> str:
        if self.expires_s is not None:
            return UNSIGNED
        return environ.get("HTTP_X_AMZ_CONTENT_SHA256") or hashlib.sha256(body).hexdigest()


def _header(environ: Mapping[str, Any], name: str) -> str:
    key = name.upper().replace("-", "_")
    value = environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}", "")
    return " ".join(str(value).split())
