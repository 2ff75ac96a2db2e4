"""Work on its way through: that of one lane one after the other, everything else beside each other."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

THREADS = 16
"""Calls to the cloud that may be under way at once."""


class Lanes(Generic[T]):
    """Performs work in threads. ``perform`` must not raise."""

    def __init__(self, perform: Callable[[T], object], *, threads: int = THREADS) -> None:
        self._perform = perform
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="order")
        self._lanes: dict[str, deque[T]] = {}
        self._lock = threading.Lock()

    def put(self, work: T, *, lane: str) -> None:
        """Let something be performed when what came before it in its lane is; at once when ``lane`` is empty."""
        if not lane:
            self._pool.submit(self._perform, work)
            return
        with self._lock:
            waiting = self._lanes.get(lane)
            if waiting is not None:
                waiting.append(work)
                return
            self._lanes[lane] = deque([work])
        self._pool.submit(self._go_along, lane)

    def close(self) -> None:
        """Wait for what is under way, and perform nothing more."""
        with self._lock:
            for waiting in self._lanes.values():
                waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _go_along(self, lane: str) -> None:
        while True:
            with self._lock:
                waiting = self._lanes[lane]
                if not waiting:
                    del self._lanes[lane]
                    return
                work = waiting.popleft()
            self._perform(work)
