"""Objects read by their schema: unknown fields found and dropped, wrong types refused, quantities brought to their one form."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import quantities
from anyscale_conformance.simulators.kubernetes.problems import Fault, bad_request, required
from anyscale_conformance.simulators.kubernetes.schema import Mapped, Scalar, Sequence, Shape, Struct

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "time": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "quantity": (str, int, float), "any": (object,),
}  # fmt: skip


@attrs.define(kw_only=True)
class Reading:
    """What one look at an object has found besides the object: ``unknown`` holds the paths of fields that no schema knows."""

    kind: str
    version: str
    unknown: list[str] = attrs.field(factory=list)


def read(shape: Shape, value: Any, reading: Reading, path: str = "") -> Any:
    """Return a value as its schema has it: new, without nulls and unknown fields. Raises Problem 400 for a wrong type."""
    match shape:
        case Struct():
            _expect(isinstance(value, dict), value, "object", path, reading)
            out = {}
            for key, inner in value.items():
                if key not in shape.fields:
                    reading.unknown.append(f"{path}.{key}" if path else key)
                elif inner is not None:
                    out[key] = read(shape.fields[key], inner, reading, f"{path}.{key}" if path else key)
            return out
        case Mapped():
            _expect(isinstance(value, dict), value, "object", path, reading)
            return {
                key: read(shape.item, inner, reading, f"{path}.{key}")
                for key, inner in value.items()
                if inner is not None
            }
        case Sequence():
            _expect(isinstance(value, list), value, "array", path, reading)
            return [read(shape.item, inner, reading, f"{path}[{index}]") for index, inner in enumerate(value)]
    return _scalar(shape, value, reading, path)


def missing(shape: Shape, value: Any, path: str = "") -> list[Fault]:
    """Return the faults of required fields that are not there, without those of the status, which only controllers write."""
    match shape:
        case Struct():
            found = [required(f"{path}.{key}" if path else key) for key in sorted(shape.required) if key not in value]
            for key, inner in value.items():
                if key != "status" and key in shape.fields:
                    found += missing(shape.fields[key], inner, f"{path}.{key}" if path else key)
            return found
        case Mapped():
            return [fault for key, inner in value.items() for fault in missing(shape.item, inner, f"{path}.{key}")]
        case Sequence():
            return [
                fault for index, inner in enumerate(value) for fault in missing(shape.item, inner, f"{path}[{index}]")
            ]
    return []


def _scalar(shape: Scalar, value: Any, reading: Reading, path: str) -> Any:
    allowed = _TYPES[shape.name]
    is_bool = isinstance(value, bool)
    _expect(
        isinstance(value, allowed) and (not is_bool or shape.name in ("boolean", "any")),
        value,
        shape.name,
        path,
        reading,
    )
    if shape.name == "time":
        return _time(value, path, reading)
    if shape.name != "quantity":
        return value
    try:
        return quantities.canonical(str(value))
    except ValueError as error:
        raise bad_request(f"{_cannot(reading)}: {error}") from None


def _time(value: str, path: str, reading: Reading) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise bad_request(
            f'{_cannot(reading)}: parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse {path}'
        ) from None
    return value


def _expect(is_right: bool, value: Any, wanted: str, path: str, reading: Reading) -> None:
    if is_right:
        return
    found = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}.get(
        type(value), "null"
    )
    go = {"integer": "int32", "boolean": "bool", "object": "map", "array": "slice"}.get(wanted, wanted)
    raise bad_request(
        f"{_cannot(reading)}: json: cannot unmarshal {found} into Go struct field {reading.kind}.{path} of type {go}"
    )


def _cannot(reading: Reading) -> str:
    return f'{reading.kind} in version "{reading.version}" cannot be handled as a {reading.kind}'
