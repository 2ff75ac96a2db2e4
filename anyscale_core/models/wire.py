"""The one cattrs converter: strict JSON in, plain JSON out.

Rules of the wire: unknown fields are refused; nothing is coerced (``"3"`` is not 3, ``true`` is not 1); instants are ISO 8601
with an offset; a duration ``x`` travels as ``x_s`` in seconds; enums by value; errors by their record; secrets only
through ``unstructure_revealed``.
"""

import copy
import enum
import math
import types
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from anyscale_core.errors import CloudError, Fault, SpecError, error_from
from anyscale_core.models import quota
from anyscale_core.models.cluster import ClusterSpec, contradictions, nearest
from anyscale_core.models.secret import Secret

T = TypeVar("T")

CHECKS: Mapping[type, Callable[[Mapping[str, Any]], Any]] = {
    ClusterSpec: contradictions, quota.QuotaSpec: quota.contradictions,
}  # fmt: skip
"""What else can be wrong with a body of a type, beyond the types of its fields; reads the raw mapping."""


def structure(body: object, cls: type[T], *, subject: str = "") -> T:
    """Turn a JSON value into ``cls``.

    Raises SpecError with every fault and its path; ``subject`` names the input in its first line.
    """
    faults: list[Fault] = []
    value: T | None = None
    try:
        value = _PLAIN.structure(body, cls)
    except Exception:  # what is wrong is worth the time of looking for all of it
        value, faults = _in_detail(body, cls)
    check = CHECKS.get(cls)
    if check is not None and isinstance(body, Mapping):
        faults += check(body)
    if faults or value is None:
        raise SpecError(dict.fromkeys(faults), subject=subject or cls.__name__)
    return value


def unstructure(value: object) -> Any:
    """Turn a value into plain JSON types; secrets come out as ``"***"``."""
    return _MASKED.unstructure(value)


def unstructure_revealed(value: object) -> Any:
    """Turn a value into plain JSON types with its secrets in clear: for the wire to the one who may have them."""
    return _CONVERTER.unstructure(value)


def _in_detail(body: object, cls: type[T]) -> tuple[T | None, list[Fault]]:
    try:
        return _CONVERTER.structure(body, cls), []
    except Exception as error:
        return None, [attrs.evolve(fault, path=fault.path.removeprefix(".")) for fault in _faults(error, "")]


def _faults(error: BaseException, path: str) -> list[Fault]:
    """Flatten cattrs' exception groups into faults with paths."""
    if isinstance(error, BaseValidationError):
        out: list[Fault] = []
        for inner in error.exceptions:
            out += _faults(inner, path + _note(inner))
        return out
    if isinstance(error, ForbiddenExtraKeysError):
        known = [_wire_name(field) for field in attrs.fields(error.cl)]
        return [
            Fault(path=_join(path, key), message=f"unknown field{nearest(key, known)}")
            for key in sorted(map(str, error.extra_fields))
        ]
    if isinstance(error, KeyError):
        # cattrs raises KeyError for a required field that is not there, noted with the field itself.
        return [Fault(path=path, message="is required")]
    return [Fault(path=path, message=str(error) or type(error).__name__)]


def _note(error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            is_duration = note.type is timedelta or timedelta in get_args(note.type)
            return f".{note.name}{'_s' if is_duration else ''}"
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}"


def _wire_name(field: "attrs.Attribute[Any]") -> str:
    is_duration = field.type is timedelta or timedelta in get_args(field.type)
    return f"{field.name}_s" if is_duration else field.name


def _expect(kind: str, *types: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"{_show(value)} is not {kind}")
        return value

    return hook


PRIMITIVES = frozenset({str, int, float, bool})


def _show(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{_show(value)} is not a number")
    return float(value)


def _secret(value: Any, _: Any) -> Secret[str]:
    if not isinstance(value, str):
        raise ValueError("is not a string")
    return Secret(value)


def _enum(value: Any, cls: type[enum.Enum]) -> enum.Enum:
    try:
        return cls(value)
    except ValueError:
        known = [str(member.value) for member in cls]
        hint = nearest(value.upper() if known[0].isupper() else value.lower(), known) if isinstance(value, str) else ""
        raise ValueError(f"{_show(value)} is not one of {', '.join(known)}{hint}") from None


def _instant(value: Any, _: Any) -> datetime:
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{_show(value)} is not an ISO 8601 instant") from None
    if instant.tzinfo is None:
        raise ValueError(f"{_show(value)} has no offset; write it in UTC with a Z")
    return instant


def _mapping_expected(structure_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, cls: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"{_show(value)} is not an object")
        return structure_fn(value, cls)

    return hook


def _class_hooks(converter: cattrs.Converter) -> None:
    def names(cls: type) -> dict[str, Any]:
        return {field.name: override(rename=_wire_name(field)) for field in attrs.fields(cls)}

    def structure_factory(cls: type) -> Callable[[Any, Any], Any]:
        fn = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **names(cls))  # type: ignore[var-annotated]
        return _mapping_expected(fn)

    converter.register_structure_hook_factory(attrs.has, structure_factory)
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, **names(cls))
    )


def _sequence_hooks(converter: cattrs.Converter) -> None:
    def is_tuple(cls: Any) -> bool:
        return get_origin(cls) is tuple

    def tuple_factory(cls: Any) -> Callable[[Any, Any], Any]:
        element: Any = types.GenericAlias(list, get_args(cls)[0])

        def hook(value: Any, _: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise ValueError(f"{_show(value)} is not a list")
            return tuple(converter.structure(value, element))

        return hook

    converter.register_structure_hook_factory(is_tuple, tuple_factory)

    def is_mapping(cls: Any) -> bool:
        return get_origin(cls) in (Mapping, dict)

    def mapping_factory(cls: Any) -> Callable[[Any, Any], Any]:
        _, element = get_args(cls)
        inner = converter.get_structure_hook(element)

        def hook(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"{_show(value)} is not an object")
            faults: list[Exception] = []
            out: dict[str, Any] = {}
            for key, item in value.items():
                try:
                    if not isinstance(key, str):
                        raise ValueError(f"the key {key!r} is not a string")
                    out[key] = inner(item, element)
                except Exception as error:
                    error.__notes__ = [
                        *getattr(error, "__notes__", []),
                        IterableValidationNote(f"at {key}", str(key), element),
                    ]
                    faults.append(error)
            if faults:
                raise cattrs.errors.IterableValidationError("While structuring a mapping", faults, cls)
            return out

        return hook

    def plain_mapping_factory(cls: Any) -> Callable[[Any], Any]:
        _, element = get_args(cls)
        if element in PRIMITIVES:
            return lambda value: {str(key): item for key, item in value.items()}
        inner = converter.unstructure if element is Any else converter.get_unstructure_hook(element)
        return lambda value: {str(key): inner(item) for key, item in value.items()}

    converter.register_structure_hook_factory(is_mapping, mapping_factory)
    converter.register_unstructure_hook_factory(is_mapping, plain_mapping_factory)
    converter.register_unstructure_hook(tuple, lambda value: [converter.unstructure(item) for item in value])


def _optional_hooks(converter: cattrs.Converter) -> None:
    def is_optional(cls: Any) -> bool:
        return get_origin(cls) in (Union, types.UnionType) and len(get_args(cls)) == 2 and type(None) in get_args(cls)

    def factory(cls: Any) -> Callable[[Any, Any], Any]:
        inner = next(arg for arg in get_args(cls) if arg is not type(None))
        hook = converter.get_structure_hook(inner)
        return lambda value, _: None if value is None else hook(value, inner)

    converter.register_structure_hook_factory(is_optional, factory)


def _build(*, reveal: bool, detailed: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=detailed)
    _class_hooks(converter)
    _sequence_hooks(converter)
    _optional_hooks(converter)
    converter.register_structure_hook(str, _expect("a string", str))
    converter.register_structure_hook(int, _expect("a whole number", int))
    converter.register_structure_hook(bool, _expect("true or false", bool))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, enum.Enum), _enum)
    converter.register_structure_hook(datetime, _instant)
    converter.register_unstructure_hook(datetime, lambda value: value.isoformat())
    converter.register_structure_hook(timedelta, lambda value, _: timedelta(seconds=_float(value, _)))
    converter.register_unstructure_hook(timedelta, lambda value: value.total_seconds())

    def is_error(cls: Any) -> bool:
        return isinstance(cls, type) and issubclass(cls, CloudError)

    converter.register_structure_hook_func(is_error, _mapping_expected(lambda value, _: error_from(value)))
    converter.register_unstructure_hook_func(is_error, lambda error: error.record())

    def is_secret(cls: Any) -> bool:
        return cls is Secret or get_origin(cls) is Secret

    converter.register_structure_hook_func(is_secret, _secret)
    # A value keeps no part of the body that it was made from.
    converter.register_structure_hook_func(lambda cls: cls is Any, lambda value, _: copy.deepcopy(value))
    converter.register_unstructure_hook_func(is_secret, lambda value: value.reveal() if reveal else "***")
    return converter


_CONVERTER = _build(reveal=True, detailed=True)
_PLAIN = _build(reveal=True, detailed=False)
"""The same rules; stops at the first fault, in half the time."""
_MASKED = _build(reveal=False, detailed=True)
