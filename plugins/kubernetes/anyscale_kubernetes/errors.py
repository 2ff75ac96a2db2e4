"""What an API server's answers mean to a caller: one table, words of overloaded reasons, and the failures of the transport.

Sources: k8s.io/apimachinery pkg/apis/meta/v1/types.go (StatusReason) and pkg/api/errors; the admission plugins' own words.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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
    Retry,
    Scope,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Unsupported,
    Vendor,
)

PROVIDER = "kubernetes"
TAKEN = "NOT_OWNED"
"""The reason of the Conflict of an apply of what another field manager, which here is another request, has made."""


@attrs.frozen(kw_only=True)
class Meaning:
    """The error of the tree that an answer becomes, and the remedy. ``words``: what the message must say for it."""

    error: type[CloudError]
    reason: str
    hint: str = ""
    scope: Scope = Scope.RESOURCE
    words: str = ""
    applied: Applied = Applied.NO


_LOGIN = "renew the credentials of the kubeconfig, or the token of the ServiceAccount"
_GRANT = "`anyscale-core operator manifest` prints the Role that is needed"
_ROOM = "delete what is no longer needed, or raise the ResourceQuota of the namespace"

_DENIED = Meaning(
    error=PermissionDenied, reason="ORG_POLICY", words=r"denied (the )?request",
    hint="let the admission webhook or policy that the message names allow it",
)  # fmt: skip

WORDS: Mapping[str, tuple[Meaning, ...]] = {
    "Forbidden": (
        Meaning(error=Unauthenticated, reason="MISSING", hint=_LOGIN, words=r'User "system:anonymous"'),
        Meaning(error=QuotaExceeded, reason="COUNT", hint=_ROOM, scope=Scope.ACCOUNT, words=r"exceeded quota:"),
        Meaning(
            error=InvalidRequest, reason="COMBINATION", words=r"failed quota:",
            hint="give the instance type the requests and limits that the ResourceQuota counts",
        ),
        Meaning(error=Transient, reason="PROPAGATION", words=r"status unknown for quota:"),
        Meaning(error=Conflict, reason="BEING_DELETED", words=r"because it is being terminated"),
        Meaning(
            error=Transient, reason="PROPAGATION", words=r"service ?account .*not found",
            hint="if it stays, make the ServiceAccount that the message names",
        ),
        Meaning(
            error=PermissionDenied, reason="ORG_POLICY", words=r"violates PodSecurity|denied (the )?request",
            hint="let the namespace's admission policy allow it; the setting run_as_user is for the standard 'restricted'",
        ),
        Meaning(
            error=InvalidRequest, reason="COMBINATION", words=r"(maximum|minimum) .* usage per|max limit to request ratio",
            hint="choose an instance type within the LimitRange of the namespace",
        ),
        Meaning(
            error=NotFound, reason="REFERENCE", words=r"no PriorityClass with name|RuntimeClass .*not found",
            hint="make it, or mend the patch or advanced_instance_config that names it",
        ),
    ),
    "Conflict": (
        Meaning(error=Conflict, reason="NOT_OWNED", words=r"^Apply failed with \d+ conflict"),
        Meaning(error=Conflict, reason="BUSY", words=r"on resourcequotas"),
        Meaning(error=Conflict, reason="BEING_DELETED", words=r"being deleted|being terminated"),
    ),
    "AlreadyExists": (Meaning(error=Conflict, reason="BEING_DELETED", words=r"object is being deleted"),),
    "InternalError": (
        Meaning(error=InvalidRequest, reason="FIELD", words=r"failed to create typed patch object"),
        Meaning(
            error=CapacityUnavailable, reason="SUBNET_ADDRESSES", words=r"range is full", scope=Scope.REGION,
            hint="widen the cluster's Service range",
        ),
    ),
    "BadRequest": (_DENIED,),
    "Invalid": (_DENIED,),
    "NotFound": (
        Meaning(
            error=NotFound, reason="REFERENCE", words=r"could not find the requested resource|^404 page not found",
            hint="install the API (its CustomResourceDefinitions) in the cluster",
        ),
        Meaning(error=NotFound, reason="PARENT", words=r'^namespaces? "', hint="make the namespace of the settings"),
    ),
}  # fmt: skip
"""Reasons that mean several things: the first whose words are in the message counts, before the table."""

TABLE: Mapping[str, Meaning] = {
    "NotFound": Meaning(error=NotFound, reason="RESOURCE"),
    "AlreadyExists": Meaning(error=AlreadyExists, reason="FOREIGN", hint="choose another name"),
    "Conflict": Meaning(error=Conflict, reason="ETAG"),
    "Invalid": Meaning(error=InvalidRequest, reason="FIELD"),
    "BadRequest": Meaning(error=InvalidRequest, reason="FIELD"),
    "RequestEntityTooLarge": Meaning(error=InvalidRequest, reason="FIELD", hint="ask for less in one batch"),
    "NotAcceptable": Meaning(error=InvalidRequest, reason="UNSUPPORTED_VALUE"),
    "UnsupportedMediaType": Meaning(error=InvalidRequest, reason="UNSUPPORTED_VALUE"),
    "Unauthorized": Meaning(error=Unauthenticated, reason="EXPIRED", hint=_LOGIN, scope=Scope.ACCOUNT),
    "Forbidden": Meaning(error=PermissionDenied, reason="POLICY", hint=_GRANT),
    "TooManyRequests": Meaning(error=Throttled, reason="RATE", scope=Scope.REGION),
    "ServerTimeout": Meaning(error=Transient, reason="SERVER", applied=Applied.UNKNOWN),
    "Timeout": Meaning(error=DeadlineExceeded, reason="OPERATION", applied=Applied.UNKNOWN),
    "InternalError": Meaning(error=Transient, reason="SERVER", applied=Applied.UNKNOWN),
    "ServiceUnavailable": Meaning(error=Transient, reason="SERVER", applied=Applied.UNKNOWN),
    "StoreReadError": Meaning(error=Transient, reason="SERVER"),
    "Expired": Meaning(error=Transient, reason="SERVER", hint="the list took too long; ask for it anew"),
    "Gone": Meaning(error=Transient, reason="SERVER", hint="the list took too long; ask for it anew"),
    "MethodNotAllowed": Meaning(error=Unsupported, reason="api"),
}
"""StatusReason -> what it means. What is not here becomes Unclassified."""

STATUSES: Mapping[int, str] = {
    401: "Unauthorized", 403: "Forbidden", 429: "TooManyRequests", 500: "InternalError", 502: "ServiceUnavailable",
    503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip
"""What a bare HTTP status means when no Status came along: something stands in front of the API server. A 404 of such a thing
proves no absence, so it is not here."""

OF_A_STATUS: Mapping[int, str] = {400: "BadRequest", 409: "Conflict", 422: "Invalid"}
"""What a Status without a reason means beside that."""

QUANTITY = re.compile(r"([0-9.]+)(m|[kMGTPE]i?)?")
SUFFIX = {"": 1.0, "m": 1e-3, **{f"{unit}i": 1024.0 ** (1 + place) for place, unit in enumerate("KMGTPE")}}
SUFFIX |= {unit: 1000.0 ** (1 + place) for place, unit in enumerate("kMGTPE")}


def quantity(text: str) -> float:
    """Return a Kubernetes quantity (``500m``, ``8Gi``) as a number. Raises ValueError for what is none."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(m|[kMGTPE]|[KMGTPE]i)?", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    return float(found[1]) * SUFFIX[found[2] or ""]


@attrs.frozen(kw_only=True)
class Refusal:
    """An answer that is no success, as it came off the wire."""

    status: int
    reason: str
    message: str
    details: Mapping[str, Any] = attrs.field(factory=dict)
    request_id: str = ""
    retry_after: str = ""


def read_refusal(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal:
    """Read an answer that is no success: a Status where there is one, else what the bare HTTP status tells."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "Status":
        text = body[:200].decode(errors="replace").strip()
        # Of an API group that nobody serves an API server says this and nothing more.
        no_api = "NotFound" if (status, text) == (404, "404 page not found") else ""
        found = {"reason": STATUSES.get(status, no_api), "message": text or f"HTTP {status} without a Status"}
    elif not found.get("reason"):  # a webhook may refuse without one
        found = {**found, "reason": OF_A_STATUS.get(status, "")}
    return Refusal(
        status=status,
        reason=str(found.get("reason") or STATUSES.get(status, f"HTTP{status}")),
        message=str(found.get("message") or ""),
        details=found.get("details") or {},
        request_id=headers.get("audit-id", ""),
        retry_after=headers.get("retry-after", ""),
    )


def translate(refusal: Refusal, *, clock: Clock, resource: str = "", is_write: bool = True) -> CloudError:
    """Return the error of the tree for a refusal; the vendor's reason, status and request id are kept."""
    vendor = Vendor(
        provider=PROVIDER, service="api", code=refusal.reason, http_status=refusal.status, request_id=refusal.request_id
    )
    fields: dict[str, Any] = {"vendor": vendor, "resource": resource}
    meaning = _meaning(refusal)
    if meaning is None:
        return Unclassified(refusal.message, reason=refusal.reason, applied=Applied.UNKNOWN, **fields)
    applied = meaning.applied if is_write else Applied.NO
    fields |= {"reason": meaning.reason, "scope": meaning.scope, "applied": applied}
    fields["hint"] = _grant(refusal.message) if meaning.hint is _GRANT else meaning.hint
    wait = retry_after(refusal.retry_after, clock.now(), seconds=refusal.details.get("retryAfterSeconds"))
    if wait is not None:
        fields["retry_after"] = wait
    if meaning.error is QuotaExceeded:
        return _quota(refusal.message, fields)
    if applied is Applied.UNKNOWN and meaning.error is Transient:
        fields["retry"] = Retry.WITH_TOKEN
    return meaning.error(refusal.message, **fields)


@contextmanager
def translated(*, resource: str = "", is_write: bool) -> Iterator[None]:
    """Let only errors of the tree out of a block that sends one request through the client's transport."""
    from anyscale_kubernetes.client import transport_errors

    unsent, unanswered, broken, unusable = transport_errors()
    unknown = Applied.UNKNOWN if is_write else Applied.NO
    vendor = Vendor(provider=PROVIDER, service="transport")

    def told(error: BaseException) -> str:
        return f"{type(error).__name__}: {error}"

    try:
        yield
    except unsent as error:
        raise Transient(told(error), reason="NETWORK", vendor=vendor, resource=resource) from error
    except unanswered as error:
        raise DeadlineExceeded(
            told(error), reason="REQUEST", applied=unknown, vendor=vendor, resource=resource
        ) from error
    except unusable as error:
        raise Unauthenticated(
            told(error), reason="MISSING", vendor=vendor, resource=resource,
            hint="mend the kubeconfig that the settings name, or run in the cluster with a ServiceAccount",
        ) from error  # fmt: skip
    except broken as error:
        raise Transient(
            told(error), reason="NETWORK", applied=unknown, retry=Retry.WITH_TOKEN, vendor=vendor, resource=resource
        ) from error


def retry_after(header: str, now: datetime, *, seconds: object = None) -> timedelta | None:
    """Return how long a server wants us to wait: by its header, in seconds or as a date, else by its body's ``seconds``."""
    text = header.strip()
    if text.isdigit():
        return timedelta(seconds=int(text))
    if text:
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(timedelta(), until.replace(tzinfo=until.tzinfo or UTC) - now)
    return timedelta(seconds=seconds) if isinstance(seconds, int) and seconds > 0 else None


def check_deadline(deadline: datetime, clock: Clock, *, applied: Applied = Applied.NO) -> float:
    """Return how many seconds are left. Raises DeadlineExceeded(REQUEST) when none are."""
    left = (deadline - clock.now()).total_seconds()
    if left <= 0:
        raise DeadlineExceeded("the deadline had passed before the request", reason="REQUEST", applied=applied)
    return left


def _meaning(refusal: Refusal) -> Meaning | None:
    causes = {str(cause.get("reason", "")) for cause in refusal.details.get("causes") or ()}
    if refusal.reason == "Forbidden" and "NamespaceTerminating" in causes:
        return Meaning(error=Conflict, reason="BEING_DELETED")
    for meaning in WORDS.get(refusal.reason, ()):
        if re.search(meaning.words, refusal.message):
            return meaning
    return TABLE.get(refusal.reason)


def _grant(message: str) -> str:
    """Return the remedy of a right that is missing; RBAC names the verb and the resource."""
    found = re.search(r'cannot (\w+) resource "([^"]+)"', message)
    return f"grant {found[1]} on {found[2]}: {_GRANT}" if found else _GRANT


def _quota(message: str, fields: dict[str, Any]) -> QuotaExceeded:
    """Return the error of a ResourceQuota, with the metric that ran out: ``requested: a=1, used: a=9, limited: a=9``."""
    parts: dict[str, dict[str, float]] = {}
    for word, amounts in re.findall(r"(requested|used|limited): ([^:]*?)(?=, \w+: |$)", message):
        pairs = (pair.partition("=") for pair in amounts.split(","))
        parts[word] = {key.strip(): quantity(value) for key, _, value in pairs if QUANTITY.match(value.strip())}
    requested, used, limited = (parts.get(word, {}) for word in ("requested", "used", "limited"))
    over = [key for key in limited if used.get(key, 0) + requested.get(key, 0) > limited[key]] or list(limited)
    metric = over[0] if over else ""
    if "cpu" in metric:
        fields["reason"] = "CORES"
    return QuotaExceeded(message, metric=metric, limit=limited.get(metric), used=used.get(metric), **fields)
