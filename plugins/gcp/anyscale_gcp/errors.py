"""What Google's errors mean to a caller: one table, and the one place that reads it.

The order: the error inside an operation, the innermost code, the text of codes that mean several things, the transport,
the HTTP status. Nothing of the SDK is imported here before an error has to be read.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from anyscale_core.clock import Clock
from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Scope,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Unsupported,
    Vendor,
)


@attrs.frozen(kw_only=True)
class Meaning:
    """The error of the tree that a code becomes, and the remedy."""

    error: type[CloudError]
    reason: str = ""
    hint: str = ""
    scope: Scope = Scope.REQUEST


_STOCKOUT = Meaning(
    error=CapacityUnavailable,
    reason="ZONE",
    scope=Scope.ZONE,
    hint="use another zone, another type or the other market",
)
_QUOTA = Meaning(
    error=QuotaExceeded, reason="COUNT", scope=Scope.REGION, hint="ask Google for a higher quota, or use another region"
)
_SPENT_GLOBALLY = attrs.evolve(_QUOTA, scope=Scope.GLOBAL, hint="ask Google for a higher quota of the whole project")
_BUSY = Meaning(error=Conflict, reason="BUSY", scope=Scope.RESOURCE)
_IN_USE = Meaning(error=Conflict, reason="IN_USE", scope=Scope.RESOURCE, hint="delete first what uses it")
_ETAG = Meaning(error=Conflict, reason="ETAG", scope=Scope.RESOURCE)
_TAKEN = Meaning(error=AlreadyExists, reason="FOREIGN", scope=Scope.RESOURCE, hint="choose another name")
_RATE = Meaning(error=Throttled, reason="RATE", scope=Scope.ACCOUNT)
_CONCURRENT = Meaning(error=Throttled, reason="CONCURRENT_OPS", scope=Scope.ACCOUNT)
_DENIED = Meaning(error=PermissionDenied, reason="POLICY", hint="grant the permission that the message names")
_DISABLED = Meaning(
    error=PermissionDenied, reason="POLICY", hint="enable the API that the message names in the project"
)
_BILLING = Meaning(error=PermissionDenied, reason="BILLING_DISABLED", hint="link a billing account to the project")
_ORG = Meaning(
    error=PermissionDenied, reason="ORG_POLICY", hint="the organization's policy forbids it: ask its administrator"
)
_WRONG = Meaning(error=InvalidRequest, reason="FIELD", hint="mend what the message names")
_SERVER = Meaning(error=Transient, reason="SERVER")
_LATE = Meaning(error=DeadlineExceeded, reason="REQUEST")
_PROPAGATION = Meaning(error=Transient, reason="PROPAGATION", scope=Scope.RESOURCE)
_ABSENT = Meaning(error=NotFound, reason="RESOURCE", scope=Scope.RESOURCE)
_UNPROVEN = Meaning(error=Unauthenticated, reason="EXPIRED", hint="check the credentials of the control plane")

TRANSLATE: Mapping[str, Meaning] = {
    # Reasons of HTTP errors (cloud.google.com/compute/docs/troubleshooting/troubleshooting-api-requests, .../storage/docs/
    # json_api/v1/status-codes), google.rpc codes, ErrorInfo reasons, and codes inside operations.
    "notFound": _ABSENT,
    "RESOURCE_NOT_FOUND": attrs.evolve(_ABSENT, reason="REFERENCE"),
    "NOT_FOUND": _ABSENT,
    "alreadyExists": _TAKEN,
    "instanceAlreadyExists": _TAKEN,
    "ALREADY_EXISTS": _TAKEN,
    "RESOURCE_ALREADY_EXISTS": _TAKEN,
    "conflict": _TAKEN,
    "operationInProgress": _BUSY,
    "resourceNotReady": _BUSY,
    "RESOURCE_NOT_READY": _BUSY,
    "ABORTED": _ETAG,
    "aborted": _ETAG,
    "concurrentPolicyChanges": _ETAG,
    "resourceInUseByAnotherResource": _IN_USE,
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": _IN_USE,
    "resourceInUse": _IN_USE,
    "conditionNotMet": _ETAG,
    "staleData": _ETAG,
    "quotaExceeded": _QUOTA,
    "QUOTA_EXCEEDED": _QUOTA,
    "limitExceeded": _QUOTA,
    "ZONE_RESOURCE_POOL_EXHAUSTED": _STOCKOUT,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": _STOCKOUT,
    "RESOURCE_POOL_EXHAUSTED": attrs.evolve(_STOCKOUT, reason="REGION", scope=Scope.REGION),
    "INSUFFICIENT_CAPACITY": _STOCKOUT,
    "insufficientCapacity": _STOCKOUT,
    "VM_MIN_COUNT_NOT_REACHED": _STOCKOUT,
    "IP_SPACE_EXHAUSTED": Meaning(
        error=CapacityUnavailable,
        reason="SUBNET_ADDRESSES",
        scope=Scope.SUBNET,
        hint="widen the subnetwork, or delete what uses its addresses",
    ),
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": Meaning(
        error=CapacityUnavailable,
        reason="SUBNET_ADDRESSES",
        scope=Scope.SUBNET,
        hint="widen the subnetwork, or delete what uses its addresses",
    ),
    "UNSUPPORTED_OPERATION": Meaning(
        error=CapacityUnavailable, reason="PREEMPTED", scope=Scope.ZONE, hint="it was preempted while it was made"
    ),
    "rateLimitExceeded": _RATE,
    "userRateLimitExceeded": _RATE,
    "RATE_LIMIT_EXCEEDED": _RATE,
    "RESOURCE_OPERATION_RATE_EXCEEDED": _RATE,
    "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED": _CONCURRENT,
    "RESOURCE_EXHAUSTED": _RATE,
    "forbidden": _DENIED,
    "PERMISSIONS_ERROR": _DENIED,
    "IAM_PERMISSION_DENIED": _DENIED,
    "PERMISSION_DENIED": _DENIED,
    "insufficientPermissions": _DENIED,
    "accessNotConfigured": _DISABLED,
    "SERVICE_DISABLED": _DISABLED,
    "billingNotEnabled": _BILLING,
    "BILLING_DISABLED": _BILLING,
    "accountDisabled": _BILLING,
    "required": _WRONG,
    "invalid": _WRONG,
    "invalidParameter": _WRONG,
    "badRequest": _WRONG,
    "INVALID_ARGUMENT": _WRONG,
    "INVALID_USAGE": _WRONG,
    "invalidResourceUsage": _WRONG,
    "OUT_OF_RANGE": _WRONG,
    "FAILED_PRECONDITION": _WRONG,
    "CONDITION_NOT_MET": _WRONG,
    "unsupportedOperation": attrs.evolve(_WRONG, reason="UNSUPPORTED_VALUE"),
    "authError": _UNPROVEN,
    "UNAUTHENTICATED": _UNPROVEN,
    "ACCESS_TOKEN_EXPIRED": _UNPROVEN,
    "CREDENTIALS_MISSING": attrs.evolve(_UNPROVEN, reason="MISSING"),
    "invalid_grant": _UNPROVEN,
    "invalid_target": attrs.evolve(_UNPROVEN, reason="FORGED"),
    "backendError": _SERVER,
    "internalError": _SERVER,
    "INTERNAL_ERROR": _SERVER,
    "INTERNAL": _SERVER,
    "UNAVAILABLE": _SERVER,
    "deadlineExceeded": _LATE,
    "DEADLINE_EXCEEDED": _LATE,
    "gatewayTimeout": _LATE,
    "notImplemented": Meaning(error=Unsupported),
    "UNIMPLEMENTED": Meaning(error=Unsupported),
}
"""Google's code -> what it means. What is not here goes by its HTTP status when that says it all, or becomes Unclassified."""

TEXTS: tuple[tuple[frozenset[str], re.Pattern[str], Meaning], ...] = tuple(
    (frozenset(codes.split()), re.compile(text, re.IGNORECASE), meaning)
    for codes, text, meaning in (
        ("quotaExceeded QUOTA_EXCEEDED forbidden", r"per (minute|second|100 seconds|day)\b.*|queries per", _RATE),
        ("quotaExceeded QUOTA_EXCEEDED", r"ALL_REGIONS|globally", _SPENT_GLOBALLY),
        ("forbidden PERMISSION_DENIED", r"(has not been used in project|API .* disabled)", _DISABLED),
        ("forbidden PERMISSION_DENIED", r"billing", _BILLING),
        ("notFound", r"access is unauthorized", _DENIED),
        ("conditionNotMet CONDITION_NOT_MET FAILED_PRECONDITION", r"constraints?/", _ORG),
        ("conditionNotMet CONDITION_NOT_MET invalid", r"fingerprint", _ETAG),
        ("badRequest invalid INVALID_ARGUMENT FAILED_PRECONDITION", r"service account .*does not exist", _PROPAGATION),
        ("badRequest invalid INVALID_ARGUMENT", r"(another (de)?activation .*in progress)", _PROPAGATION),
        (
            "badRequest invalid INVALID_ARGUMENT invalidResourceUsage",
            r"deletion ?protection|protected against deletion",
            _IN_USE,
        ),
        ("resourceInUseByAnotherResource", r"deletion ?protection", _IN_USE),
        (
            "invalid notFound badRequest",
            r"machine ?type.* does not exist in zone",
            attrs.evolve(_STOCKOUT, reason="SKU"),
        ),
        ("ABORTED conflict", r"concurrent (policy )?change|concurrent modification", _ETAG),
        ("conflict", r"not empty", Meaning(error=Conflict, reason="NOT_EMPTY", hint="delete what is in it first")),
        ("INTERNAL_ERROR invalid", r"reservation", attrs.evolve(_STOCKOUT, reason="RESERVATION")),
    )
)
"""What a code means that has several meanings: the first text that is found decides."""

STATUSES: Mapping[int, Meaning] = {
    401: _UNPROVEN, 404: _ABSENT, 408: _LATE, 412: _ETAG, 429: _RATE, 500: _SERVER, 502: _SERVER, 503: _SERVER, 504: _LATE,
}  # fmt: skip
"""HTTP statuses that say it all when a body has no code that is known."""

_SPENT = re.compile(
    r"Quota '(?P<metric>[^']+)' exceeded\.?\s+Limit: (?P<limit>[\d.]+)(?: in region (?P<region>[\w-]+))?"
)


def of_http(error: Any, *, service: str, method: str, resource: str, applied: Applied, clock: Clock) -> CloudError:
    """Return the error of the tree for googleapiclient's HttpError."""
    status = int(error.resp.status)
    headers = {str(key).lower(): str(value) for key, value in error.resp.items()}
    codes, message, request_id = _read(error.content)
    code = next((each for each in codes if each in TRANSLATE), codes[0] if codes else "")
    meaning = _meaning(code, message, status=status)
    if meaning is _TAKEN and service == "storage" and code == "conflict" and not message:
        message = "the name is taken"
    vendor = Vendor(
        provider="gcp", service=service, code=code, http_status=status,
        request_id=request_id or headers.get("x-guploader-uploadid", ""),
    )  # fmt: skip
    is_refused = status < 500 and status != 408
    return _made(
        meaning, message or f"{method} answered {status}", code=code, vendor=vendor, resource=resource, method=method,
        applied=Applied.NO if is_refused else applied, retry_after=_retry_after(headers.get("retry-after", ""), clock),
    )  # fmt: skip


def of_operation(operation: Mapping[str, Any], *, resource: str = "") -> CloudError | None:
    """Return the error that an operation has come to (HTTP 200, DONE, and yet failed); None when it has not failed."""
    errors = operation.get("error", {}).get("errors", [])
    if not errors:
        return None
    first = next((each for each in errors if each.get("code") in TRANSLATE), errors[0])
    code, message = str(first.get("code", "")), str(first.get("message", ""))
    status = operation.get("httpErrorStatusCode")
    meaning = _meaning(code, message, status=int(status or 0))
    vendor = Vendor(
        provider="gcp", service="compute", code=code, http_status=None if status is None else int(status),
        request_id=str(operation.get("name", "")),
    )  # fmt: skip
    error = _made(
        meaning,
        message or code,
        code=code,
        vendor=vendor,
        resource=resource,
        method="",
        applied=Applied.NO,
        retry_after=None,
    )
    for detail in first.get("errorDetails", []):
        quota = detail.get("quotaInfo", {})
        if isinstance(error, QuotaExceeded) and quota.get("metricName"):
            error.metric, error.limit = plain_metric(quota), float(quota.get("limit", error.limit or 0))
    return error


def plain_metric(quota: Mapping[str, Any]) -> str:
    """Return a quota's metric as ``regions.get`` names it, of ``compute.googleapis.com/cpus`` or ``CPUS-per-project``."""
    limit_name = str(quota.get("limitName", ""))
    return (limit_name.partition("-per-")[0] or str(quota["metricName"]).rpartition("/")[2]).upper().replace("-", "_")


@contextmanager
def translated(
    *, service: str, method: str, clock: Clock, resource: str = "", applied: Applied = Applied.NO
) -> Iterator[None]:
    """Let only errors of the tree out of the block."""
    try:
        yield
    except CloudError:
        raise
    except Exception as error:
        found = _translate(error, service=service, method=method, resource=resource, applied=applied, clock=clock)
        if found is None:
            raise
        raise found from error


def _translate(
    error: Exception, *, service: str, method: str, resource: str, applied: Applied, clock: Clock
) -> CloudError | None:
    import google.auth.exceptions
    import googleapiclient.errors
    import urllib3.exceptions

    if isinstance(error, googleapiclient.errors.HttpError):
        return of_http(error, service=service, method=method, resource=resource, applied=applied, clock=clock)
    vendor = Vendor(provider="gcp", service=service, code=type(error).__name__)
    fields: dict[str, Any] = {"vendor": vendor, "resource": resource}
    if isinstance(error, google.auth.exceptions.TransportError):
        return Transient(f"{method}: the token service was not reached", reason="NETWORK", applied=Applied.NO, **fields)
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        hint = "give application default credentials, or the settings federation and service_account"
        return Unauthenticated(f"{method}: no credentials were found", reason="MISSING", hint=hint, **fields)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        hint = "check the identity pool's provider and who may impersonate the service account"
        return Unauthenticated(f"{method}: the credentials were refused", reason="EXPIRED", hint=hint, **fields)
    unsent = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, ConnectionRefusedError)
    if isinstance(error, unsent):
        return Transient(f"{method} could not be sent", reason="NETWORK", applied=Applied.NO, **fields)
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return DeadlineExceeded(f"{method} was not answered in time", reason="REQUEST", applied=applied, **fields)
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        return Transient(f"the connection broke during {method}", reason="NETWORK", applied=applied, **fields)
    if isinstance(error, googleapiclient.errors.Error | TypeError | ValueError):
        # The client library refuses what its documents do not allow before anything is sent; its text names the parameter.
        return InvalidRequest(f"{method}: {error}", reason="FIELD", **fields)
    return None


def _meaning(code: str, message: str, *, status: int) -> Meaning:
    for codes, text, meaning in TEXTS:
        if code in codes and text.search(message):
            return meaning
    if code in TRANSLATE:
        return TRANSLATE[code]
    if code and "QUOTA" in code:
        return _QUOTA
    if status in STATUSES:
        return STATUSES[status]
    return Meaning(error=Unclassified)


def _made(
    meaning: Meaning, message: str, *, code: str, vendor: Vendor, resource: str, method: str, applied: Applied,
    retry_after: timedelta | None,
) -> CloudError:  # fmt: skip
    fields: dict[str, Any] = {
        "reason": meaning.reason or code, "hint": meaning.hint, "scope": meaning.scope, "vendor": vendor,
        "resource": resource, "applied": applied, "retry_after": retry_after,
    }  # fmt: skip
    if meaning.error is PermissionDenied and method:
        message = f"{method}: {message}"
    if meaning.error is QuotaExceeded:
        spent = _SPENT.search(message)
        if spent is not None:
            return QuotaExceeded(message, metric=spent["metric"], limit=float(spent["limit"]), **fields)
    return meaning.error(message, **fields)


def _read(content: bytes) -> tuple[tuple[str, ...], str, str]:
    """Return the codes of an error's body, the most telling first, its message, and the id of the request."""
    try:
        body = json.loads(content)
    except ValueError:
        return (), "", ""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):  # the token service speaks OAuth
        return (error,), str(body.get("error_description", "")), ""
    if not isinstance(error, dict):
        return (), "", ""
    details = error.get("details") or ()
    codes: list[str] = [str(each.get("reason", "")) for each in _mappings(details)]
    codes += ["QUOTA_EXCEEDED" for each in _mappings(details) if str(each.get("@type", "")).endswith("QuotaFailure")]
    reasons = [str(each.get("reason", "")) for each in _mappings(error.get("errors") or ())]
    # A reason that nobody knows is not explained away by the coarser status beside it.
    codes += reasons or [str(error.get("status", ""))]
    request_id = next((str(each["requestId"]) for each in _mappings(details) if "requestId" in each), "")
    return tuple(code for code in codes if code), str(error.get("message", "")), request_id


def _mappings(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    return (each for each in values if isinstance(each, Mapping))


def _retry_after(value: str, clock: Clock) -> timedelta | None:
    """Return a Retry-After header, which has seconds or a date, as a duration."""
    if not value:
        return None
    if value.strip().isdigit():
        return timedelta(seconds=int(value))
    try:
        return max(timedelta(), parsedate_to_datetime(value) - clock.now())
    except (ValueError, TypeError):
        return None
