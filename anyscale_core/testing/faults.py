"""The wire of the fake cloud: a journal of every call, and rules that make calls fail before or after they are carried out."""

import copy
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

import attrs

from anyscale_core.clock import Clock
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.layers import verbs_of
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import (
    Applied,
    CloudError,
    DeadlineExceeded,
    PermissionDenied,
    Throttled,
    Vendor,
)
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner

R = TypeVar("R")

OFFLINE = frozenset({"permissions", "objects", "close"})
"""Driver methods that make no call."""

ACTIONS = frozenset(
    f"{driver.slot}.{verb}"
    for driver in (ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver)
    for verb in verbs_of(driver) - OFFLINE
)
"""Every wire action there is: ``cluster.create``, ``storage.grant``, ..."""

ANY = "*"


@attrs.frozen(kw_only=True)
class WireCall:
    """One call as the wire saw it. ``outcome``: ``ok``, the category of the error, or ``crash:<exception>``."""

    position: int
    """From 0, over all calls of this cloud."""
    slot: str
    verb: str
    names: tuple[str, ...]
    """What it was about: names of specs, ids, a bucket."""
    token: Token | None
    owner: Owner | None
    at: datetime
    outcome: str
    applied: Applied
    deadline: datetime | None = None
    """When the caller wanted it to have ended."""

    @property
    def action(self) -> str:
        """``cluster.create``."""
        return f"{self.slot}.{self.verb}"


@attrs.define(kw_only=True, eq=False)
class FaultRule:
    """A fault that waits for its calls. ``fired`` counts how often it struck: a test whose fault never did proves nothing.

    ``verb``: ``cluster.create``, ``create`` (of any slot) or ``*``. ``skip``: matching calls to let through first.
    ``count``: how often it strikes; None for ever.
    """

    verb: str
    skip: int = 0
    count: int | None = 1
    fired: int = 0
    lifted: bool = False
    _error: Callable[[str], BaseException] | None = None
    _hook: Callable[[], object] | None = None

    def lift(self) -> None:
        """Take the fault away."""
        self.lifted = True

    @property
    def spent(self) -> bool:
        """Whether it will never strike again."""
        return self.lifted or (self.count is not None and self.fired >= self.count)

    def strikes(self, slot: str, verb: str) -> bool:
        """Tell whether it strikes this call, and count it."""
        if self.spent or self.verb not in (ANY, verb, f"{slot}.{verb}"):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.fired += 1
        return True

    def run(self, action: str) -> None:
        """Do what it is for: call the hook, raise the error."""
        if self._hook is not None:
            self._hook()
        if self._error is not None:
            raise self._error(action)


class Wire:
    """What every call to the fake cloud goes through."""

    def __init__(self, clock: Clock, lock: "threading.RLock") -> None:
        self.calls: list[WireCall] = []
        """The journal, in the order in which calls ended."""
        self._clock = clock
        self._lock = lock
        self._before: list[FaultRule] = []
        self._after: list[FaultRule] = []
        self._position = 0

    # Hands -----------------------------------------------------------------------------------------------------------

    def refuse(self, verb: str, error: BaseException, count: int | None = 1, *, skip: int = 0) -> FaultRule:
        """Fail the next ``count`` matching calls with ``error`` before anything is done. Any exception: also a vendor's own."""
        return self._arm(self._before, verb, skip, count, error=lambda _: copy.copy(error))

    def throttle(self, count: int | None = 1, retry_after: timedelta | None = None, verb: str = ANY) -> FaultRule:
        """Answer the next ``count`` matching calls with Throttled(RATE)."""

        def error(action: str) -> Throttled:
            vendor = Vendor(provider="fake", service=action, code="TooManyRequests", http_status=429)
            return Throttled("too many requests", reason="RATE", retry_after=retry_after, vendor=vendor)

        return self._arm(self._before, verb, 0, count, error=error)

    def forbid(self, verb: str) -> FaultRule:
        """Take the right to ``verb`` away until ``allow(verb)``: PermissionDenied(POLICY) that names it."""

        def error(action: str) -> PermissionDenied:
            vendor = Vendor(provider="fake", service=action, code="Forbidden", http_status=403)
            hint = f"grant fake:{action} to the control plane"
            return PermissionDenied(f"fake:{action} is forbidden", reason="POLICY", vendor=vendor, hint=hint)

        return self._arm(self._before, verb, 0, None, error=error)

    def allow(self, verb: str) -> None:
        """Give the right to ``verb`` back."""
        for rule in self._before:
            if rule.verb == verb and rule.count is None:
                rule.lift()

    def lose_response(self, verb: str, count: int | None = 1, *, nth: int = 1) -> FaultRule:
        """Carry the ``nth`` matching call (and ``count`` - 1 after it) out, then lose the answer: DeadlineExceeded(REQUEST)."""

        def error(action: str) -> DeadlineExceeded:
            return DeadlineExceeded(f"no answer to {action}", reason="REQUEST", applied=Applied.UNKNOWN)

        return self._arm(self._after, verb, nth - 1, count, error=error)

    def before(self, verb: str, hook: Callable[[], object], *, nth: int = 1, count: int | None = 1) -> FaultRule:
        """Call ``hook`` before the ``nth`` matching call is carried out; what it raises (a crash) passes through."""
        return self._arm(self._before, verb, nth - 1, count, hook=hook)

    def after(self, verb: str, hook: Callable[[], object], *, nth: int = 1, count: int | None = 1) -> FaultRule:
        """Call ``hook`` after the ``nth`` matching call was carried out, before its answer is seen."""
        return self._arm(self._after, verb, nth - 1, count, hook=hook)

    def unfired(self) -> tuple[FaultRule, ...]:
        """Return the rules that never struck: a test ends by asserting that there are none."""
        return tuple(rule for rule in self._rules() if rule.fired == 0 and not rule.lifted)

    # The way of a call -----------------------------------------------------------------------------------------------

    def carry(
        self,
        slot: str,
        verb: str,
        act: Callable[[], R],
        *,
        names: tuple[str, ...] = (),
        token: Token | None = None,
        owner: Owner | None = None,
        deadline: datetime | None = None,
    ) -> R:
        """Carry one call out: faults before, the act itself under the lock, faults after; each ends in the journal."""
        at, applied, outcome = self._clock.now(), Applied.NO, "ok"
        with self._lock:
            position = self._position
            self._position += 1
        try:
            self._strike(self._before, slot, verb)
            with self._lock:
                result = act()
            applied = Applied.YES
            self._strike(self._after, slot, verb)
            return result
        except CloudError as error:
            outcome = error.category
            raise
        except BaseException as error:
            outcome = f"crash:{type(error).__name__}"
            raise
        finally:
            call = WireCall(
                position=position, slot=slot, verb=verb, names=names, token=token, owner=owner,
                at=at, outcome=outcome, applied=applied, deadline=deadline,
            )  # fmt: skip
            with self._lock:
                self.calls.append(call)

    def _strike(self, rules: list[FaultRule], slot: str, verb: str) -> None:
        with self._lock:
            struck = next((rule for rule in rules if rule.strikes(slot, verb)), None)
        # Outside the lock: a hook may use the cloud, or wait for another thread that does.
        if struck is not None:
            struck.run(f"{slot}.{verb}")

    def _arm(
        self,
        rules: list[FaultRule],
        verb: str,
        skip: int,
        count: int | None,
        *,
        error: Callable[[str], BaseException] | None = None,
        hook: Callable[[], object] | None = None,
    ) -> FaultRule:
        if verb != ANY and not any(verb in (action, action.partition(".")[2]) for action in ACTIONS):
            raise ValueError(f"no call is named {verb!r}; there are {', '.join(sorted(ACTIONS))}")
        rule = FaultRule(verb=verb, skip=skip, count=count, error=error, hook=hook)
        with self._lock:
            rules.append(rule)
        return rule

    def _rules(self) -> Iterator[FaultRule]:
        with self._lock:
            yield from (*self._before, *self._after)
