"""Whether a body is one that its type knows: every field by its name, its case and its kind of value.

``shapes.json`` is made by ``derive`` from the models of Microsoft's SDKs. Azure itself does not mind the case of a field; the
published specifications do, and what is written in another case is refused here.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.wire import Body

TABLE = Path(__file__).with_name("shapes.json")
EXTRA = {
    "locks.ManagementLockObject": {
        "id": ["str", "r"], "name": ["str", "r"], "type": ["str", "r"], "properties": ["ref:locks.Properties", "q"],
    },
    "locks.Properties": {
        "level": ["enum:CanNotDelete|ReadOnly", "q"], "notes": ["str", ""], "owners": ["list:any", ""],
    },
}  # fmt: skip
"""What no SDK that is derived from has: from the REST reference of Microsoft.Authorization/locks."""


@functools.cache
def shapes() -> dict[str, dict[str, list[str]]]:
    """Return the table: fields by model, each with its type and its flags."""
    table: dict[str, dict[str, list[str]]] = json.loads(TABLE.read_text())
    return table | EXTRA


def checked(shape: str, body: Body) -> Body:
    """Return a copy of a body without nulls and without what only the cloud writes.

    Raises ArmError(InvalidRequestContent) for a field that the model does not have, a value that the field cannot have, and a
    field that has to be there and is not.
    """
    return _object(shape, body, "")


def has(shape: str) -> bool:
    """Tell whether the table has a model."""
    return shape in shapes()


def _object(shape: str, body: Any, path: str) -> Body:
    fields = shapes()[shape]
    if not isinstance(body, dict):
        raise _refused(f"The value of '{path or 'the body'}' must be an object.", path)
    for name in body:
        if name not in fields:
            raise _refused(
                f"Could not find member '{name}' on object of type '{shape.rpartition('.')[2]}'. Path '{_below(path, name)}'.",
                _below(path, name),
            )
    for name, (_, flags) in fields.items():
        if "q" in flags and body.get(name) is None:
            raise _refused(f"Required property '{name}' not found in JSON. Path '{path}'.", _below(path, name))
    return dict(_kept(fields, body, path))


def _kept(fields: dict[str, list[str]], body: Body, path: str) -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        type, flags = fields[name]
        if value is not None and "r" not in flags:
            yield name, _value(type, value, _below(path, name))


def _value(type: str, value: Any, path: str) -> Any:
    word, _, inner = type.partition(":")
    if word == "ref":
        return _object(inner, value, path)
    if word == "list":
        if not isinstance(value, list):
            raise _refused(f"The value of '{path}' must be an array.", path)
        return [_value(inner, item, f"{path}[{number}]") for number, item in enumerate(value)]
    if word == "map":
        if not isinstance(value, dict):
            raise _refused(f"The value of '{path}' must be an object.", path)
        return {name: None if item is None else _value(inner, item, f"{path}.{name}") for name, item in value.items()}
    if word == "enum":
        return _choice(inner.split("|"), value, path)
    if word == "any" or _is(word, value):
        return value
    raise _refused(f"Could not convert the value {json.dumps(value)} to {word}. Path '{path}'.", path)


def _choice(allowed: list[str], value: Any, path: str) -> Any:
    for choice in allowed:
        if str(value).lower() == choice.lower():
            return choice
    raise ArmError(
        400, "InvalidParameter", f"The value '{value}' of parameter '{path}' is not allowed. Allowed values are: "
        f"{','.join(allowed)}.", target=path,
    )  # fmt: skip


def _is(word: str, value: Any) -> bool:
    if isinstance(value, bool):
        return word == "bool"
    return isinstance(value, {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}[word])


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refused(text: str, path: str) -> ArmError:
    return ArmError(
        400,
        "InvalidRequestContent",
        f"The request content was invalid and could not be deserialized: '{text}'",
        target=path,
    )
