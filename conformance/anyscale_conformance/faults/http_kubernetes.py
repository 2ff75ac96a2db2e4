"""Faults below the Kubernetes client's retries: in the connections of the urllib3 pools that it sends with."""

import json
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import UNKNOWN_CODE, Answer, Codes, HttpCarrier, WireRequest
from anyscale_conformance.faults.plan import Effect
from anyscale_core.errors import CapacityUnavailable

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
COLLECTION = {"GET": "list", "DELETE": "deletecollection"}
"""The verbs of RBAC for what is done to a collection, not to an object of it."""
REVIEWS = ("reviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews", "tokenreviews")
"""What is created and changes nothing."""

CODES: Codes = {
    # Source: k8s.io/apimachinery, pkg/apis/meta/v1/types.go (StatusReason) and pkg/api/errors.
    "InvalidRequest": (422, "Invalid"),
    "Unauthenticated": (401, "Unauthorized"),
    "PermissionDenied": (403, "Forbidden"),
    "NotFound": (404, "NotFound"),
    "AlreadyExists": (409, "AlreadyExists"),
    "Conflict": (409, "Conflict"),
    "QuotaExceeded": (403, "Forbidden"),
    "Throttled": (429, "TooManyRequests"),
    "Transient": (500, "InternalError"),
    "DeadlineExceeded": (504, "Timeout"),
    "Unsupported": (405, "MethodNotAllowed"),
    "Unclassified": (400, UNKNOWN_CODE),
}


class KubernetesCarrier(HttpCarrier[Any]):
    """Carries the faults of a plan below a client: ``KubernetesCarrier(clock).attach(api_client.rest_client.pool_manager)``.

    Actions are ``pods.create``. A stockout is no answer of an API server: CapacityUnavailable cannot be injected here. The token
    of an apply is its field manager: a second apply of the object by another one meets a conflict.
    """

    CODES = CODES
    unanswerable = frozenset({CapacityUnavailable.category})
    MESSAGES = {"QuotaExceeded": "exceeded quota: conformance, requested: pods=1, used: pods=9, limited: pods=9"}  # noqa: RUF012

    def attach(self, pool_manager: Any) -> None:
        """Strike whatever a urllib3 PoolManager sends from now on."""
        from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

        for scheme, pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
            connection = struck(self, pool.ConnectionCls)
            struck_pool = type(f"Struck{pool.__name__}", (pool,), {"ConnectionCls": connection})
            pool_manager.pool_classes_by_scheme = {**pool_manager.pool_classes_by_scheme, scheme: struck_pool}
        pool_manager.clear()

    def answered(self, _: WireRequest, answer: Answer, /) -> Any:
        from urllib3 import HTTPResponse

        details = {"retryAfterSeconds": int(answer.retry_after)} if answer.retry_after.isdigit() else {}
        body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": answer.message,
            "reason": answer.code, "details": details, "code": answer.status,
        }  # fmt: skip
        headers = {"content-type": "application/json", "audit-id": REQUEST_ID, **answer.headers}
        return HTTPResponse(
            body=BytesIO(json.dumps(body).encode()), headers=headers, status=answer.status, preload_content=False
        )

    def unsent(self, request: WireRequest, /) -> BaseException:
        from urllib3.exceptions import ConnectTimeoutError

        return ConnectTimeoutError(f"{request.action} could not be sent")

    def unanswered(self, request: WireRequest, /) -> BaseException:
        return TimeoutError(f"no answer to {request.action}")

    def broken(self, request: WireRequest, /) -> BaseException:
        return ConnectionResetError(104, f"the connection broke during {request.action}")


def struck(carrier: KubernetesCarrier, base: Any) -> Any:
    """Return a connection class whose requests meet the carrier's plan; urllib3 sends, then asks for the response."""

    class Struck(base):  # type: ignore[misc]
        """A connection on which faults strike."""

        _wired: WireRequest
        _fault: Any = None
        _answer: Any = None

        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            self._wired = wired(method, url, self.timeout)
            self._fault = carrier.meet(self._wired)
            self._answer = None
            if self._fault is not None and self._fault.effect.is_before:
                self._answer = carrier.before(self._wired, self._fault)
                return
            if self._fault is not None:
                carrier.delayed(self._fault)
            super().request(method, url, *args, **kwargs)

        def getresponse(self) -> Any:
            if self._answer is not None:
                return self._answer
            response = super().getresponse()
            if self._fault is None or self._fault.effect is Effect.DELAY:
                return response
            response.read()  # it was carried out as a whole; the answer is dropped
            self.close()
            return carrier.after(self._wired, self._fault)

    return Struck


def wired(method: str, url: str, timeout: Any) -> WireRequest:
    """Return what a request to an API server is, in the plan's words."""
    parts = urlsplit(url)
    resource = resource_of(parts.path)
    query = parse_qs(parts.query)
    is_read = method in ("GET", "HEAD", "OPTIONS") or resource.endswith(REVIEWS) or "dryRun" in query
    verb = VERBS.get(method, method.lower())
    if is_collection(parts.path):
        verb = "watch" if "watch" in query else COLLECTION.get(method, verb)
    return WireRequest(
        action=f"{resource}.{verb}",
        is_write=not is_read,
        names=(parts.path,),
        token=query.get("fieldManager", [""])[0],
        timeout_s=float(timeout) if isinstance(timeout, int | float) else None,
    )


def is_collection(path: str) -> bool:
    """Tell whether a path is that of all objects of a kind."""
    return len(_rest(path)) == 1


def resource_of(path: str) -> str:
    """Return the resource that a path is about, with its subresource: ``pods``, ``pods/eviction``."""
    rest = _rest(path)
    return "/".join(rest[::2]) if rest else "".join([word for word in path.split("/") if word][:1])


def _rest(path: str) -> list[str]:
    """Return the words of a path after its API group and its namespace: a resource, a name, a subresource."""
    words = [word for word in path.split("/") if word]
    rest = words[2:] if words[:1] == ["api"] else words[3:]
    return rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest
