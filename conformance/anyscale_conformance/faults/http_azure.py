"""Faults below azure-core's retries: in an adapter of the requests session that its transport sends with."""

import json
import re
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import UNKNOWN_CODE, Answer, Codes, HttpCarrier, WireRequest
from anyscale_conformance.faults.plan import Effect, Fault

READING = re.compile(r"list|check|validate|whatIf|query|exportTemplate|token$|getAccessToken", re.IGNORECASE)
"""How the last word of a POST begins that changes nothing."""
AGAIN = "again"
"""The marker of a page that names itself as the next."""

CODES: Codes = {
    # Sources: ARM's common error codes, cloud-provider-azure and karpenter-provider-azure for compute.
    "InvalidRequest": (400, "InvalidParameter"),
    "Unauthenticated": (401, "InvalidAuthenticationInfo"),
    "PermissionDenied": (403, "AuthorizationFailed"),
    "PermissionDenied(ORG_POLICY)": (403, "RequestDisallowedByPolicy"),
    "PermissionDenied(LOCK)": (409, "ScopeLocked"),
    "PermissionDenied(BILLING_DISABLED)": (409, "ReadOnlyDisabledSubscription"),
    "NotFound": (404, "ResourceNotFound"),
    "NotFound(PARENT)": (404, "ParentResourceNotFound"),
    "AlreadyExists": (409, "StorageAccountAlreadyTaken"),
    "AlreadyExists(OWNED)": (409, "RoleAssignmentExists"),
    "Conflict": (409, "AnotherOperationInProgress"),
    "Conflict(IN_USE)": (400, "InUseSubnetCannotBeDeleted"),
    "Conflict(ETAG)": (412, "PreconditionFailed"),
    "Conflict(BEING_DELETED)": (409, "ResourceGroupBeingDeleted"),
    "QuotaExceeded": (409, "OperationNotAllowed"),
    "QuotaExceeded(FAMILY)": (409, "OperationNotAllowed"),
    "QuotaExceeded(SPOT)": (409, "OperationNotAllowed"),
    "CapacityUnavailable": (409, "AllocationFailed"),
    "CapacityUnavailable(ZONE)": (409, "ZonalAllocationFailed"),
    "CapacityUnavailable(SKU)": (409, "SkuNotAvailable"),
    "CapacityUnavailable(SUBNET_ADDRESSES)": (400, "InsufficientSubnetSize"),
    "Throttled": (429, "TooManyRequests"),
    "Transient": (500, "InternalServerError"),
    "Transient(PROPAGATION)": (400, "PrincipalNotFound"),
    "DeadlineExceeded": (504, "GatewayTimeout"),
    "Unsupported": (405, "MethodNotAllowed"),
    "Unclassified": (400, UNKNOWN_CODE),
}
_EXCEEDS = (
    "Operation could not be completed as it results in exceeding approved {} quota. Submit a request for Quota increase"
)


class AzureCarrier(HttpCarrier[Any]):
    """Carries the faults of a plan below a client: ``Client(..., transport=AzureCarrier(clock).transport())``.

    Actions are ``Microsoft.Compute/virtualMachines.put``, the method in small letters.
    """

    CODES = CODES
    effects = frozenset(Effect)
    MESSAGES = {  # noqa: RUF012 - a table
        "QuotaExceeded": _EXCEEDS.format("Total Regional Cores"),
        "QuotaExceeded(FAMILY)": _EXCEEDS.format("standardDSv5Family Cores"),
        "QuotaExceeded(SPOT)": _EXCEEDS.format("LowPriorityCores"),
    }

    def transport(self, session: Any = None) -> Any:
        """Return a RequestsTransport of azure-core that asks the plan at each request, on a session of requests."""
        import requests
        from azure.core.pipeline.transport import RequestsTransport

        session = session or requests.Session()
        self.attach(session)
        return RequestsTransport(session=session, session_owner=False)

    def attach(self, session: Any) -> None:
        """Strike whatever a requests session sends from now on."""
        from requests.adapters import HTTPAdapter

        carrier = self

        class Adapter(HTTPAdapter):
            """Sends what the plan lets through."""

            def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                self.wired = request
                wired = carrier.wired(request, kwargs.get("timeout"))
                answer = carrier.carry(wired, lambda: HTTPAdapter.send(self, request, *args, **kwargs))
                return answer if hasattr(answer, "status_code") else self.build_response(request, answer)

        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter(max_retries=False))

    def answered(self, _: WireRequest, answer: Answer, /) -> Any:
        from urllib3 import HTTPResponse

        body = json.dumps({"error": {"code": answer.code, "message": answer.message}}).encode()
        headers = {"content-type": "application/json", "x-ms-request-id": REQUEST_ID, "x-ms-error-code": answer.code}
        headers |= answer.headers
        return HTTPResponse(body=BytesIO(body), headers=headers, status=answer.status, preload_content=False)

    def spoilt(self, response: Any, fault: Fault, /) -> Any:
        """Spoil a list of ARM, whose pages name the next by its address, or of the blob service, which tells a marker."""
        content = response.content
        if content.lstrip(b"\xef\xbb\xbf")[:1] == b"<":
            response._content = _spoilt_blobs(response, fault)
        elif b'"value"' in content:
            again = (
                response.request.url if fault.effect is Effect.REPEAT_PAGE else f"{response.request.url}&after=empty"
            )
            value = json.loads(content)["value"] if fault.effect is Effect.REPEAT_PAGE else []
            response._content = json.dumps({"value": value, "nextLink": again}).encode()
        return response

    def drop(self, response: Any, /) -> None:
        response.close()

    def unsent(self, request: WireRequest, /) -> BaseException:
        import requests

        return requests.exceptions.ConnectTimeout(f"{request.action} could not be sent")

    def unanswered(self, request: WireRequest, /) -> BaseException:
        import requests

        return requests.exceptions.ReadTimeout(f"no answer to {request.action}")

    def broken(self, _: WireRequest, /) -> BaseException:
        import requests
        import urllib3

        cause = urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "reset by peer"))
        return requests.exceptions.ConnectionError(cause)

    def wired(self, request: Any, timeout: Any) -> WireRequest:
        """Return what a prepared request of requests is, in the plan's words."""
        parts = urlsplit(request.url)
        last = parts.path.rstrip("/").rpartition("/")[2]
        is_read = request.method in ("GET", "HEAD", "OPTIONS") or (request.method == "POST" and READING.match(last))
        read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
        return WireRequest(
            action=f"{resource_type(parts.path)}.{request.method.lower()}",
            is_write=not is_read,
            names=(parts.path,),
            timeout_s=None if read_timeout is None else float(read_timeout),
        )


def _spoilt_blobs(response: Any, fault: Fault) -> bytes:
    """Return a list of the blob service whose marker leads to where it says: markers are names, and name what is after them."""
    page = ElementTree.fromstring(response.content.decode("utf-8-sig"))
    told = page.find("NextMarker")
    if told is None:
        return bytes(response.content)
    marker = dict(parse_qsl(urlsplit(response.request.url).query)).get("marker", "")
    told.text = AGAIN if fault.effect is Effect.REPEAT_PAGE else f"{marker}!"
    if fault.effect is Effect.EMPTY_PAGE:
        for items in page.findall("Containers"):
            items.clear()
    return ElementTree.tostring(page)


def resource_type(path: str) -> str:
    """Return the type in a path of ARM: ``Microsoft.Compute/virtualMachines``, or ``resourceGroups``."""
    before, found, after = path.rpartition("/providers/")
    words = [word for word in (after if found else before or path).split("/") if word]
    if found:
        return "/".join((words[0], *words[1::2]))
    return words[-2] if len(words) > 1 else "".join(words)
