"""Faults below botocore's retries: on its ``before-send`` event, which comes once for each attempt."""

import json
import re
import threading
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import UNKNOWN_CODE, Answer, Codes, HttpCarrier, WireRequest
from anyscale_conformance.faults.plan import Effect
from anyscale_core.clock import Clock

READING = re.compile(r"Assume|BatchGet|Check|Decode|Describe|Get|Head|List|Lookup|Query|Scan|Search|Select|Simulate")
"""How operations begin that change nothing in the account."""
TOKEN = re.compile(rb'"?(?:[cC]lientToken|[cC]lientRequestToken|CallerReference)"?\s*[=:]\s*"?([^&"<,}]+)')

CODES: Codes = {
    # Sources: botocore's service models and retry lists (retries/standard.py), terraform-provider-aws and karpenter for EC2.
    "InvalidRequest": (400, "ValidationException"),
    "Unauthenticated": (403, "InvalidClientTokenId"),
    "Unauthenticated(EXPIRED)": (403, "ExpiredTokenException"),
    "Unauthenticated(MISSING)": (403, "MissingAuthenticationToken"),
    "PermissionDenied": (403, "AccessDenied"),
    "NotFound": (404, "ResourceNotFoundException"),
    "AlreadyExists": (409, "ResourceExistsException"),
    "Conflict": (409, "ConcurrentModification"),
    "Conflict(IN_USE)": (409, "ResourceInUseException"),
    "QuotaExceeded": (400, "ResourceLimitExceededException"),
    "CapacityUnavailable": (503, "InsufficientCapacity"),
    "Throttled": (400, "ThrottlingException"),
    "Transient": (500, "InternalFailure"),
    "Transient(PROPAGATION)": (428, "ResourcePropagationDelayException"),
    "DeadlineExceeded": (400, "RequestTimeout"),
    "Unsupported": (400, "UnsupportedOperation"),
    "Unclassified": (400, UNKNOWN_CODE),
    "ec2:InvalidRequest": (400, "InvalidParameterValue"),
    "ec2:PermissionDenied": (403, "UnauthorizedOperation"),
    "ec2:NotFound": (400, "InvalidInstanceID.NotFound"),
    "ec2:AlreadyExists": (400, "InvalidGroup.Duplicate"),
    "ec2:Conflict": (400, "IncorrectState"),
    "ec2:Conflict(IN_USE)": (400, "DependencyViolation"),
    "ec2:Conflict(TOKEN_MISMATCH)": (400, "IdempotentParameterMismatch"),
    "ec2:Conflict(TOKEN_SPENT)": (400, "IdempotentInstanceTerminated"),
    "ec2:QuotaExceeded": (400, "VcpuLimitExceeded"),
    "ec2:QuotaExceeded(COUNT)": (400, "InstanceLimitExceeded"),
    "ec2:QuotaExceeded(SPOT)": (400, "MaxSpotInstanceCountExceeded"),
    "ec2:CapacityUnavailable": (500, "InsufficientInstanceCapacity"),
    "ec2:CapacityUnavailable(SKU)": (400, "Unsupported"),
    "ec2:CapacityUnavailable(SUBNET_ADDRESSES)": (400, "InsufficientFreeAddressesInSubnet"),
    "ec2:Throttled": (503, "RequestLimitExceeded"),
    "ec2:Transient": (500, "InternalError"),
    "ec2:Transient(PROPAGATION)": (400, "InvalidParameterValue"),
    "iam:NotFound": (404, "NoSuchEntity"),
    "iam:AlreadyExists": (409, "EntityAlreadyExists"),
    "iam:Conflict": (409, "EntityTemporarilyUnmodifiable"),
    "iam:Conflict(IN_USE)": (409, "DeleteConflict"),
    "iam:QuotaExceeded": (409, "LimitExceeded"),
    "iam:Throttled": (400, "Throttling"),
    "iam:Transient": (500, "ServiceFailure"),
    "sts:Throttled": (400, "Throttling"),
    "s3:NotFound": (404, "NoSuchBucket"),
    "s3:AlreadyExists": (409, "BucketAlreadyExists"),
    "s3:AlreadyExists(OWNED)": (409, "BucketAlreadyOwnedByYou"),
    "s3:Conflict": (409, "OperationAborted"),
    "s3:Conflict(ETAG)": (412, "PreconditionFailed"),
    "s3:Conflict(NOT_EMPTY)": (409, "BucketNotEmpty"),
    "s3:Throttled": (503, "SlowDown"),
    "s3:Transient": (500, "InternalError"),
    "eks:Throttled": (429, "TooManyRequestsException"),
    "eks:Transient": (500, "ServerException"),
}


class BotocoreCarrier(HttpCarrier[Any]):
    """Carries the faults of a plan below every client of a session: ``BotocoreCarrier(clock).attach(session)``.

    Actions are ``ec2.RunInstances``. ``transport`` carries out the requests whose answers are then spoilt, and needs
    ``send(request)``; by default a URLLib3Session of botocore's own, which knows no proxy and no CA of the client's.
    """

    CODES = CODES
    MESSAGES = {  # noqa: RUF012 - a table
        "ec2:Transient(PROPAGATION)": "Value (conformance) for parameter iamInstanceProfile.name is invalid. "
        "Invalid IAM Instance Profile name"
    }

    def __init__(self, clock: Clock, *, codes: Codes | None = None, transport: Any = None) -> None:
        super().__init__(clock, codes=codes)
        self._transport = transport
        self._call = threading.local()

    def attach(self, target: Any) -> None:
        """Strike whatever a botocore or boto3 session, or one client, sends from now on."""
        # A client has its events in `meta`, a session of boto3 in `events`; one of botocore registers itself.
        events = target.meta.events if hasattr(target, "meta") else getattr(target, "events", target)
        events.register("before-call", self._begin)
        events.register("before-send", self._send)

    def answered(self, _: WireRequest, answer: Answer, /) -> Any:
        from botocore.awsrequest import AWSResponse

        model = self._call.model
        headers, body = rendered(model.service_model.resolved_protocol, answer)
        return AWSResponse(self._call.url, answer.status, headers, _Raw(body))

    def unsent(self, _: WireRequest, /) -> BaseException:
        from botocore.exceptions import ConnectTimeoutError

        error: BaseException = ConnectTimeoutError(endpoint_url=self._call.url)
        return error

    def unanswered(self, _: WireRequest, /) -> BaseException:
        from botocore.exceptions import ReadTimeoutError

        error: BaseException = ReadTimeoutError(endpoint_url=self._call.url)
        return error

    def broken(self, _: WireRequest, /) -> BaseException:
        from botocore.exceptions import ConnectionClosedError

        error: BaseException = ConnectionClosedError(endpoint_url=self._call.url)
        return error

    def _begin(self, model: Any, context: Any, **_: Any) -> None:
        """Note what the event of the attempt does not tell; both come in the thread of the call."""
        self._call.model = model
        self._call.timeout_s = context["client_config"].read_timeout

    def _send(self, request: Any, event_name: str, **_: Any) -> Any:
        self._call.url = request.url
        wired = self._wired(request, event_name)
        fault = self.meet(wired)
        if fault is None:
            return None  # botocore sends it
        if fault.effect.is_before:
            return self.before(wired, fault)
        self.delayed(fault)
        response = self._sender().send(request)
        return response if fault.effect is Effect.DELAY else self.after(wired, fault)

    def _wired(self, request: Any, event_name: str) -> WireRequest:
        _, service, operation = event_name.split(".", 2)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        token = TOKEN.search(body) if isinstance(body, bytes) else None
        path = urlsplit(request.url).path
        return WireRequest(
            action=f"{service}.{operation}",
            is_write=not READING.match(operation),
            service=service,
            names=(path,) if path.strip("/") else (),
            token=token.group(1).decode() if token else "",
            timeout_s=self._call.timeout_s,
        )

    def _sender(self) -> Any:
        if self._transport is None:
            from botocore.httpsession import URLLib3Session

            self._transport = URLLib3Session()
        return self._transport


def rendered(protocol: str, answer: Answer) -> tuple[dict[str, str], bytes]:
    """Return headers and body of an error in one of AWS's protocols. Raises KeyError for one that is not rendered here."""
    code, message = escape(answer.code), escape(answer.message)
    xml = f"<Code>{code}</Code><Message>{message}</Message>"
    as_json = json.dumps({"__type": answer.code, "message": answer.message}).encode()
    headers, body = {
        "ec2": ({}, f"<Response><Errors><Error>{xml}</Error></Errors><RequestID>{REQUEST_ID}</RequestID></Response>"),
        "query": ({}, f"<ErrorResponse><Error>{xml}</Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"),
        "rest-xml": ({}, f"<Error>{xml}<RequestId>{REQUEST_ID}</RequestId></Error>"),
        "json": ({"content-type": "application/x-amz-json-1.1"}, as_json),
        "rest-json": ({"content-type": "application/json", "x-amzn-errortype": answer.code}, as_json),
    }[protocol]
    headers |= {"x-amzn-requestid": REQUEST_ID, "x-amz-request-id": REQUEST_ID, **answer.headers}
    return headers, body if isinstance(body, bytes) else f'<?xml version="1.0"?>{body}'.encode()


class _Raw(BytesIO):
    """A body as botocore reads one."""

    def stream(self, *_: Any) -> Any:
        yield self.read()
