"""Keys that one thread holds at a time: what AWS gives no token for must not be begun twice at once by one process."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Busy:
    """Which keys are being worked on. Others wait; how long is bounded by the deadline of whoever holds them."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._freed = threading.Condition()

    @contextmanager
    def holding(self, keys: Iterable[str]) -> Iterator[None]:
        """Hold these keys for the length of the block, once nobody else holds any of them."""
        wanted = frozenset(keys)
        with self._freed:
            self._freed.wait_for(lambda: not wanted & self._held)
            self._held |= wanted
        try:
            yield
        finally:
            with self._freed:
                self._held -= wanted
                self._freed.notify_all()
