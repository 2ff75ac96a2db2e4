"""Positions at which a control plane may die: before and after every durable transaction of its store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from anyscale_core.controlplane.store import Store


class Killed(BaseException):
    """The control plane dies here: nothing catches it."""


class WatchedEngine:
    """An engine whose every transaction passes by a hook before it begins and after it was committed."""

    def __init__(self, engine: Engine, pass_by: Callable[[], None]) -> None:
        self._engine, self._pass_by = engine, pass_by

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        self._pass_by()
        with self._engine.begin() as connection:
            yield connection
        self._pass_by()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def watch(store: Store, pass_by: Callable[[], None]) -> Callable[[], None]:
    """Let every durable transaction of a store pass by a hook: wishes, claims, intents, outcomes, whatever is added later.

    Returns what ends it.
    """
    engine = store._durable
    store._durable = WatchedEngine(engine, pass_by)  # type: ignore[assignment]
    return lambda: setattr(store, "_durable", engine)


def hasten(store: Store) -> None:
    """Let a store on SQLite wait for no disk: processes die here, machines do not."""
    for engine in (store._durable, store._loose, store._reader):
        engine.dispose()  # what is connected already waits for the disk
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
