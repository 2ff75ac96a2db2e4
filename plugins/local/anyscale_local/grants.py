"""Grants as they are remembered, by the storage driver that gives them and the identity driver that detaches them."""

import attrs

from anyscale_local.state import Record, State, digest


@attrs.frozen(kw_only=True)
class GrantRecord(Record):
    """A grant as it is remembered. ``name`` is ``bucket/prefix``. It fences nothing: every process runs as one user."""

    bucket: str
    identity: str
    access: str


class GrantStore:
    """The grants of one state folder. Whoever changes them holds the state's lock."""

    def __init__(self, state: State) -> None:
        self._shelf = state.shelf("grants", GrantRecord)

    def all(self) -> tuple[GrantRecord, ...]:
        """Return every grant, whoever owns it."""
        return tuple(self._shelf.all())

    def write(self, record: GrantRecord) -> None:
        """Put a grant in its place."""
        self._shelf.write(_key(record), record)

    def remove(self, *records: GrantRecord) -> None:
        """Forget grants."""
        for record in records:
            self._shelf.remove(_key(record))


def _key(record: GrantRecord) -> str:
    return digest(record.name, record.identity, record.access)
