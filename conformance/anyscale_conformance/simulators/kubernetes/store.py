"""What an API server keeps: objects by kind, namespace and name, one revision for all, and the changes that watches are told.

Objects in it are never changed, only replaced; so lists, watches and encoded bytes share them without a copy.
"""

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import msgspec

from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.problems import bad_request, expired

KEPT = 50_000
"""How many changes of a kind are kept before the oldest are compacted away."""

Object = dict[str, Any]


@attrs.define(kw_only=True, eq=False)
class Entry:
    """One version of one object. ``obj`` has no ``kind`` and no ``apiVersion``: those are the kind's."""

    kind: Kind
    namespace: str
    name: str
    revision: int
    obj: Object
    _bare: bytes | None = None

    @property
    def bare(self) -> bytes:
        """The object as JSON without its kind, made once: so the items of a list of a built-in kind are."""
        if self._bare is None:
            self._bare = msgspec.json.encode(self.obj)
        return self._bare

    @property
    def encoded(self) -> bytes:
        """The object as JSON."""
        return self.kind.head + self.bare[1:]

    @property
    def meta(self) -> dict[str, Any]:
        """The object's metadata."""
        found: dict[str, Any] = self.obj["metadata"]
        return found

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name: the order of lists."""
        return (self.namespace, self.name)

    @property
    def uid(self) -> str:
        """Who it is, whatever its name."""
        return str(self.obj["metadata"]["uid"])

    @property
    def labels(self) -> dict[str, str]:
        """The object's labels."""
        return self.obj["metadata"].get("labels") or {}


@attrs.frozen(kw_only=True)
class Change:
    """What happened at a revision. ``before`` is None for what is new, ``after`` for what is gone (``last``: how it went)."""

    revision: int
    before: Entry | None
    after: Entry | None
    last: Entry


class Store:
    """The state of one API server. Whoever calls it holds the server's lock."""

    def __init__(self, on_change: Callable[[Change], None]) -> None:
        self.revision = 100
        self._tables: dict[Kind, dict[str, dict[str, Entry]]] = {}
        self._changes: dict[Kind, list[Change]] = {}
        self._compacted: dict[Kind, int] = {}
        self._all_compacted = 0
        self._on_change = on_change

    def get(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        """Return an object, or None."""
        return self._tables.get(kind, {}).get(namespace, {}).get(name)

    def entries(self, kind: Kind, namespace: str = "") -> list[Entry]:
        """Return the objects of a kind, of one namespace or (empty) of all, in the order of their keys."""
        tables = self._tables.get(kind, {})
        if namespace or not kind.is_namespaced:
            table = tables.get(namespace, {})
            return [table[name] for name in sorted(table)]
        return [table[name] for _, table in sorted(tables.items()) for name in sorted(table)]

    def all(self) -> Iterator[Entry]:
        """Yield every object there is."""
        for tables in self._tables.values():
            for table in tables.values():
                yield from table.values()

    def put(self, kind: Kind, namespace: str, name: str, obj: Object) -> Entry:
        """Store an object in place of the one of its name, under a new revision that is written into it."""
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        entry = Entry(kind=kind, namespace=namespace, name=name, revision=self.revision, obj=obj)
        table = self._tables.setdefault(kind, {}).setdefault(namespace, {})
        before = table.get(name)
        table[name] = entry
        self._record(kind, Change(revision=self.revision, before=before, after=entry, last=entry))
        return entry

    def remove(self, entry: Entry) -> Entry:
        """Take an object out and return it as it went, under the revision of its going."""
        self.revision += 1
        del self._tables[entry.kind][entry.namespace][entry.name]
        obj = entry.obj | {"metadata": entry.meta | {"resourceVersion": str(self.revision)}}
        last = attrs.evolve(entry, obj=obj, revision=self.revision, bare=None)
        self._record(entry.kind, Change(revision=self.revision, before=entry, after=None, last=last))
        return last

    def changes(self, kind: Kind, after: int) -> list[Change]:
        """Return what happened to a kind after a revision. Raises Problem 410 when that is no longer known."""
        if after < self.compacted(kind):
            raise expired(f"too old resource version: {after} ({self.compacted(kind)})")
        found = self._changes.get(kind, [])
        return found[bisect_right(found, after, key=lambda change: change.revision) :]

    def compacted(self, kind: Kind) -> int:
        """Return the revision before which the changes of a kind are forgotten."""
        return max(self._compacted.get(kind, 0), self._all_compacted)

    def compact(self) -> None:
        """Forget every change: watches and lists that go on from before are told 410."""
        self._all_compacted = self.revision
        self._changes.clear()

    def at(self, kind: Kind, namespace: str, revision: int) -> list[Entry]:
        """Return the objects as they were at a revision. Raises Problem 410 when that is no longer known."""
        if revision == self.revision:
            return self.entries(kind, namespace)
        found = {entry.key: entry for entry in self.entries(kind, namespace)}
        for change in reversed(self.changes(kind, revision)):
            key = change.last.key
            if namespace and key[0] != namespace:
                continue
            found.pop(key, None)
            if change.before is not None:
                found[key] = change.before
        return [found[key] for key in sorted(found)]

    def _record(self, kind: Kind, change: Change) -> None:
        changes = self._changes.setdefault(kind, [])
        changes.append(change)
        if len(changes) > KEPT:
            self._compacted[kind] = changes[KEPT // 2].revision
            del changes[: KEPT // 2 + 1]
        self._on_change(change)


def next_page(revision: int, last: tuple[str, str]) -> str:
    """Return the ``continue`` token of a list that goes on after a key; at revision -1 it shows what is there then."""
    token = {"v": "meta.k8s.io/v1", "rv": revision, "start": f"{'/'.join(last)}\u0000"}
    return base64.urlsafe_b64encode(json.dumps(token, separators=(",", ":")).encode()).decode().rstrip("=")


def page(token: str) -> tuple[int, tuple[str, str]]:
    """Return the revision and the last key of a ``continue`` token. Raises Problem 400 for what is none."""
    try:
        read = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = read["start"].rstrip("\u0000").partition("/")
        return int(read["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise bad_request("continue key is not valid: illegal base64 data") from None
