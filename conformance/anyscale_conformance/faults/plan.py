"""The grammar of faults, and the plan that decides which request one strikes. It does nothing itself: a carrier does.

A carrier stands where requests pass. It asks ``plan.meet(...)`` at each, once, and makes happen what the fault says: before the
request is carried out (``effect.is_before``) or after it.
"""

import enum
import threading
from collections.abc import Callable
from datetime import timedelta

import attrs

from anyscale_core.errors import CloudError, Transient

ANY = "*"


class Effect(enum.Enum):
    """What happens to a request."""

    REFUSE = "refuse"
    """It is answered with the error ``category`` (and ``reason``) and not carried out."""
    THROTTLE = "throttle"
    """It is answered with "too many requests", with ``retry_after`` when that is given, and not carried out."""
    LOSE_BEFORE = "lose_before"
    """It never arrives: no answer until the deadline."""
    DELAY = "delay"
    """It is carried out after ``delay``."""
    LOSE_AFTER = "lose_after"
    """It is carried out and the answer is lost: a timeout."""
    RESET_AFTER = "reset_after"
    """It is carried out and the connection breaks before the answer."""
    FAIL_AFTER = "fail_after"
    """It is carried out and answered with a server error."""
    REPEAT_PAGE = "repeat_page"
    """A page of a list names itself as the next one, for ever."""
    EXPIRE_PAGE = "expire_page"
    """The page token is not known any more."""
    EMPTY_PAGE = "empty_page"
    """A page of a list is empty, and there are more after it."""
    CRASH_BEFORE = "crash_before"
    """Our own process dies just before it."""
    CRASH_AFTER = "crash_after"
    """Our own process dies just after it was carried out."""

    @property
    def is_before(self) -> bool:
        """Whether the request is not carried out."""
        return self in (Effect.REFUSE, Effect.THROTTLE, Effect.LOSE_BEFORE, Effect.CRASH_BEFORE, Effect.EXPIRE_PAGE)

    @property
    def is_crash(self) -> bool:
        """Whether our own process dies of it."""
        return self in (Effect.CRASH_BEFORE, Effect.CRASH_AFTER)


PAGES = (Effect.REPEAT_PAGE, Effect.EXPIRE_PAGE, Effect.EMPTY_PAGE)
"""What befalls a page of a list; for carriers that see pages."""
AMBIGUOUS = (Effect.LOSE_AFTER, Effect.RESET_AFTER, Effect.FAIL_AFTER)
"""The request was carried out, and who made it cannot know."""


class Reach(enum.Enum):
    """Which requests a fault waits for."""

    WRITES = "writes"
    READS = "reads"
    ALL = "all"


class RetryAfter(enum.Enum):
    """How a Retry-After is written, where HTTP is spoken (RFC 9110, 10.2.3)."""

    SECONDS = "seconds"
    DATE = "date"


class Crashed(BaseException):
    """Stands for the death of the process that made the request. Not an Exception: no driver may catch it."""


@attrs.define(kw_only=True, eq=False)
class Fault:
    """One fault. It strikes the ``at``-th request (from 1) that matches, and ``count`` - 1 after it; None for ever.

    ``action``: ``cluster.create``, or whatever the carrier calls its requests; ``*`` for any. ``fired`` counts: a check whose
    fault never struck proves nothing, and ends as ERROR.
    """

    effect: Effect
    action: str = ANY
    reach: Reach = Reach.WRITES
    at: int = 1
    count: int | None = 1
    category: type[CloudError] = Transient
    reason: str = ""
    retry_after: timedelta | None = None
    retry_after_as: RetryAfter = RetryAfter.SECONDS
    delay: timedelta = timedelta()
    seen: int = 0
    fired: int = 0
    lifted: bool = False
    hook: Callable[[], object] | None = None
    """What else happens when a DELAY strikes, before the request is carried out."""
    may_miss: bool = False
    """Whether it is all right that it never strikes."""

    def lift(self) -> None:
        """Take it away."""
        self.lifted = True

    def strikes(self, action: str, *, is_write: bool) -> bool:
        """Tell whether it strikes this request, and count."""
        wrong_kind = self.reach is not Reach.ALL and (self.reach is Reach.WRITES) != is_write
        if self.lifted or wrong_kind or self.action not in (ANY, action):
            return False
        self.seen += 1
        if self.seen < self.at or (self.count is not None and self.seen >= self.at + self.count):
            return False
        self.fired += 1
        return True

    def __str__(self) -> str:
        count = "" if self.count == 1 else " and all after" if self.count is None else f" and {self.count - 1} after"
        return f"{self.effect.value} at {self.reach.value} {self.action} number {self.at}{count}"


@attrs.frozen(kw_only=True)
class Request:
    """One request as the carrier saw it."""

    action: str
    is_write: bool
    names: tuple[str, ...] = ()
    token: str = ""
    timeout_s: float | None = None


class FaultPlan:
    """The faults that wait, and the journal of all requests that passed. Safe to use from many threads."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.armed: list[Fault] = []
        self._is_dead = False
        self._lock = threading.Lock()

    def arm(self, fault: Fault) -> Fault:
        """Let a fault wait for its request."""
        with self._lock:
            self.armed.append(fault)
        return fault

    def clear(self) -> None:
        """Lift every fault; what they fired stays counted."""
        with self._lock:
            self._is_dead = False
            for fault in self.armed:
                fault.lift()

    def reads(self) -> tuple[Request, ...]:
        """Return the requests so far that change nothing, in order."""
        with self._lock:
            return tuple(request for request in self.requests if not request.is_write)

    def resume(self) -> None:
        """Let a new process begin after a crash."""
        with self._lock:
            self._is_dead = False

    def writes(self) -> tuple[Request, ...]:
        """Return the requests so far that would change something, in order."""
        with self._lock:
            return tuple(request for request in self.requests if request.is_write)

    def meet(
        self,
        action: str,
        *,
        is_write: bool,
        names: tuple[str, ...] = (),
        token: str = "",
        timeout_s: float | None = None,
    ) -> Fault | None:
        """Journal a request and return the fault that strikes it, if any. Raises Crashed while the process is dead."""
        with self._lock:
            if self._is_dead:
                # The dead make no requests: clean-up code that runs while the exception passes must not reach the cloud.
                raise Crashed(f"the process died before this {action}")
            request = Request(action=action, is_write=is_write, names=names, token=token, timeout_s=timeout_s)
            self.requests.append(request)
            struck = [fault for fault in self.armed if fault.strikes(action, is_write=is_write)]
            fault = struck[0] if struck else None
            if fault is not None and fault.effect is Effect.CRASH_BEFORE:
                self._is_dead = True
            return fault

    def die(self) -> None:
        """Let the process be dead from now on; a carrier calls it after it carried out a CRASH_AFTER."""
        with self._lock:
            self._is_dead = True
