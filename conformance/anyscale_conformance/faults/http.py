"""What the carriers below the SDKs share: the plan is asked once per request on the wire, and effects are the transport's own.

A carrier of this kind stands below the SDK's retries, so each attempt of the SDK is a request of its own to the plan: it is
counted, and a fault at position 2 strikes the second attempt. What it shows is what the vendor would have sent.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta
from email.utils import format_datetime
from typing import Generic, TypeVar

import attrs

from anyscale_conformance.faults.plan import PAGES, Crashed, Effect, Fault, FaultPlan, RetryAfter
from anyscale_core.clock import Clock
from anyscale_core.drivers.base import Driver
from anyscale_core.errors import Transient

D = TypeVar("D", bound=Driver)
R = TypeVar("R")
Code = tuple[int, str]
"""A vendor's error: the HTTP status, and the code or reason in the body."""
Codes = Mapping[str, Code]
"""By ``service:Category(REASON)``, ``service:Category``, ``Category(REASON)`` or ``Category``; the first that there is counts."""

UNKNOWN_CODE = "ConformanceUnknownCode"
"""A code that no vendor has, for Unclassified."""


class NoAnswer(BaseException):
    """The vendor has no answer that means this category. Not an Exception: no driver may catch it, and the row is an ERROR."""


@attrs.frozen(kw_only=True)
class WireRequest:
    """One request on the wire. ``service``: which of the vendor's services it is for, where its errors depend on that."""

    action: str
    is_write: bool
    service: str = ""
    names: tuple[str, ...] = ()
    token: str = ""
    timeout_s: float | None = None


@attrs.frozen(kw_only=True)
class Answer:
    """What the vendor would send: to be rendered in its own body and headers."""

    status: int
    code: str
    message: str
    retry_after: str = ""
    """The header's value: seconds, or a date."""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that every vendor writes alike."""
        return {"retry-after": self.retry_after} if self.retry_after else {}


class HttpCarrier(ABC, Generic[R]):
    """Base of the carriers below an SDK. ``R`` is the transport's own kind of response.

    ``codes`` are the vendor's answers where a check wants others than the table's. Raises NoAnswer, when a fault strikes, for a
    category that the vendor has no answer for.
    """

    is_on_wire = True
    shows_timeouts = True
    effects = frozenset(Effect) - frozenset(PAGES)
    CODES: Codes
    MESSAGES: Mapping[str, str] = {}
    """What the vendor says with a code, where the text is what tells its meanings apart; keys as in ``Codes``."""
    unanswerable: frozenset[str] = frozenset()
    """Categories that no answer of this vendor means: they come by another way than an error, and cannot be injected."""

    def __init__(self, clock: Clock, *, codes: Codes | None = None) -> None:
        self.plan = FaultPlan()
        self._clock = clock
        self._codes: Codes = {**self.CODES, **(codes or {})}

    def wrap(self, driver: D) -> D:
        """Return the driver as it is: the faults strike below it."""
        return driver

    @abstractmethod
    def answered(self, request: WireRequest, answer: Answer, /) -> R:
        """Return the response that the transport would have received."""

    @abstractmethod
    def unsent(self, request: WireRequest, /) -> BaseException:
        """Return the transport's error for a request that could not be sent."""

    @abstractmethod
    def unanswered(self, request: WireRequest, /) -> BaseException:
        """Return the transport's error for a request that was sent and not answered in time."""

    @abstractmethod
    def broken(self, request: WireRequest, /) -> BaseException:
        """Return the transport's error for a connection that broke after the request was sent."""

    def carry(self, request: WireRequest, send: Callable[[], R]) -> R:
        """Carry one request out as the plan says."""
        fault = self.meet(request)
        if fault is None:
            return send()
        if fault.effect.is_before:
            return self.before(request, fault)
        self.delayed(fault)
        response = send()
        if fault.effect is Effect.DELAY:
            return response
        if fault.effect in PAGES:
            return self.spoilt(response, fault)
        self.drop(response)
        return self.after(request, fault)

    def spoilt(self, response: R, fault: Fault, /) -> R:
        """Return a page of a list as a fault spoils it, and what is no list as it is; for carriers that have these effects."""
        raise NotImplementedError(f"{type(self).__name__} cannot spoil {response!r} by {fault}")

    def drop(self, response: R, /) -> None:
        """Give back what a response holds that nobody will see. By default it holds nothing."""

    def meet(self, request: WireRequest) -> Fault | None:
        """Journal a request and return the fault that strikes it."""
        return self.plan.meet(
            request.action,
            is_write=request.is_write,
            names=request.names,
            token=request.token,
            timeout_s=request.timeout_s,
        )

    def before(self, request: WireRequest, fault: Fault) -> R:
        """Do what a fault does instead of the request."""
        if fault.effect is Effect.CRASH_BEFORE:
            raise Crashed(str(fault))
        if fault.effect is Effect.LOSE_BEFORE:
            raise self.unsent(request)
        if fault.effect is Effect.THROTTLE:
            return self.answered(request, self._answer(request, "Throttled", "", self._retry_after(fault)))
        if fault.effect is Effect.EXPIRE_PAGE:
            return self.answered(request, self._answer(request, "InvalidRequest", ""))
        return self.answered(
            request, self._answer(request, fault.category.category, fault.reason, self._retry_after(fault))
        )

    def delayed(self, fault: Fault) -> None:
        """Let the time of a DELAY pass, and what is to happen meanwhile."""
        if fault.effect is not Effect.DELAY:
            return
        self._clock.sleep(fault.delay)
        if fault.hook is not None:
            fault.hook()

    def after(self, request: WireRequest, fault: Fault) -> R:
        """Do what a fault does once the request has been carried out."""
        if fault.effect is Effect.CRASH_AFTER:
            self.plan.die()
            raise Crashed(str(fault))
        if fault.effect is Effect.LOSE_AFTER:
            raise self.unanswered(request)
        if fault.effect is Effect.RESET_AFTER:
            raise self.broken(request)
        return self.answered(request, self._answer(request, Transient.category, "SERVER"))

    def _retry_after(self, fault: Fault) -> str:
        """Return the header's value, rounded up: it is a lower bound."""
        if fault.retry_after is None:
            return ""
        if fault.retry_after_as is RetryAfter.SECONDS:
            return str(math.ceil(fault.retry_after.total_seconds()))
        # A date has no fractions, and who reads it has lost some of them on the way.
        until = self._clock.now() + fault.retry_after + timedelta(seconds=2)
        return format_datetime(until.astimezone(UTC).replace(microsecond=0), usegmt=True)

    def _answer(self, request: WireRequest, category: str, reason: str, retry_after: str = "") -> Answer:
        keys = (
            f"{request.service}:{category}({reason})",
            f"{request.service}:{category}",
            f"{category}({reason})",
            category,
        )
        found = next((key for key in keys if key in self._codes), None)
        if found is None:
            raise NoAnswer(f"{type(self).__name__} has no answer for {keys[2]} of {request.action}; give one in codes=")
        status, code = self._codes[found]
        message = self.MESSAGES.get(found, f"{request.action} was refused by the conformance suite")
        return Answer(status=status, code=code, message=message, retry_after=retry_after)
