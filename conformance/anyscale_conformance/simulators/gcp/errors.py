"""What Google answers when it refuses: one exception, and its rendering in each family's own words."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
"""google.rpc.Code by HTTP status."""


class ApiError(Exception):
    """A refusal: the HTTP status, the reason of ``errors[0]``, the message, google.rpc details, and headers to send along."""

    def __init__(
        self,
        http: int,
        reason: str,
        message: str,
        *,
        status: str = "",
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.http, self.reason, self.message = http, reason, message
        self.status = status or STATUSES.get(http, "UNKNOWN")
        self.details = tuple(details)
        self.headers = dict(headers or {})
        self.code = code
        """The code of Cloud Storage's XML API, and of an OAuth error."""

    def body(self, *, api: str) -> dict[str, Any]:
        """Return the JSON body as this API writes it: storage has no ``status``, sts speaks OAuth."""
        if api == "sts":
            return {"error": self.code or "invalid_request", "error_description": self.message}
        errors = [{"message": self.message, "domain": _domain(self.reason), "reason": self.reason}]
        error: dict[str, Any] = {"code": self.http, "message": self.message, "errors": errors}
        if api != "storage":
            error["status"] = self.status
        if self.details:
            error["details"] = list(self.details)
        return {"error": error}

    def xml(self) -> str:
        """Return the body of Cloud Storage's XML API."""
        return (
            "<?xml version='1.0' encoding='UTF-8'?>"
            f"<Error><Code>{escape(self.code or 'InvalidArgument')}</Code><Message>{escape(self.message)}</Message></Error>"
        )


def not_found(path: str) -> ApiError:
    """Return compute's 404."""
    return ApiError(404, "notFound", f"The resource '{path}' was not found")


def invalid(field: str, value: object, why: str) -> ApiError:
    """Return compute's 400 for a field's value."""
    return ApiError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def already_exists(path: str) -> ApiError:
    """Return compute's 409 for a name that is taken."""
    return ApiError(409, "alreadyExists", f"The resource '{path}' already exists")


def in_use(path: str, by: str) -> ApiError:
    """Return compute's 400 for what something else still needs."""
    message = f"The {singular(path.rsplit('/', 2)[-2])} resource '{path}' is already being used by '{by}'"
    return ApiError(400, "resourceInUseByAnotherResource", message)


def info(reason: str, service: str, **metadata: str) -> dict[str, Any]:
    """Return a google.rpc.ErrorInfo."""
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": {"service": service, **metadata}}


def singular(collection: str) -> str:
    """Return the word for one of a collection: ``addresses`` -> ``address``."""
    return "address" if collection == "addresses" else collection.removesuffix("s")


def _domain(reason: str) -> str:
    return "usageLimits" if reason in ("rateLimitExceeded", "quotaExceeded", "accessNotConfigured") else "global"
