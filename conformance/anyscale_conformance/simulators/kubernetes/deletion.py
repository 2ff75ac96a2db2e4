"""How objects go: preconditions, grace, finalizers, and the three ways to treat what they own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes.problems import bad_request, conflict, forbidden, invalid, unsupported
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.world import World, timestamp

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
POLICIES = ("Background", "Foreground", "Orphan")
GRACE_S = 30
KEPT = ("default", "kube-public", "kube-system")


@attrs.frozen(kw_only=True)
class Deleted:
    """What became of a delete: the object as it is or went, and whether it is gone."""

    entry: Entry
    is_gone: bool


def delete(world: World, entry: Entry, options: Mapping[str, Any], *, is_dry: bool = False) -> Deleted:
    """Delete an object as ``DeleteOptions`` say. Raises Problem for options that are none, and for preconditions not met."""
    _check(entry, options)
    if entry.kind.plural == "namespaces" and entry.name in KEPT:
        raise forbidden("namespaces", "", entry.name, "this namespace may not be deleted")
    finalizers = _finalizers(entry, options)
    grace = _grace(entry, options)
    waits = bool(finalizers) or grace > 0 or entry.kind.plural == "namespaces"
    if is_dry:
        return Deleted(entry=entry, is_gone=not waits)
    if not waits:
        return Deleted(entry=world.store.remove(entry), is_gone=True)
    meta = dict(entry.meta)
    if "deletionTimestamp" in meta:
        grace = min(grace, meta.get("deletionGracePeriodSeconds", grace))
    if "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
        meta |= {
            "deletionTimestamp": timestamp(world.now + timedelta(seconds=grace)), "deletionGracePeriodSeconds": grace,
        }  # fmt: skip
        if "generation" in meta:
            meta["generation"] += 1
    if finalizers:
        meta["finalizers"] = finalizers
    changed: dict[str, Any] = {"metadata": meta}
    if entry.kind.plural == "namespaces":
        changed["status"] = entry.obj.get("status", {}) | {"phase": "Terminating"}
    return Deleted(entry=world.write(entry, **changed), is_gone=False)


def settle(world: World, entry: Entry) -> Entry:
    """Take out an object that was only waiting for its last finalizer; else return it as it is."""
    meta = entry.meta
    if "deletionTimestamp" not in meta or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return entry
    if entry.kind.plural == "namespaces" and entry.obj.get("spec", {}).get("finalizers"):
        return entry
    return world.store.remove(entry)


def finish(world: World, entry: Entry) -> None:
    """End the grace of an object: its component (the kubelet) is done with it."""
    meta = entry.meta | {"deletionGracePeriodSeconds": 0}
    meta.setdefault("deletionTimestamp", world.stamp)
    if meta.get("finalizers"):
        world.write(entry, metadata=meta)
    else:
        world.store.remove(entry)


def _check(entry: Entry, options: Mapping[str, Any]) -> None:
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in POLICIES:
        raise invalid(
            "DeleteOptions", "meta.k8s.io", "", [unsupported("propagationPolicy", policy, (*POLICIES, "nil"))]
        )
    if policy is not None and options.get("orphanDependents") is not None:
        raise bad_request("OrphanDependents and DeletionPropagation cannot be both set")
    wanted = options.get("preconditions") or {}
    plural, group = entry.kind.plural, entry.kind.group
    for word, key, have in (("UID", "uid", entry.uid), ("ResourceVersion", "resourceVersion", str(entry.revision))):
        if wanted.get(key) and wanted[key] != have:
            raise conflict(
                plural, group, entry.name,
                f"Precondition failed: {word} in precondition: {wanted[key]}, {word} in object meta: {have}",
            )  # fmt: skip


def _finalizers(entry: Entry, options: Mapping[str, Any]) -> list[str]:
    policy = options.get("propagationPolicy")
    if options.get("orphanDependents"):
        policy = "Orphan"
    present = [
        word for word in entry.meta.get("finalizers") or () if policy is None or word not in (FOREGROUND, ORPHAN)
    ]
    added = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy or "")
    return [*present, added] if added else present


def _grace(entry: Entry, options: Mapping[str, Any]) -> int:
    """Return for how many seconds an object stays. Only Pods that were given to a node and still run have grace."""
    if entry.kind.plural != "pods":
        return 0
    spec = entry.obj["spec"]
    if not spec.get("nodeName") or entry.obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(asked if asked is not None else spec.get("terminationGracePeriodSeconds", GRACE_S))
