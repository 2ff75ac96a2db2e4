"""The published schema of each API: the discovery documents that ship in the google-api-python-client wheel.

They decide which paths there are, which parameters and which fields, and bind this simulator's own answers as they bind
requests. They do not tell rules across fields, defaults, states, limits or the grammar of filters.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

import attrs

Json = dict[str, Any]
DOCUMENTS = "googleapiclient.discovery_cache.documents"
SIGNED = {"int32": 32, "int64": 64}
UNSIGNED = {"uint32": 32, "uint64": 64}
BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
TEMPLATE = re.compile(r"\{(\+?)([\w.]+)\}")


@attrs.frozen(kw_only=True)
class Method:
    """One method of an API. ``id`` is the vendor's (``compute.instances.insert``)."""

    id: str
    api: str
    http: str
    template: str
    parameters: Mapping[str, Json]
    request: str
    """The schema of the body; empty when there is none."""
    response: str
    uploads: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Return what the whole path has to match, below the service's own path."""

        def group(found: re.Match[str]) -> str:
            plus, name = found.groups()
            pattern = self.parameters.get(name, {}).get("pattern", "")
            inner = pattern.removeprefix("^").removesuffix("$") if plus and pattern else (".+" if plus else "[^/]+")
            return f"(?P<{name.replace('.', '_')}>{inner})"

        parts, last = [], 0
        for found in TEMPLATE.finditer(self.template):
            parts += [re.escape(self.template[last : found.start()]), group(found)]
            last = found.end()
        return re.compile("".join([*parts, re.escape(self.template[last:])]))

    @property
    def literals(self) -> int:
        """Return how much of the path is fixed: the more, the closer the match."""
        return len(TEMPLATE.sub("", self.template))


@attrs.frozen(kw_only=True)
class Document:
    """One API: its methods and schemas. ``base``: the path in front of its methods (``compute/v1/``)."""

    api: str
    base: str
    methods: Mapping[str, Method]
    schemas: Mapping[str, Json]
    common: Mapping[str, Json]
    _routes: Mapping[tuple[str, int], tuple[Method, ...]] = attrs.field(repr=False)

    @classmethod
    def load(cls, api: str, version: str) -> "Document":
        """Read one from the wheel, once per process."""
        return _load(api, version)

    def route(self, http: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """Return the method of a path (percent-encoded, below ``base``) and the parameters in it; None when there is none."""
        for key in ((http, path.count("/")), (http, -1)):
            for method in self._routes.get(key, ()):
                found = method.regex.fullmatch(path)
                if found is None:
                    continue
                values = {name: unquote(value) for name, value in found.groupdict().items()}
                if all(_fits(method.parameters.get(name, {}), value) for name, value in values.items()):
                    return method, values
        return None

    def parameter_faults(self, method: Method, query: Mapping[str, list[str]]) -> Iterator[str]:
        """Yield what is wrong with a query."""
        for name, values in query.items():
            spec = method.parameters.get(name) or self.common.get(name)
            if spec is None or spec.get("location") != "query":
                yield f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
                continue
            if len(values) > 1 and not spec.get("repeated"):
                yield f"Invalid value at '{name}': it is given {len(values)} times"
            for value in values:
                if fault := _text_fault(spec, value):
                    yield f"Invalid value at '{name}': {fault}"
        for name, spec in method.parameters.items():
            if spec.get("required") and spec["location"] == "query" and name not in query:
                yield f"Required parameter: {name}"

    def request_faults(self, method: Method, body: object) -> Iterator[str]:
        """Yield what is wrong with the body of a request."""
        if not method.request:
            if body not in (None, {}):
                yield "Invalid JSON payload received. The request takes no body."
            return
        yield from self._faults(self.schemas[method.request], body, "", method.id)

    def response_faults(self, method: Method, body: object) -> Iterator[str]:
        """Yield what is wrong with the body of an answer; a method without one answers nothing."""
        if not method.response:
            if body not in (None, {}):
                yield f"{method.id} answers nothing"
            return
        yield from self._faults(self.schemas[method.response], body, "", "")

    def _faults(self, schema: Json, value: object, path: str, method: str) -> Iterator[str]:
        if value is None:
            return
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "any":
            return
        if kind == "object":
            yield from self._object_faults(schema, value, path, method)
        elif kind == "array":
            if not isinstance(value, list):
                yield f"Invalid value at '{path}' (list)"
                return
            for at, item in enumerate(value):
                yield from self._faults(schema.get("items", {}), item, f"{path}[{at}]", method)
        elif fault := _value_fault(schema, value, lenient=bool(method)):
            yield f"Invalid value at '{path}' ({fault})"

    def _object_faults(self, schema: Json, value: object, path: str, method: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"Invalid value at '{path}' (object)"
            return
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            if (inner := properties.get(name) or more) is None:
                yield f"Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field."
            else:
                yield from self._faults(inner, item, below, method)
        for name, inner in properties.items():
            if method and method in inner.get("annotations", {}).get("required", ()) and value.get(name) in (None, ""):
                yield f"Required field '{f'{path}.{name}' if path else name}' not specified"


@cache
def _load(api: str, version: str) -> Document:
    text = (files("googleapiclient") / "discovery_cache" / "documents" / f"{api}.{version}.json").read_text()
    raw = json.loads(text)
    methods = {method.id: method for method in _methods(api, raw)}
    routes: dict[tuple[str, int], list[Method]] = {}
    for method in sorted(methods.values(), key=lambda method: -method.literals):
        count = -1 if "{+" in method.template else method.template.count("/")
        routes.setdefault((method.http, count), []).append(method)
    return Document(
        api=api, base=raw["servicePath"], methods=methods, schemas=raw["schemas"], common=raw["parameters"],
        routes={key: tuple(found) for key, found in routes.items()},
    )  # fmt: skip


def _methods(api: str, raw: Json) -> Iterator[Method]:
    for method in raw.get("methods", {}).values():
        yield Method(
            id=method["id"],
            api=api,
            http=method["httpMethod"],
            template=method["path"],
            parameters=method.get("parameters", {}),
            request=method.get("request", {}).get("$ref", ""),
            response=method.get("response", {}).get("$ref", ""),
            uploads=bool(method.get("supportsMediaUpload")),
        )
    for resource in raw.get("resources", {}).values():
        yield from _methods(api, resource)


def _fits(spec: Json, value: str) -> bool:
    return "pattern" not in spec or re.fullmatch(spec["pattern"], value) is not None


def _text_fault(spec: Json, value: str) -> str:
    """Return what is wrong with a value that came as text."""
    kind = spec.get("type")
    if kind == "boolean" and value not in ("true", "false"):
        return f"'{value}' is not true or false"
    if kind == "integer":
        if not re.fullmatch(r"-?\d+", value):
            return f"'{value}' is not a number"
        if "minimum" in spec and int(value) < int(spec["minimum"]):
            return f"{value} is below {spec['minimum']}"
        if "maximum" in spec and int(value) > int(spec["maximum"]):
            return f"{value} is above {spec['maximum']}"
    if "enum" in spec and value not in spec["enum"]:
        return f"'{value}' is none of {', '.join(spec['enum'])}"
    return "" if _fits(spec, value) else f"'{value}' does not match the pattern {spec['pattern']}"


def _value_fault(schema: Json, value: object, *, lenient: bool) -> str:
    """Return what is wrong with a scalar of a body. Lenient, as Google reads: numbers where their decimal form is asked for."""
    kind, form = schema["type"], schema.get("format", "")
    if kind == "boolean":
        return "" if isinstance(value, bool) else f"boolean, {value!r}"
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float) or (kind == "integer" and value != int(value)):
            return f"{form or kind}, {value!r}"
        return _range_fault(form, int(value)) if kind == "integer" else ""
    if form in SIGNED or form in UNSIGNED:
        if not (isinstance(value, str) and re.fullmatch(r"-?\d+", value)) and not (lenient and type(value) is int):
            return f"{form}, {value!r}"
        return _range_fault(form, int(value))
    if not isinstance(value, str):
        return f"string, {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"enum, {value!r}"
    if form == "byte" and not BASE64.fullmatch(value):
        return f"base64, {value!r}"
    if "pattern" in schema and value and not re.fullmatch(schema["pattern"], value):
        return f"{value!r} does not match the pattern {schema['pattern']}"
    return ""


def _range_fault(form: str, value: int) -> str:
    if form in SIGNED and not -(2 ** (SIGNED[form] - 1)) <= value < 2 ** (SIGNED[form] - 1):
        return f"{form}, {value}"
    if form in UNSIGNED and not 0 <= value < 2 ** UNSIGNED[form]:
        return f"{form}, {value}"
    return ""
