"""Collects what nobody owns any more. Source: kubernetes.io, Garbage Collection; Owners and Dependents."""

from collections.abc import Callable, Hashable, Iterable

from anyscale_conformance.simulators.kubernetes import deletion
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World


class Collector:
    """Knows who owns whom by uid. An object goes when the last of its owners is gone."""

    def __init__(self, world: World, enqueue: Callable[[Hashable, Callable[[], None]], None]) -> None:
        self._world, self._enqueue = world, enqueue
        self._alive: dict[str, Entry] = {}
        self._owned: dict[str, set[str]] = {}

    def react(self, change: Change) -> None:
        """Take note of a change."""
        uid = change.last.uid
        if change.before is not None:
            for owner in _owners(change.before):
                self._owned.get(owner, set()).discard(uid)
        if change.after is None:
            self._alive.pop(uid, None)
            for dependent in self._owned.get(uid, ()):
                self._check(dependent)
            if change.before is not None:
                for owner in _owners(change.before):
                    self._release(owner)
            return
        self._alive[uid] = change.after
        owners = _owners(change.after)
        for owner in owners:
            self._owned.setdefault(owner, set()).add(uid)
        if owners and (change.before is None or _owners(change.before) != owners):
            self._check(uid)
        if "deletionTimestamp" in change.after.meta:
            self._release(uid)

    def _check(self, uid: str) -> None:
        self._enqueue(("owners", uid), lambda: self._judge(uid))

    def _release(self, uid: str) -> None:
        owner = self._alive.get(uid)
        words = owner.meta.get("finalizers", ()) if owner is not None else ()
        if deletion.FOREGROUND in words or deletion.ORPHAN in words:
            self._enqueue(("dependents", uid), lambda: self._dependents_of(uid))

    def _judge(self, uid: str) -> None:
        """Delete an object whose owners are all gone; take the names of those that are from one that still has some."""
        entry = self._alive.get(uid)
        if entry is None or not _owners(entry):
            return
        references = entry.meta["ownerReferences"]
        solid = [one for one in references if self._is_solid(entry, one["uid"])]
        if not solid:
            if "deletionTimestamp" not in entry.meta:
                deletion.delete(self._world, entry, {"propagationPolicy": "Background"})
        elif len(solid) < len(references):
            self._world.write(entry, metadata=entry.meta | {"ownerReferences": solid})

    def _is_solid(self, entry: Entry, owner: str) -> bool:
        found = self._alive.get(owner)
        return found is not None and found.namespace in ("", entry.namespace)

    def _dependents_of(self, uid: str) -> None:
        """Carry out what a delete with Foreground or Orphan waits for."""
        owner = self._alive.get(uid)
        if owner is None:
            return
        dependents = [self._alive[one] for one in self._owned.get(uid, ()) if one in self._alive]
        words = owner.meta.get("finalizers", [])
        if deletion.ORPHAN in words:
            for entry in dependents:
                rest = [one for one in entry.meta["ownerReferences"] if one["uid"] != uid]
                self._world.write(entry, metadata=_with_owners(entry, rest))
            self._unblock(owner, deletion.ORPHAN)
        elif deletion.FOREGROUND in words:
            for entry in dependents:
                if "deletionTimestamp" not in entry.meta:
                    deletion.delete(
                        self._world,
                        entry,
                        {"propagationPolicy": "Foreground" if self._owned.get(entry.uid) else "Background"},
                    )
            left = (self._alive[one] for one in self._owned.get(uid, ()) if one in self._alive)
            if not any(_blocks(entry, uid) for entry in left):
                self._unblock(self._alive[uid], deletion.FOREGROUND)

    def _unblock(self, owner: Entry, finalizer: str) -> None:
        rest = [word for word in owner.meta.get("finalizers", ()) if word != finalizer]
        meta = {key: value for key, value in owner.meta.items() if key != "finalizers"}
        deletion.settle(self._world, self._world.write(owner, metadata=meta | ({"finalizers": rest} if rest else {})))


def _owners(entry: Entry) -> set[str]:
    return {one["uid"] for one in entry.meta.get("ownerReferences") or ()}


def _blocks(entry: Entry, owner: str) -> bool:
    return any(one["uid"] == owner and one.get("blockOwnerDeletion") for one in entry.meta.get("ownerReferences", ()))


def _with_owners(entry: Entry, owners: Iterable[object]) -> dict[str, object]:
    rest = {key: value for key, value in entry.meta.items() if key != "ownerReferences"}
    owners = list(owners)
    return rest | ({"ownerReferences": owners} if owners else {})
