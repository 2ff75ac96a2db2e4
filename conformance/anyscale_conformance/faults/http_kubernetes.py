"""Faults below the Kubernetes client's retries: in the connections of the urllib3 pools that it sends with."""

import json
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import UNKNOWN_CODE, Answer, Codes, HttpCarrier, WireRequest
from anyscale_conformance.faults.plan import PAGES, Effect, Fault
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
    of an apply is its field manager: a second apply of the object by another one meets a conflict. Pages are those of lists.
    """

    CODES = CODES
    effects = frozenset(Effect)
    EMPTY = "conformance-empty-page"
    """The beginning of the continue token of an empty page; the rest is the token that was sent."""
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

    def instead(self, request: WireRequest, fault: Fault, url: str) -> Any:
        """Return the answer that a fault gives in place of the request's own; None where that one is asked for."""
        token = parse_qs(urlsplit(url).query).get("continue", [""])[0]
        if fault.effect is Effect.EXPIRE_PAGE and token:
            return self.answered(
                request, Answer(status=410, code="Expired", message="the continue parameter is too old")
            )
        if fault.effect is Effect.EMPTY_PAGE and is_listing(request):
            body = {"kind": "List", "apiVersion": "v1", "items": [], "metadata": {"continue": self.EMPTY + token}}
            return _response(200, body)
        return None if fault.effect in PAGES or not fault.effect.is_before else self.before(request, fault)

    def asked(self, url: str) -> str:
        """Return the URL to send: behind an empty page comes the page that was asked for."""
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if not query.get("continue", "").startswith(self.EMPTY):
            return url
        query["continue"] = query["continue"].removeprefix(self.EMPTY)
        return f"{parts.path}?{urlencode({key: value for key, value in query.items() if key != 'continue' or value})}"

    def answered(self, _: WireRequest, answer: Answer, /) -> Any:
        details = {"retryAfterSeconds": int(answer.retry_after)} if answer.retry_after.isdigit() else {}
        body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": answer.message,
            "reason": answer.code, "details": details, "code": answer.status,
        }  # fmt: skip
        return _response(answer.status, body, answer.headers)

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
        _url = ""
        _fault: Any = None
        _answer: Any = None

        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            self._wired, self._url = wired(method, url, self.timeout), url
            self._fault = carrier.meet(self._wired)
            self._answer = None if self._fault is None else carrier.instead(self._wired, self._fault, url)
            if self._answer is not None:
                return
            if self._fault is not None:
                carrier.delayed(self._fault)
            super().request(method, carrier.asked(url), *args, **kwargs)

        def getresponse(self) -> Any:
            if self._answer is not None:
                return self._answer
            response = super().getresponse()
            if self._fault is None or self._fault.effect in (Effect.DELAY, Effect.EXPIRE_PAGE, Effect.EMPTY_PAGE):
                return response
            if self._fault.effect is Effect.REPEAT_PAGE:
                return repeated(response, self._url)
            response.read()  # it was carried out as a whole; the answer is dropped
            self.close()
            return carrier.after(self._wired, self._fault)

    return Struck


def repeated(response: Any, url: str) -> Any:
    """Return a page of a list that names itself as the next one; the first page has no name, and stays as it is."""
    token = parse_qs(urlsplit(url).query).get("continue", [""])[0]
    if not token:
        return response
    body = json.loads(response.read())
    body["metadata"]["continue"] = token
    return _response(response.status, body)


def is_listing(request: WireRequest) -> bool:
    """Tell whether a request is for a page of a list."""
    return request.action.endswith(".list")


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


def _response(status: int, body: Any, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    from urllib3 import HTTPResponse

    told = {"content-type": "application/json", "audit-id": REQUEST_ID, **headers}
    return HTTPResponse(body=BytesIO(json.dumps(body).encode()), headers=told, status=status, preload_content=False)


def _rest(path: str) -> list[str]:
    """Return the words of a path after its API group and its namespace: a resource, a name, a subresource."""
    words = [word for word in path.split("/") if word]
    rest = words[2:] if words[:1] == ["api"] else words[3:]
    return rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest
