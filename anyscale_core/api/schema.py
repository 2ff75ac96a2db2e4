"""The OpenAPI document of the route table, with every type that goes over the wire, named as the wire names it."""

import enum
import re
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

import anyscale_core
from anyscale_core.api.protocol import PROBLEM, Problem
from anyscale_core.api.routes import Door, Route
from anyscale_core.models.secret import Secret

JSON = "application/json"
_PLAIN: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    timedelta: {"type": "number", "description": "seconds"},
    Any: {},
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1)."""
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "anyscale_core", "version": anyscale_core.__version__},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if route.answer is bytes:
        good["content"] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        good["content"] = {JSON: {"schema": schema_of(route.answer, schemas)}}
    problem = {
        "description": "Why it was not done (RFC 9457).",
        "content": {PROBLEM: {"schema": schema_of(Problem, schemas)}},
    }
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub('[^a-z0-9]+', '_', route.path)}".strip("_"),
        "summary": route.says,
        "responses": {str(route.status): good, "default": problem},
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(route)),
            *(
                {"name": name, "in": "query", "description": says, "schema": {"type": "string"}}
                for name, says in route.query.items()
            ),
        ],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema_of(route.body, schemas)}}}
    if route.door in (Door.USER, Door.NODE):
        operation["security"] = [{"bearer": []}]
    return operation


def schema_of(cls: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a type as the wire has it; classes and enums go to ``schemas`` and are referred to."""
    cls = getattr(cls, "__supertype__", cls)  # NewType
    if cls in _PLAIN:
        return dict(_PLAIN[cls])
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if cls is Secret or origin is Secret:
        return {"type": "string", "format": "password"}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if arg is type(None) else schema_of(arg, schemas) for arg in args]}
    if origin is tuple:
        return {"type": "array", "items": schema_of(args[0], schemas)}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": schema_of(args[1], schemas)}
    return _named(cls, schemas)


def _named(cls: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    name = cls.__name__
    if name not in schemas:
        schemas[name] = {}  # holds the place, should the type contain itself
        schemas[name] = _enum(cls) if issubclass(cls, enum.Enum) else _class(cls, schemas)
    return {"$ref": f"#/components/schemas/{name}"}


def _enum(cls: type[enum.Enum]) -> dict[str, Any]:
    return {"type": "string", "enum": [member.value for member in cls], "description": cls.__doc__ or ""}


def _class(cls: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in attrs.fields(cls):
        kind = hints[field.name]
        is_duration = kind is timedelta or timedelta in typing.get_args(kind)
        name = f"{field.name}_s" if is_duration else field.name
        properties[name] = schema_of(kind, schemas)
        if field.default is attrs.NOTHING:
            required.append(name)
    return {
        "type": "object",
        "description": (cls.__doc__ or "").strip(),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _names(route: Route) -> list[str]:
    return re.findall(r"{(\w+)}", route.path)
