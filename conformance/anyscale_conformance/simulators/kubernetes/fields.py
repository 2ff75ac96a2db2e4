"""Who set which field: field sets, server-side apply, and what ``managedFields`` shows of them.

A field set is a set of paths, a path a tuple of ``f:name``, ``k:{...}`` (an item of a list by its keys) and ``v:...`` (an item
of a set); source: kubernetes.io, Server-Side Apply; sigs.k8s.io/structured-merge-diff.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes.schema import Mapped, Scalar, Sequence, Shape, Struct

Path = tuple[str, ...]
FieldSet = frozenset[Path]
NOTHING: FieldSet = frozenset()
# What no one owns: it says which object this is, or is the server's own.
_UNOWNED = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata",),
    *((("f:metadata", f"f:{field}")) for field in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "resourceVersion", "generation", "managedFields",
        "deletionTimestamp", "deletionGracePeriodSeconds",
    )),
}  # fmt: skip


@attrs.frozen(kw_only=True)
class Manager:
    """One entry of ``managedFields``."""

    name: str
    operation: str
    api_version: str
    time: str
    subresource: str = ""
    fields: FieldSet = NOTHING

    @property
    def key(self) -> tuple[str, str, str]:
        """Who it is: one manager may have applied, updated, and written the status."""
        return (self.name, self.operation, self.subresource)

    def render(self) -> dict[str, Any]:
        """Return the entry as an object shows it."""
        out: dict[str, Any] = {
            "manager": self.name, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": _tree(self.fields),
        }  # fmt: skip
        return out | ({"subresource": self.subresource} if self.subresource else {})


@attrs.frozen(kw_only=True)
class Clash:
    """A field that somebody else has set to something else."""

    manager: Manager
    path: Path


def owned(shape: Shape, value: Any) -> FieldSet:
    """Return the fields that a value sets."""
    found: set[Path] = set()
    _collect(shape, value, (), found)
    return frozenset(found - _UNOWNED)


def managers(obj: Mapping[str, Any]) -> list[Manager]:
    """Return the managers that an object names."""
    return [
        Manager(
            name=entry.get("manager", ""), operation=entry.get("operation", "Update"), time=entry.get("time", ""),
            api_version=entry.get("apiVersion", ""), subresource=entry.get("subresource", ""),
            fields=frozenset(_paths(entry.get("fieldsV1") or {})),
        )
        for entry in obj.get("metadata", {}).get("managedFields") or ()
    ]  # fmt: skip


def updated(
    shape: Shape, old: Mapping[str, Any] | None, new: Mapping[str, Any], known: Iterable[Manager], writer: Manager
) -> list[Manager]:
    """Return the managers after an update: what it changed is the writer's and nobody else's, what it took away is nobody's."""
    before, after = _leaves(shape, old or {}), _leaves(shape, new)
    changed = frozenset(path for path, value in after.items() if path not in before or before[path] != value)
    there, was = owned(shape, new), owned(shape, old or {})
    mine, gone = there - (was - changed), was - there
    out, found = [], False
    for manager in known:
        kept = manager.fields - gone - (changed if manager.key != writer.key else NOTHING)
        if manager.key == writer.key:
            found = True
            fields = kept | mine
            time = writer.time if fields != manager.fields else manager.time
            out.append(attrs.evolve(manager, fields=fields, time=time, api_version=writer.api_version))
        else:
            out.append(attrs.evolve(manager, fields=kept))
    if not found:
        out.append(attrs.evolve(writer, fields=mine))
    return [manager for manager in out if manager.fields]


def clashes(shape: Shape, live: Any, applied: Any, known: Iterable[Manager], writer: Manager) -> list[Clash]:
    """Return the fields of an applied configuration that others have set to another value, in a firm order."""
    want, have = _leaves(shape, applied), _leaves(shape, live)
    fields = owned(shape, applied)
    return [
        Clash(manager=manager, path=path)
        for manager in known
        if manager.key != writer.key
        for path in sorted(manager.fields & fields)
        if path in want and have.get(path) != want[path]
    ]


def apply(
    shape: Shape, live: Any, applied: Any, known: Iterable[Manager], writer: Manager
) -> tuple[Any, list[Manager]]:
    """Return the object and its managers after a configuration was applied; what its writer names no more goes, unless shared."""
    want = owned(shape, applied)
    known = list(known)
    before = next((manager.fields for manager in known if manager.key == writer.key), NOTHING)
    changed = frozenset(clash.path for clash in clashes(shape, live, applied, known, writer))
    others: frozenset[Path] = NOTHING.union(*(manager.fields for manager in known if manager.key != writer.key))
    merged = merge(shape, live, applied)
    gone = before - want - others
    if gone:
        # An item whose every owner has gone goes; one that others still hold something in stays.
        gone = frozenset(path for path in gone if not _is_held(path, want | others))
        merged = _without(shape, merged, (), gone)
    out = [attrs.evolve(manager, fields=manager.fields - changed) for manager in known if manager.key != writer.key]
    mine = attrs.evolve(writer, fields=want)
    if before == want and not changed:
        old = next(manager for manager in known if manager.key == writer.key) if before else writer
        mine = attrs.evolve(mine, time=old.time)
    return merged, [manager for manager in (*out, mine) if manager.fields]


def merge(shape: Shape, live: Any, applied: Any) -> Any:
    """Return a value with another laid over it, as the schema merges them."""
    if live is None:
        return applied
    if is_leaf(shape, applied):
        # An empty map or keyed list laid over one that is not empties nothing: what is in it has its own owners.
        return live if applied in ({}, []) and not is_leaf(shape, live) else applied
    match shape:
        case Struct():
            return live | {key: merge(shape.fields[key], live.get(key), value) for key, value in applied.items()}
        case Mapped():
            return live | {key: merge(shape.item, live.get(key), value) for key, value in applied.items()}
        case Sequence(is_set=True):
            return list(live) + [item for item in applied if item not in live]
        case Sequence():
            return _merged_items(shape, live, applied)
    return applied


def is_leaf(shape: Shape, value: Any) -> bool:
    """Tell whether a value has one owner as a whole."""
    match shape:
        case Scalar():
            return True
        case Struct() | Mapped():
            return shape.is_atomic or not value
        case Sequence():
            return not value or (not shape.keys and not shape.is_set)
    return True


def show(path: Path) -> str:
    """Return a path as conflicts show it: ``.spec.containers[name="ray"].image``."""
    out = ""
    for element in path:
        sort, _, word = element.partition(":")
        if sort == "f":
            out += f".{word}"
        elif sort == "k":
            out += f"[{','.join(f'{key}={json.dumps(value)}' for key, value in json.loads(word).items())}]"
        else:
            out += f"[={word}]"
    return out


def _merged_items(shape: Sequence, live: list[Any], applied: list[Any]) -> list[Any]:
    wanted = {_key(shape, item): item for item in applied}
    out = [merge(shape.item, item, wanted.pop(key)) if (key := _key(shape, item)) in wanted else item for item in live]
    return out + list(wanted.values())


def _key(shape: Sequence, item: Mapping[str, Any]) -> str:
    # Source: the defaults that take part in keys: a port's protocol is TCP.
    defaults = {"protocol": "TCP"}
    keys = {key: item.get(key, defaults.get(key)) for key in sorted(shape.keys)}
    return f"k:{json.dumps({key: value for key, value in keys.items() if value is not None}, separators=(',', ':'))}"


def _collect(shape: Shape, value: Any, path: Path, found: set[Path]) -> None:
    if is_leaf(shape, value):
        found.add(path)
        return
    match shape:
        case Struct():
            for key, inner in value.items():
                _collect(shape.fields[key], inner, (*path, f"f:{key}"), found)
        case Mapped():
            for key, inner in value.items():
                _collect(shape.item, inner, (*path, f"f:{key}"), found)
        case Sequence(is_set=True):
            found.update((*path, f"v:{json.dumps(item)}") for item in value)
        case Sequence():
            for item in value:
                here = (*path, _key(shape, item))
                found.add(here)
                _collect(shape.item, item, here, found)


def _leaves(shape: Shape, value: Any, path: Path = ()) -> dict[Path, Any]:
    """Return the value at every path that has one owner as a whole."""
    if is_leaf(shape, value):
        return {path: value} if path else {}
    found: dict[Path, Any] = {}
    match shape:
        case Struct():
            for key, inner in value.items():
                found |= _leaves(shape.fields[key], inner, (*path, f"f:{key}"))
        case Mapped():
            for key, inner in value.items():
                found |= _leaves(shape.item, inner, (*path, f"f:{key}"))
        case Sequence(is_set=True):
            found |= {(*path, f"v:{json.dumps(item)}"): item for item in value}
        case Sequence():
            for item in value:
                found |= _leaves(shape.item, item, (*path, _key(shape, item)))
    return found


def _is_item(path: Path) -> bool:
    return path[-1].startswith("k:")


def _is_held(path: Path, by: FieldSet) -> bool:
    return any(other[: len(path)] == path for other in by)


def _without(shape: Shape, value: Any, path: Path, gone: FieldSet) -> Any:
    """Return a value without the fields at some paths; what becomes empty by that goes with them."""
    match shape:
        case Struct() | Mapped() if isinstance(value, dict):
            out = {}
            for key, inner in value.items():
                here = (*path, f"f:{key}")
                if here in gone:
                    continue
                inside = shape.fields[key] if isinstance(shape, Struct) else shape.item
                rest = _without(inside, inner, here, gone) if _is_held(here, gone) else inner
                if rest or not inner or not isinstance(inner, dict | list):
                    out[key] = rest
            return out
        case Sequence() if isinstance(value, list) and (shape.keys or shape.is_set):
            kept = []
            for item in value:
                here = (*path, f"v:{json.dumps(item)}" if shape.is_set else _key(shape, item))
                if here not in gone:
                    kept.append(_without(shape.item, item, here, gone) if _is_held(here, gone) else item)
            return kept
    return value


def _tree(fields: FieldSet) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(fields):
        node = root
        for element in path:
            node = node.setdefault(element, {})
    _mark(root, (), fields)
    return root


def _mark(node: dict[str, Any], path: Path, fields: FieldSet) -> None:
    for element, inner in list(node.items()):
        here = (*path, element)
        _mark(inner, here, fields)
        if inner and here in fields:
            inner["."] = {}


def _paths(tree: Mapping[str, Any], path: Path = ()) -> Iterable[Path]:
    for element, inner in tree.items():
        if element == ".":
            yield path
            continue
        here = (*path, element)
        if not inner:
            yield here
        yield from _paths(inner, here)
