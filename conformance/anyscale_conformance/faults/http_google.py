"""Faults below googleapiclient's retries: in the ``http`` object that its requests are executed with."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import UNKNOWN_CODE, Answer, Codes, HttpCarrier, WireRequest

READING = re.compile(r"get|list|test|query|aggregated|wait$|generate|token$")
"""How the last word of a POST begins that changes nothing."""
STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
"""google.rpc.Code by HTTP status."""

RPC = "type.googleapis.com/google.rpc"

CODES: Codes = {
    # Sources: the Compute and IAM APIs' error references; the cluster autoscaler's GCE client for capacity.
    "InvalidRequest": (400, "invalid"),
    "Unauthenticated": (401, "authError"),
    "PermissionDenied": (403, "forbidden"),
    "NotFound": (404, "notFound"),
    "AlreadyExists": (409, "alreadyExists"),
    "Conflict": (400, "resourceNotReady"),
    "Conflict(BUSY)": (409, "operationInProgress"),
    "Conflict(IN_USE)": (400, "resourceInUseByAnotherResource"),
    "Conflict(ETAG)": (412, "conditionNotMet"),
    "QuotaExceeded": (403, "quotaExceeded"),
    "CapacityUnavailable": (503, "insufficientCapacity"),
    "Throttled": (403, "rateLimitExceeded"),
    "Transient": (503, "backendError"),
    "Transient(PROPAGATION)": (400, "badRequest"),
    "DeadlineExceeded": (504, "deadlineExceeded"),
    "Unsupported": (501, "notImplemented"),
    "Unclassified": (400, UNKNOWN_CODE),
}


class GoogleCarrier(HttpCarrier[Any]):
    """Carries the faults of a plan below a service: ``build(..., http=GoogleCarrier(clock).http(inner))``.

    ``inner`` is what would carry the requests otherwise: an httplib2.Http, an AuthorizedHttp, anything with its ``request``.
    Actions are ``instances.post``: the last collection (or verb) of the path and the method in small letters.
    """

    CODES = CODES
    MESSAGES = {  # noqa: RUF012 - a table
        "Throttled": "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'",
        "Transient(PROPAGATION)": "Service account conformance@conformance.invalid does not exist.",
    }

    def http(self, inner: Any) -> "StruckHttp":
        """Return an ``http`` that asks the plan at each request."""
        return StruckHttp(self, inner)

    def answered(self, _: WireRequest, answer: Answer, /) -> Any:
        import httplib2

        error = {
            "code": answer.status,
            "message": answer.message,
            "errors": [{"message": answer.message, "domain": "global", "reason": answer.code}],
            "status": STATUSES.get(answer.status, "UNKNOWN"),
            "details": [
                {"@type": f"{RPC}.ErrorInfo", "reason": answer.code, "domain": "googleapis.com"},
                {"@type": f"{RPC}.RequestInfo", "requestId": REQUEST_ID},
            ],
        }
        headers = {"status": str(answer.status), "content-type": "application/json; charset=UTF-8", **answer.headers}
        response = httplib2.Response(headers)
        response.reason = answer.code
        return response, json.dumps({"error": error}).encode()

    def unsent(self, request: WireRequest, /) -> BaseException:
        return ConnectionRefusedError(111, f"{request.action} could not be sent")

    def unanswered(self, request: WireRequest, /) -> BaseException:
        return TimeoutError(f"no answer to {request.action}")

    def broken(self, request: WireRequest, /) -> BaseException:
        return ConnectionResetError(104, f"the connection broke during {request.action}")


class StruckHttp:
    """An httplib2-like ``http`` in front of another, whose requests meet a plan of faults."""

    def __init__(self, carrier: GoogleCarrier, inner: Any) -> None:
        self._carrier = carrier
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def request(self, uri: str, method: str = "GET", *args: Any, **kwargs: Any) -> Any:
        """Carry one request out as the plan says; return httplib2's response and the body."""
        wired = _wired(uri, method, getattr(self._inner, "timeout", None))
        return self._carrier.carry(wired, lambda: self._inner.request(uri, method, *args, **kwargs))


def _wired(uri: str, method: str, timeout: Any) -> WireRequest:
    parts = urlsplit(uri)
    last = re.split("[/:]", parts.path.rstrip("/"))[-1]
    is_read = method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and READING.match(last))
    return WireRequest(
        action=f"{collection(parts.path)}.{method.lower()}",
        is_write=not is_read,
        names=(parts.path,),
        token=parse_qs(parts.query).get("requestId", [""])[0],
        timeout_s=None if timeout is None else float(timeout),
    )


def collection(path: str) -> str:
    """Return what a path is about: the last collection, or the verb after an id (``instances``, ``setLabels``, ``b``)."""
    path, _, verb = path.partition(":")
    if verb:
        return verb
    words = [word for word in path.split("/") if word]
    start = next((at for at, word in enumerate(words) if word in ("projects", "b", "organizations", "folders")), 0)
    places = [word for at, word in enumerate(words[start:]) if at != 2 or word not in ("aggregated", "global")]
    return places[-1] if len(places) % 2 else places[-2]
