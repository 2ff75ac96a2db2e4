"""Where faults strike. A carrier on the wire sits below the driver; the driver carrier sits on top of it, for any driver."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from anyscale_conformance.faults.plan import PAGES, Crashed, Effect, Fault, FaultPlan
from anyscale_core.drivers.base import Driver
from anyscale_core.drivers.layers import OFFLINE, WRITES, Call, Next, layered
from anyscale_core.errors import (
    Applied,
    CloudError,
    DeadlineExceeded,
    InvalidRequest,
    Retry,
    Throttled,
    Transient,
    Vendor,
)

D = TypeVar("D", bound=Driver)
R = TypeVar("R")
REQUEST_ID = "req-conformance"
"""The request id in every answer that a carrier makes up."""
Wait = Callable[[timedelta], object]


class Carrier(Protocol):
    """What makes the faults of a plan happen. ``effects``: those that it can.

    ``is_on_wire``: whether it sits below the driver; then the plan's journal is the truth about every request, and a crash can
    come between two writes of one call. ``shows_timeouts``: whether it tells how long each request may take.
    """

    plan: FaultPlan
    effects: frozenset[Effect]
    is_on_wire: bool
    shows_timeouts: bool

    def wrap(self, driver: D) -> D:
        """Return the driver as the suite is to call it."""
        ...


class DriverCarrier:
    """Strikes calls of a driver, whatever is below: the carrier of kits that have none on the wire."""

    is_on_wire = False
    shows_timeouts = False
    effects = frozenset(Effect) - frozenset(PAGES)

    def __init__(self, wait: Wait) -> None:
        self.plan = FaultPlan()
        self._wait = wait

    def wrap(self, driver: D) -> D:
        """Return the driver behind the faults."""
        return layered(driver, self._strike)

    def _strike(self, call: Call, next: Next, /) -> Any:
        def act() -> Any:
            return next(call)

        return carry(self.plan, call.action, act, is_write=call.is_write, wait=self._wait, provider=call.provider)


def carry(
    plan: FaultPlan,
    action: str,
    act: Callable[[], R],
    *,
    is_write: bool,
    wait: Wait,
    provider: str,
    names: tuple[str, ...] = (),
    token: str = "",
    timeout_s: float | None = None,
    tamper: Callable[[Fault, R], R] | None = None,
) -> R:
    """Carry one request out as the plan says, with errors of the tree: for wires that speak it, and for calls of drivers."""
    fault = plan.meet(action, is_write=is_write, names=names, token=token, timeout_s=timeout_s)
    if fault is None:
        return act()
    if fault.effect is Effect.CRASH_BEFORE:
        raise Crashed(str(fault))
    if fault.effect is Effect.DELAY:
        wait(fault.delay)
        if fault.hook is not None:
            fault.hook()
    if fault.effect.is_before:
        raise cloud_error(fault, action, provider)
    result = act()
    if fault.effect is Effect.CRASH_AFTER:
        plan.die()
        raise Crashed(str(fault))
    if fault.effect is Effect.DELAY:
        return result
    if fault.effect in PAGES and tamper is not None:
        return tamper(fault, result)
    raise cloud_error(fault, action, provider)


def cloud_error(fault: Fault, action: str, provider: str) -> CloudError:
    """Return the error of the tree that a fault shows as."""

    def vendor(code: str, status: int | None = None) -> Vendor:
        return Vendor(provider=provider, service=action, code=code, http_status=status, request_id=REQUEST_ID)

    match fault.effect:
        case Effect.THROTTLE:
            return Throttled(
                "too many requests", reason="RATE", retry_after=fault.retry_after, vendor=vendor("TooManyRequests", 429)
            )
        case Effect.LOSE_BEFORE | Effect.LOSE_AFTER:
            return DeadlineExceeded(f"no answer to {action}", reason="REQUEST", applied=Applied.UNKNOWN)
        case Effect.RESET_AFTER:
            return Transient(
                f"the connection broke during {action}",
                reason="NETWORK",
                applied=Applied.UNKNOWN,
                retry=Retry.WITH_TOKEN,
            )
        case Effect.FAIL_AFTER:
            return Transient(
                f"a server error during {action}", reason="SERVER", applied=Applied.UNKNOWN, retry=Retry.WITH_TOKEN,
                vendor=vendor("InternalError", 500),
            )  # fmt: skip
    if fault.effect is Effect.EXPIRE_PAGE:
        return InvalidRequest("the page token has expired", reason="FIELD", vendor=vendor("ExpiredPageToken", 400))
    code = f"Injected{fault.category.category}"
    message = f"{action} was refused by the conformance suite"
    return fault.category(message, reason=fault.reason, vendor=vendor(code, 400))


__all__ = ["OFFLINE", "WRITES", "Carrier", "DriverCarrier", "carry", "cloud_error"]
