"""The three patches that change what is there: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.

Strategic merge: sigs.k8s.io, "Strategic Merge Patch"; lists merge by the schema's merge key, with
``$patch: delete|replace|merge``, ``$deleteFromPrimitiveList/FIELD``, ``$setElementOrder/FIELD`` and ``$retainKeys``.
"""

from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from anyscale_conformance.simulators.kubernetes.problems import Problem, bad_request
from anyscale_conformance.simulators.kubernetes.schema import Mapped, Sequence, Shape, Struct

_MAX_OPERATIONS = 10_000


def json_patch(obj: Any, operations: Any) -> Any:
    """Return an object changed by a list of operations. Raises Problem 400 (no patch), 422 (it does not fit the object)."""
    if not isinstance(operations, list):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > _MAX_OPERATIONS:
        raise Problem(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(operations)}",
        )
    try:
        return jsonpatch.apply_patch(obj, operations)
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(str(error)) from None
    except (jsonpatch.JsonPatchException, JsonPointerException) as error:
        raise Problem(
            422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
        ) from None


def merge_patch(obj: Any, patch: Any) -> Any:
    """Return an object with another laid over it: null takes away, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    out = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def strategic_merge(shape: Shape, obj: Any, patch: Any) -> Any:
    """Return an object with another laid over it, lists merged by their keys. Raises Problem 400 for an item without its key."""
    if not isinstance(patch, dict) or not isinstance(shape, Struct | Mapped):
        return patch
    directive = patch.get("$patch")
    if directive == "delete":
        return None
    rest = {key: value for key, value in patch.items() if not key.startswith("$")}
    if directive == "replace":
        return _clean(rest)
    if directive not in (None, "merge"):
        raise bad_request(f"Unknown patch type: {directive}")
    out = dict(obj) if isinstance(obj, dict) else {}
    for key, value in rest.items():
        inner = shape.item if isinstance(shape, Mapped) else shape.fields.get(key)
        merged = _merged(inner, out.get(key), value)
        out.pop(key, None)
        if merged is not None:
            out[key] = merged
    return _directed(shape, out, patch)


def _merged(shape: Shape | None, old: Any, value: Any) -> Any:
    if value is None or shape is None:
        return value
    if isinstance(value, dict):
        # Even what server-side apply takes as a whole is merged here, unless its strategy says replace.
        return strategic_merge(shape, old, value)
    if isinstance(shape, Sequence) and isinstance(value, list) and shape.merge_key is not None:
        return _merged_list(shape, old or [], value)
    return value


def _merged_list(shape: Sequence, old: list[Any], patch: list[Any]) -> list[Any]:
    key = shape.merge_key
    if key == "":
        return old + [item for item in patch if item not in old]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [_clean(item) for item in patch if item.get("$patch") != "replace"]
    out = list(old)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((index for index, there in enumerate(out) if there.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            out = [there for there in out if there.get(key) != item[key]]
        elif place is None:
            out.append(_clean(strategic_merge(shape.item, {}, item)))
        else:
            out[place] = strategic_merge(shape.item, out[place], item)
    return out


def _directed(shape: Shape, out: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    for word, value in patch.items():
        directive, _, field = word.partition("/")
        if directive == "$deleteFromPrimitiveList":
            out[field] = [item for item in out.get(field, []) if item not in value]
        elif directive == "$setElementOrder" and isinstance(out.get(field), list):
            out[field] = _ordered(shape.fields.get(field) if isinstance(shape, Struct) else None, out[field], value)
        elif directive == "$retainKeys":
            out = {key: inner for key, inner in out.items() if key in value}
    return out


def _ordered(shape: Shape | None, items: list[Any], order: list[Any]) -> list[Any]:
    key = shape.merge_key if isinstance(shape, Sequence) else None
    words = [item.get(key) if isinstance(item, dict) and key else item for item in order]

    def rank(item: Any) -> int:
        word = item.get(key) if isinstance(item, dict) and key else item
        return words.index(word) if word in words else len(words)

    return sorted(items, key=rank)


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items() if not key.startswith("$") and inner is not None}
    return [_clean(item) for item in value] if isinstance(value, list) else value
