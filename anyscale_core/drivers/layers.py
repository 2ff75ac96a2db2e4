"""Layers that wrap any driver: deadline, retry, rate limit, trace, record. ``layered(driver, *layers)`` puts them on.

A layer is called with a ``Call`` and the ``next`` of the chain. The first one given is the outermost. The order that
``standard`` gives: the deadline bounds all attempts together; each attempt passes the rate limit, is traced and recorded.
"""

import contextlib
import functools
import importlib
import logging
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import attrs

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import Driver
from anyscale_core.errors import (
    Applied,
    CloudError,
    Conflict,
    DeadlineExceeded,
    Retry,
    Throttled,
    Transient,
    Unclassified,
)
from anyscale_core.models.ids import Token

logger = logging.getLogger(__name__)

D = TypeVar("D", bound=Driver)

OFFLINE = frozenset({"permissions", "objects"})
"""Methods that make no call: they go straight through."""

WRITES = frozenset({"create", "delete", "delete_volume", "grant", "revoke", "expose", "withdraw"})
"""Verbs that change something in the cloud; all others may be repeated freely."""


@attrs.frozen(kw_only=True)
class Call:
    """One call on its way to a driver. What it carries is kept out of its repr: there may be secrets in it."""

    provider: str
    slot: str
    verb: str
    cloud: str = ""
    args: tuple[Any, ...] = attrs.field(default=(), repr=False)
    kwargs: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    attempt: int = 1

    @property
    def action(self) -> str:
        """``cluster.create``."""
        return f"{self.slot}.{self.verb}"

    @property
    def deadline(self) -> datetime | None:
        """When it must have ended."""
        return self.kwargs.get("deadline")

    @property
    def token(self) -> Token | None:
        """The idempotency token that it carries."""
        return self.kwargs.get("token")

    @property
    def is_write(self) -> bool:
        """Whether it changes something in the cloud."""
        return self.verb in WRITES


Next = Callable[[Call], Any]
Sleep = Callable[[timedelta], None]


class Layer(Protocol):
    """What stands between a caller and a driver."""

    def __call__(self, call: Call, next: Next, /) -> Any:
        """Return what ``next(call)`` returns, or raise a CloudError."""
        ...


def layered(driver: D, *layers: Layer, cloud: str = "") -> D:
    """Return ``driver`` behind these layers, as an instance of the same interface.

    Whatever the driver raises that is no CloudError (a plugin's bug) becomes Unclassified, with the original as its cause.
    ``cloud`` names the cloud in traces and is part of the scope of rate limits.
    """
    interface: Any = _interface(driver)
    proxy: D = _proxy_of(interface)(driver, layers, cloud)
    return proxy


def standard(clock: Clock, sleep: Sleep, *extra: Layer) -> tuple[Layer, ...]:
    """Return the layers of every driver of a control plane, outermost first; ``extra`` go innermost (a Record, say)."""
    return (DeadlineLayer(clock), RetryLayer(clock, sleep), RateLimit(clock, sleep), Trace(), *extra)


class DeadlineLayer:
    """Refuses calls whose deadline has passed, and shortens the others to their verb's ``budgets``.

    Raises DeadlineExceeded(applied=NO) without a call. A call that came back late is logged: its driver has a fault.
    """

    def __init__(self, clock: Clock, budgets: Mapping[str, timedelta] | None = None) -> None:
        self._clock = clock
        self._budgets = budgets or {}

    def __call__(self, call: Call, next: Next, /) -> Any:
        now, budget = self._clock.now(), self._budgets.get(call.verb)
        if budget is not None:
            deadline = now + budget if call.deadline is None else min(call.deadline, now + budget)
            call = attrs.evolve(call, kwargs={**call.kwargs, "deadline": deadline})
        if call.deadline is not None and now >= call.deadline:
            message = f"the deadline of {call.action} passed before it was made"
            raise DeadlineExceeded(message, reason="REQUEST", applied=Applied.NO, attempts=0)
        try:
            return next(call)
        finally:
            late = timedelta() if call.deadline is None else self._clock.now() - call.deadline
            if late > timedelta():
                seconds = late.total_seconds()
                logger.warning("%s of provider %r ended %.3f s after its deadline", call.action, call.provider, seconds)


class RetryLayer:
    """The only place that repeats a call.

    Reads are repeated after errors with Retry.SAME; writes only when they carry a token, then also after WITH_TOKEN.
    Waits grow (``first``, doubled each time, at most ``ceiling``; between a half and the whole of that), are never shorter
    than ``retry_after``, and end before the deadline: then the last error is raised, with ``attempts`` as counted on the wire.
    """

    REPEATABLE = (Throttled, Transient, Conflict, DeadlineExceeded)

    # Not stamina: it sleeps by the machine's clock, and tests of a control plane move the clock by hand.
    def __init__(
        self,
        clock: Clock,
        sleep: Sleep,
        *,
        attempts: int = 4,
        first: timedelta = timedelta(milliseconds=200),
        ceiling: timedelta = timedelta(seconds=10),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._attempts, self._first, self._ceiling, self._chance = attempts, first, ceiling, chance

    def __call__(self, call: Call, next: Next, /) -> Any:
        on_wire = 0
        while True:
            try:
                return next(call)
            except CloudError as error:
                on_wire += error.attempts
                error.attempts = on_wire
                wait = self._wait(call, error)
                if wait is None:
                    raise
            self._sleep(wait)
            call = attrs.evolve(call, attempt=call.attempt + 1)

    def _wait(self, call: Call, error: CloudError) -> timedelta | None:
        """Return how long to wait before the next attempt; None when there is to be none."""
        if call.attempt >= self._attempts or not self._may_repeat(call, error):
            return None
        backoff = min(self._ceiling, self._first * 2 ** (call.attempt - 1)) * (0.5 + self._chance() / 2)
        wait = max(backoff, error.retry_after or timedelta())
        is_too_late = call.deadline is not None and self._clock.now() + wait >= call.deadline
        return None if is_too_late else wait

    def _may_repeat(self, call: Call, error: CloudError) -> bool:
        if not isinstance(error, self.REPEATABLE):
            return False
        if not call.is_write:
            return error.retry is Retry.SAME
        return call.token is not None and error.retry in (Retry.SAME, Retry.WITH_TOKEN)


@attrs.define(kw_only=True)
class _Bucket:
    """The tokens of one scope. Below zero: as many calls have reserved theirs and sleep."""

    tokens: float
    counted_at: datetime
    closed_until: datetime


class RateLimit:
    """A token bucket per scope (provider, cloud, read or write): ``rate`` calls a second, ``burst`` at once.

    A call waits for its turn; when that would come after its deadline it raises Throttled(applied=NO) at once. When the cloud
    itself says Throttled with a ``retry_after``, that scope is closed until then; other scopes never notice.
    """

    def __init__(self, clock: Clock, sleep: Sleep, *, rate: float = 20.0, burst: int = 40) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate {rate} and burst {burst} would let nothing through")
        self._clock, self._sleep, self._rate, self._burst = clock, sleep, rate, burst
        self._buckets: dict[tuple[str, str, bool], _Bucket] = {}
        self._lock = threading.Lock()

    def __call__(self, call: Call, next: Next, /) -> Any:
        scope = (call.provider, call.cloud, call.is_write)
        wait = self._reserve(scope, call)
        while wait > timedelta():
            self._sleep(wait)
            # The gate may have been closed while this call slept.
            wait = self._closed_for(scope, call)
        try:
            return next(call)
        except Throttled as error:
            if error.retry_after is not None:
                self._close(scope, error.retry_after)
            raise

    def _reserve(self, scope: tuple[str, str, bool], call: Call) -> timedelta:
        now = self._clock.now()
        with self._lock:
            bucket = self._bucket(scope, now)
            gain = max(0.0, (now - bucket.counted_at).total_seconds()) * self._rate
            bucket.tokens, bucket.counted_at = min(float(self._burst), bucket.tokens + gain), now
            turn = timedelta(seconds=max(0.0, (1.0 - bucket.tokens) / self._rate))
            wait = max(turn, bucket.closed_until - now, timedelta())
            self._check(call, now, wait)
            bucket.tokens -= 1.0
            return wait

    def _closed_for(self, scope: tuple[str, str, bool], call: Call) -> timedelta:
        now = self._clock.now()
        with self._lock:
            wait = max(timedelta(), self._bucket(scope, now).closed_until - now)
        self._check(call, now, wait)
        return wait

    def _check(self, call: Call, now: datetime, wait: timedelta) -> None:
        if wait > timedelta() and call.deadline is not None and now + wait >= call.deadline:
            kind = "writes to" if call.is_write else "reads of"
            message = f"{kind} {call.provider} in cloud {call.cloud!r} are held back for {wait.total_seconds():.1f} s"
            raise Throttled(message, reason="RATE", applied=Applied.NO, retry_after=wait, attempts=0)

    def _close(self, scope: tuple[str, str, bool], duration: timedelta) -> None:
        now = self._clock.now()
        with self._lock:
            bucket = self._bucket(scope, now)
            bucket.closed_until = max(bucket.closed_until, now + duration)

    def _bucket(self, scope: tuple[str, str, bool], now: datetime) -> _Bucket:
        fresh = _Bucket(tokens=float(self._burst), counted_at=now, closed_until=now)
        return self._buckets.setdefault(scope, fresh)


class Trace:
    """One OpenTelemetry span per attempt: which call, of which provider and cloud, and how it came out; never its arguments.

    ``tracer``: one to use; without it OpenTelemetry's own, and without OpenTelemetry nothing.
    """

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer
        if tracer is None:
            with contextlib.suppress(ImportError):
                self._tracer = importlib.import_module("opentelemetry.trace").get_tracer("anyscale_core.drivers")

    def __call__(self, call: Call, next: Next, /) -> Any:
        if self._tracer is None:
            return next(call)
        attributes = {
            "anyscale_core.provider": call.provider,
            "anyscale_core.cloud": call.cloud,
            "anyscale_core.slot": call.slot,
            "anyscale_core.verb": call.verb,
            "anyscale_core.attempt": call.attempt,
        }
        # The exception itself is not put on the span: a cause may carry what a plugin was given.
        with self._tracer.start_as_current_span(
            call.action, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            outcome = "crash"
            try:
                result = next(call)
                outcome = "ok"
                return result
            except CloudError as error:
                outcome = error.category
                raise
            finally:
                span.set_attribute("anyscale_core.outcome", outcome)


@attrs.frozen(kw_only=True)
class WireAction:
    """One attempt as it was made. ``outcome``: ``ok``, ``error`` (then with its ``category``) or ``crash``."""

    name: str
    """``cluster.create``."""
    provider: str
    cloud: str
    at: datetime
    duration: timedelta
    token: Token | None
    attempt: int
    outcome: str
    category: str = ""


class Record:
    """Hands a WireAction to ``sink`` after each attempt."""

    def __init__(self, clock: Clock, sink: Callable[[WireAction], object]) -> None:
        self._clock, self._sink = clock, sink

    def __call__(self, call: Call, next: Next, /) -> Any:
        at, outcome, category = self._clock.now(), "crash", ""
        try:
            result = next(call)
            outcome = "ok"
            return result
        except CloudError as error:
            outcome, category = "error", error.category
            raise
        finally:
            self._sink(
                WireAction(
                    name=call.action,
                    provider=call.provider,
                    cloud=call.cloud,
                    at=at,
                    duration=self._clock.now() - at,
                    token=call.token,
                    attempt=call.attempt,
                    outcome=outcome,
                    category=category,
                )
            )


class _Proxy(Driver):
    """A driver behind layers; the methods of its interface are put on by ``_proxy_of``."""

    def __init__(self, driver: Driver, layers: tuple[Layer, ...], cloud: str) -> None:
        self.provider, self.slot = driver.provider, driver.slot
        self._driver, self._cloud = driver, cloud
        chain: Next = self._reach
        for layer in reversed(layers):
            chain = _link(layer, chain)
        self._chain = chain

    def close(self) -> None:
        """Close the driver behind the layers."""
        self._driver.close()

    def _through(self, verb: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if verb in OFFLINE:
            return getattr(self._driver, verb)(*args, **kwargs)
        return self._chain(
            Call(provider=self.provider, slot=self.slot, verb=verb, cloud=self._cloud, args=args, kwargs=kwargs)
        )

    def _reach(self, call: Call) -> Any:
        try:
            return getattr(self._driver, call.verb)(*call.args, **call.kwargs)
        except CloudError:
            raise
        except Exception as error:
            # Its text is not repeated: a vendor's exception may quote what it was given.
            raise Unclassified(
                f"{type(error).__name__} escaped from {call.action}",
                applied=Applied.UNKNOWN if call.is_write else Applied.NO,
                hint=f"this is a fault of the provider {call.provider!r}: report it to its author with the cause below",
            ) from error


def _link(layer: Layer, next: Next) -> Next:
    return lambda call: layer(call, next)


def verbs_of(interface: Any) -> frozenset[str]:
    """Return the methods of a driver interface: the open ones, and those with a body, which not every driver overrides."""
    optional = {name for name, value in vars(interface).items() if callable(value) and not name.startswith("_")}
    return frozenset(interface.__abstractmethods__ | optional)


def _interface(driver: Driver) -> type[Driver]:
    """Return the interface that a driver implements: the nearest of its classes that has methods left open."""
    for cls in type(driver).__mro__:
        if issubclass(cls, Driver) and getattr(cls, "__abstractmethods__", None):
            return cls
    raise TypeError(f"{type(driver).__name__} implements none of the driver interfaces")


@functools.cache
def _proxy_of(interface: Any) -> Any:
    """Return the proxy class of an interface."""
    methods = {verb: _method(getattr(interface, verb)) for verb in sorted(verbs_of(interface))}
    return type(f"Layered{interface.__name__}", (_Proxy, interface), methods)


def _method(open_method: Callable[..., Any]) -> Callable[..., Any]:
    verb = open_method.__name__

    @functools.wraps(open_method)
    def method(self: _Proxy, *args: Any, **kwargs: Any) -> Any:
        return self._through(verb, args, kwargs)

    # wraps() copies the mark of an open method along with everything else.
    method.__dict__.pop("__isabstractmethod__", None)
    return method
