"""Watches what this process reaches for: hosts, and environment variables, by whom."""

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

_watching: list[list[str]] = []
_hooked: list[bool] = []
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto")


@contextmanager
def hosts() -> Iterator[list[str]]:
    """Collect every address that anything in this process connects to or looks up, during the block."""
    if not _hooked:
        # An audit hook cannot be taken away again; it does nothing while nobody watches.
        sys.addaudithook(_heard)
        _hooked.append(True)
    found: list[str] = []
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.remove(found)


@contextmanager
def environment(package: str) -> Iterator[set[str]]:
    """Collect the environment variables that the code of a package reads, itself or through the standard library."""
    read: set[str] = set()
    before = os.environ
    os.environ = _Recording(before, package, read)  # type: ignore[assignment]  # noqa: B003
    try:
        yield read
    finally:
        os.environ = before  # noqa: B003


class _Recording(MutableMapping[str, str]):
    """The environment, with a list of who read what."""

    def __init__(self, real: MutableMapping[str, str], package: str, read: set[str]) -> None:
        self._real, self._package, self._read = real, package, read

    def __getitem__(self, key: str) -> str:
        if _caller().split(".")[0] == self._package:
            self._read.add(key)
        return self._real[key]

    def __setitem__(self, key: str, value: str) -> None:
        self._real[key] = value

    def __delitem__(self, key: str) -> None:
        del self._real[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._real)

    def __len__(self) -> int:
        return len(self._real)

    def copy(self) -> dict[str, str]:
        """Return a copy, as ``os.environ`` does."""
        return dict(self._real)


def _caller() -> str:
    """Return the module that is responsible for a read: the nearest one that is neither the standard library's nor this."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and name.partition(".")[0] not in sys.stdlib_module_names:
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event not in NETWORK or not _watching:
        return
    address = args[0] if event == "socket.getaddrinfo" else args[-1]
    host = str(address[0]) if isinstance(address, tuple) else str(address)
    for found in _watching:
        found.append(host)
