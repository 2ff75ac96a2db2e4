"""Where time comes from. Everything that acts takes a Clock; everything that decides takes ``now``."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of aware UTC instants and of waiting."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        """Wait until ``event`` is set or ``timeout`` has passed; return whether the event is set."""
        ...

    def sleep(self, duration: timedelta) -> None:
        """Let ``duration`` pass; the retry and rate-limit layers alone do this."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        return event.wait(timeout.total_seconds())

    def sleep(self, duration: timedelta) -> None:
        time.sleep(max(0.0, duration.total_seconds()))
