"""Since when this control plane has been there to hear its nodes: its own absence is not their silence."""

from datetime import datetime, timedelta


class Hearing:
    """Begins with the process, and anew after a gap: a process that was frozen, or a store that did not answer, heard nobody.

    One thread calls ``listen``; ``since`` may be read by all.
    """

    def __init__(self, now: datetime, *, gap: timedelta) -> None:
        self.since = self._last = now
        self._gap = gap

    def listen(self, now: datetime) -> None:
        """Say that the control plane is there, and its store too."""
        if now - self._last > self._gap:
            self.since = now
        self._last = now
