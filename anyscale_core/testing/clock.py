"""A clock that moves only when it is told to."""

import threading
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A Clock whose time is moved by hand; safe to read from many threads."""

    def __init__(self, start: datetime = START) -> None:
        if start.tzinfo is None:
            raise ValueError("start needs a time zone: datetime(..., tzinfo=UTC)")
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the instant it stands at."""
        with self._lock:
            return self._now

    def advance(self, by: timedelta) -> datetime:
        """Move it forward and return the new instant. Raises ValueError for a step back: time does not run backwards."""
        if by < timedelta():
            raise ValueError(f"cannot advance by {by}")
        with self._lock:
            self._now += by
            return self._now

    def sleep(self, duration: timedelta) -> None:
        """Sleep as this clock does: move it forward and return at once."""
        self.advance(max(timedelta(), duration))

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:  # noqa: ARG002
        """Return at once whether the event is set; nobody waits for a clock that only hands move."""
        return event.is_set()
