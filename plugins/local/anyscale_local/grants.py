"""Grants as they are remembered. They fence nothing: every process of this machine's instances runs as one user."""

from collections.abc import Callable

import attrs

from anyscale_local.state import Record, State, digest


@attrs.frozen(kw_only=True)
class GrantRecord(Record):
    """A grant. ``name`` is ``bucket/prefix``."""

    bucket: str
    identity: str
    access: str


class Grants:
    """The grants of one state folder. Whoever calls ``add`` or ``drop`` holds the state's lock."""

    def __init__(self, state: State) -> None:
        self._shelf = state.shelf("grants", GrantRecord)

    def add(self, record: GrantRecord) -> None:
        """Remember a grant; the same one again changes nothing else."""
        self._shelf.write(_key(record), record)

    def drop(self, unwanted: Callable[[GrantRecord], bool]) -> int:
        """Forget grants; return how many."""
        found = [record for record in self._shelf.all() if unwanted(record)]
        for record in found:
            self._shelf.remove(_key(record))
        return len(found)


def _key(record: GrantRecord) -> str:
    return digest(record.name, record.identity, record.access)
