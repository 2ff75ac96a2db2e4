"""The error tree. Each class is named for what its catcher does next.

Sources of the vendor codes behind each category: docs/errors.md. Expected progress ("still being deleted") is a
return value, never an exception.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import attrs


class Retry(enum.Enum):
    """What repeating the call would be worth."""

    NEVER = "never"
    SAME = "same"
    """Repeat as it is, after ``retry_after``."""
    WITH_TOKEN = "with_token"
    """Repeat only with the same idempotency token: it may have been applied."""
    AFTER_FIX = "after_fix"
    """Somebody has to change something first; see ``hint``."""
    ELSEWHERE = "elsewhere"
    """Another zone, type or market may have it."""


class Applied(enum.Enum):
    """Whether the cloud carried the call out."""

    NO = "not_applied"
    YES = "applied"
    UNKNOWN = "unknown"


class Scope(enum.Enum):
    """How far an error reaches: what shares its fate."""

    REQUEST = "request"
    RESOURCE = "resource"
    SUBNET = "subnet"
    ZONE = "zone"
    REGION = "region"
    ACCOUNT = "account"
    GLOBAL = "global"


@attrs.frozen(kw_only=True)
class Vendor:
    """What the cloud itself said, kept word for word for its support desk."""

    provider: str
    service: str = ""
    code: str = ""
    http_status: int | None = None
    request_id: str = ""


class CoreError(Exception):
    """Base of everything that this library raises on purpose."""


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that is wrong with an input: where (``worker_nodes[2].max_nodes``) and what.

    ``line``: of the file that it was read from, counted from 1; 0 when there is none.
    """

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = [f"line {self.line}" if self.line else "", self.path]
        return ": ".join(part for part in (*where, self.message) if part)


class SpecError(CoreError):
    """An input that cannot be accepted. Carries every fault that was found, not the first one."""

    def __init__(self, faults: Iterable[Fault], *, subject: str = "input") -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.subject = subject
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        count = len(self.faults)
        super().__init__(f"{subject} has {count} fault{'' if count == 1 else 's'}:\n{lines}")


class UnknownName(CoreError):
    """Something was asked for by a name that nobody knows here; the message lists the names there are."""


class NameTaken(CoreError):
    """The name belongs to something else that is alive."""


class PluginError(CoreError):
    """A provider plugin cannot be used. ``reason`` says why and what would mend it."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"provider {name!r} cannot be used: {reason}")


class Refused(CoreError):
    """A token, proof or credential was not accepted. ``why`` is one of the words of docs/errors.md."""

    def __init__(self, why: str, message: str) -> None:
        self.why = why
        super().__init__(message)


class LeaseLost(CoreError):
    """Another control plane has taken this piece of work over; what was decided here must not be written."""


class CloudError(CoreError):
    """Base of all that may leave a driver.

    ``reason`` is a word of the category's own list (docs/errors.md); ``applied`` tells whether the cloud carried the call
    out; ``retry_after`` is a lower bound; ``hint`` tells the reader the remedy; ``attempts`` counts calls on the wire.
    """

    category: ClassVar[str] = "CloudError"
    retry: Retry = Retry.NEVER

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        applied: Applied = Applied.NO,
        scope: Scope = Scope.REQUEST,
        retry: Retry | None = None,
        retry_after: timedelta | None = None,
        vendor: Vendor | None = None,
        resource: str = "",
        attempts: int = 1,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.applied = applied
        self.scope = scope
        self.retry = retry or type(self).retry
        self.retry_after = retry_after
        self.vendor = vendor
        self.resource = resource
        self.attempts = attempts
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.category}{f'({self.reason})' if self.reason else ''}: {self.message}"
        vendor = ""
        if self.vendor is not None:
            parts = (self.vendor.code, str(self.vendor.http_status or ""), self.vendor.request_id)
            vendor = f" [{' '.join(part for part in (self.vendor.provider, *parts) if part)}]"
        return f"{head}{vendor}{f' Remedy: {self.hint}' if self.hint else ''}"

    def record(self) -> dict[str, Any]:
        """Return the error as plain values for a store, an event or a response; no secret is in any of them."""
        return {
            "category": self.category,
            "reason": self.reason,
            "message": self.message,
            "applied": self.applied.value,
            "scope": self.scope.value,
            "retry": self.retry.value,
            "retry_after_s": None if self.retry_after is None else self.retry_after.total_seconds(),
            "vendor": None if self.vendor is None else attrs.asdict(self.vendor),
            "resource": self.resource,
            "attempts": self.attempts,
            "hint": self.hint,
        }


class InvalidRequest(CloudError):
    """The spec or an argument can never work. Reasons: FIELD, COMBINATION, NAME, UNSUPPORTED_VALUE."""

    category = "InvalidRequest"
    retry = Retry.AFTER_FIX


class Unauthenticated(CloudError):
    """Identity unproven or expired; refresh once. Reasons: EXPIRED, MISSING, CLOCK_SKEW, FORGED."""

    category = "Unauthenticated"
    retry = Retry.AFTER_FIX


class PermissionDenied(CloudError):
    """Identity known, action refused. Reasons: POLICY, BOUNDARY, ORG_POLICY, LOCK, BILLING_DISABLED."""

    category = "PermissionDenied"
    retry = Retry.AFTER_FIX


class NotFound(CloudError):
    """Proven absent in the right scope. Reasons: RESOURCE, PARENT, REFERENCE."""

    category = "NotFound"


class AlreadyExists(CloudError):
    """The name is taken by something that is not this request's result. Reasons: OWNED, FOREIGN."""

    category = "AlreadyExists"
    retry = Retry.AFTER_FIX


class Conflict(CloudError):
    """The state forbids it now.

    Reasons: BUSY, IN_USE, ETAG, TOKEN_MISMATCH, TOKEN_SPENT, BEING_DELETED, AMBIGUOUS, NOT_OWNED, NOT_EMPTY.
    BUSY, ETAG and BEING_DELETED pass by themselves, so they may be repeated; the others need a decision.
    """

    category = "Conflict"
    PASSING: ClassVar[frozenset[str]] = frozenset({"BUSY", "ETAG", "BEING_DELETED"})

    def __init__(self, message: str, **fields: Any) -> None:
        fields.setdefault("retry", Retry.WITH_TOKEN if fields.get("reason") in self.PASSING else Retry.NEVER)
        super().__init__(message, **fields)


class QuotaExceeded(CloudError):
    """A limit of the account. Reasons: CORES, FAMILY, ADDRESSES, COUNT, SPOT."""

    category = "QuotaExceeded"
    retry = Retry.ELSEWHERE

    def __init__(
        self, message: str, *, metric: str = "", limit: float | None = None, used: float | None = None, **fields: Any
    ) -> None:
        super().__init__(message, **fields)
        self.metric, self.limit, self.used = metric, limit, used

    def record(self) -> dict[str, Any]:
        return super().record() | {"metric": self.metric, "limit": self.limit, "used": self.used}


class CapacityUnavailable(CloudError):
    """The cloud has none now. Reasons: ZONE, REGION, SKU, SUBNET_ADDRESSES, RESERVATION, PREEMPTED."""

    category = "CapacityUnavailable"
    retry = Retry.ELSEWHERE


class Throttled(CloudError):
    """Too many requests. Reasons: RATE, CONCURRENT_OPS."""

    category = "Throttled"
    retry = Retry.SAME


class Transient(CloudError):
    """A server or network fault that is likely to pass. Reasons: SERVER, NETWORK, PROPAGATION."""

    category = "Transient"
    retry = Retry.SAME


class DeadlineExceeded(CloudError):
    """Our own budget ended. Reasons: REQUEST, OPERATION. ``applied`` is UNKNOWN unless proven otherwise."""

    category = "DeadlineExceeded"
    retry = Retry.WITH_TOKEN

    def __init__(self, message: str, **fields: Any) -> None:
        fields.setdefault("applied", Applied.UNKNOWN)
        super().__init__(message, **fields)


class Unsupported(CloudError):
    """The provider does not offer this; ``reason`` is the capability's id."""

    category = "Unsupported"


class Unclassified(CloudError):
    """A vendor code that nobody has seen yet. Never repeated by itself; please report it."""

    category = "Unclassified"


CATEGORIES: Sequence[type[CloudError]] = (
    InvalidRequest, Unauthenticated, PermissionDenied, NotFound, AlreadyExists, Conflict, QuotaExceeded,
    CapacityUnavailable, Throttled, Transient, DeadlineExceeded, Unsupported, Unclassified,
)  # fmt: skip
"""Every category, in the order of docs/errors.md."""
_BY_CATEGORY = {category.category: category for category in CATEGORIES}


def told(error: CloudError | None) -> Mapping[str, Any] | None:
    """Return what an error tells, or None for none: values that hold errors are equal when these are."""
    return None if error is None else error.record()


def error_from(record: Mapping[str, Any]) -> CloudError:
    """Return the error that ``CloudError.record`` told of; a category that is not known here becomes Unclassified."""
    vendor, after = record.get("vendor"), record.get("retry_after_s")
    return _BY_CATEGORY.get(record.get("category", ""), Unclassified)(
        str(record.get("message", "")),
        reason=str(record.get("reason", "")),
        applied=Applied(record.get("applied", Applied.UNKNOWN.value)),
        scope=Scope(record.get("scope", Scope.REQUEST.value)),
        retry=Retry(record.get("retry", Retry.NEVER.value)),
        retry_after=None if after is None else timedelta(seconds=after),
        vendor=None if vendor is None else Vendor(**vendor),
        resource=str(record.get("resource", "")),
        attempts=int(record.get("attempts", 1)),
        hint=str(record.get("hint", "")),
        **{key: record[key] for key in ("metric", "limit", "used") if key in record},
    )
