"""The bell between the plane's threads and the coroutines that hold an answer."""

import asyncio
import threading
from datetime import timedelta


class Hub:
    """Rung from any thread, heard on one event loop. Rings in quick succession are heard as one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._rung = False
        self._lock = threading.Lock()
        self.count = 0
        """Rings that were heard. Take it before looking, hand it to ``changed`` after: no ring in between is missed."""

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hear, on this loop."""
        self._loop = loop

    @property
    def is_open(self) -> bool:
        """Whether answers may still be held."""
        return self._loop is not None

    def ring(self) -> None:
        """Say that something may have changed. Nobody is there before ``open`` and after ``close``."""
        with self._lock:
            if self._rung or self._loop is None:
                return
            self._rung = True
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Let go of everybody who waits; call it on the loop."""
        with self._lock:
            self._loop = None
        self._wake()

    async def changed(self, since: int, timeout: timedelta) -> None:
        """Return at the first ring after ``since`` (a ``count``), at the end, or after ``timeout``."""
        if not self.is_open or self.count != since:
            return
        event = self._event
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await event.wait()
        except TimeoutError:
            return

    def _wake(self) -> None:
        self._rung = False
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()
