"""What the operating system's errors mean to a caller: one table, and the one place that reads it."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import attrs

from anyscale_core.clock import Clock
from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Scope,
    SpecError,
    Transient,
    Unclassified,
    Vendor,
)


@attrs.frozen(kw_only=True)
class Meaning:
    """The error of the tree that an errno becomes, and the remedy."""

    error: type[CloudError]
    reason: str
    hint: str = ""
    scope: Scope = Scope.RESOURCE


_FULL = "free some of it, or delete instances and buckets that are no longer needed"
_PORTS = "delete instances, or widen the range in /proc/sys/net/ipv4/ip_local_port_range"

TRANSLATE: Mapping[int, Meaning] = {
    errno.ENOENT: Meaning(error=NotFound, reason="RESOURCE"),
    errno.EEXIST: Meaning(error=AlreadyExists, reason="FOREIGN"),
    errno.EACCES: Meaning(error=PermissionDenied, reason="POLICY", hint="let this user read and write the path"),
    errno.EPERM: Meaning(error=PermissionDenied, reason="POLICY", hint="let this user do it, or run as its owner"),
    errno.EROFS: Meaning(error=PermissionDenied, reason="LOCK", hint="put the plane's home on a writable file system"),
    errno.ENOSPC: Meaning(
        error=CapacityUnavailable, reason="ZONE", hint=f"the disk is full: {_FULL}", scope=Scope.ZONE
    ),
    errno.ENOMEM: Meaning(error=CapacityUnavailable, reason="ZONE", hint=f"memory is full: {_FULL}", scope=Scope.ZONE),
    errno.EADDRINUSE: Meaning(error=CapacityUnavailable, reason="SUBNET_ADDRESSES", hint=_PORTS, scope=Scope.ZONE),
    errno.EADDRNOTAVAIL: Meaning(error=CapacityUnavailable, reason="SUBNET_ADDRESSES", hint=_PORTS, scope=Scope.ZONE),
    errno.EDQUOT: Meaning(
        error=QuotaExceeded, reason="COUNT", hint="raise this user's disk quota", scope=Scope.ACCOUNT
    ),
    errno.EMFILE: Meaning(error=QuotaExceeded, reason="COUNT", hint="raise `ulimit -n`", scope=Scope.ACCOUNT),
    errno.ENFILE: Meaning(error=QuotaExceeded, reason="COUNT", hint="raise fs.file-max", scope=Scope.ACCOUNT),
    errno.EBUSY: Meaning(error=Conflict, reason="BUSY"),
    errno.ENOTEMPTY: Meaning(error=Conflict, reason="NOT_EMPTY", hint="delete what is in it first"),
    errno.EAGAIN: Meaning(error=Transient, reason="SERVER", hint="if it stays, raise `ulimit -u`"),
    errno.EINTR: Meaning(error=Transient, reason="SERVER"),
    errno.ETIMEDOUT: Meaning(error=DeadlineExceeded, reason="OPERATION"),
}
"""errno -> what it means. What is not here becomes Unclassified."""


def translate(error: OSError, *, resource: str = "", applied: Applied = Applied.UNKNOWN) -> CloudError:
    """Return the error of the tree for an OSError; the errno and its text are kept."""
    number = error.errno or 0
    code = errno.errorcode.get(number, str(number))
    message = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    vendor = Vendor(provider="local", service="os", code=code)
    meaning = TRANSLATE.get(number)
    if meaning is None:
        return Unclassified(message, reason=code, vendor=vendor, resource=resource, applied=applied)
    return meaning.error(
        message,
        reason=meaning.reason,
        hint=meaning.hint,
        scope=meaning.scope,
        vendor=vendor,
        resource=resource,
        applied=applied,
    )


@contextmanager
def translated(*, resource: str = "", applied: Applied = Applied.UNKNOWN) -> Iterator[None]:
    """Let only errors of the tree out of the block."""
    try:
        yield
    except OSError as error:
        raise translate(error, resource=resource, applied=applied) from error
    except (SpecError, UnicodeError) as error:  # a record on disk that somebody else has written over
        hint = "mend or remove the record that the message names"
        raise Unclassified(f"the state folder is damaged: {error}", reason="STATE", hint=hint) from error


def check_deadline(deadline: datetime, clock: Clock) -> None:
    """Raise DeadlineExceeded(REQUEST) when a call comes too late to be begun."""
    if clock.now() >= deadline:
        raise DeadlineExceeded("the deadline had passed before the call began", reason="REQUEST", applied=Applied.NO)
