"""Reads a spec from YAML or JSON, and remembers where each field stands, so that a fault names its line."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cluster import ClusterSpec

FIELDS = "name:, cloud:, head_node: ..."
"""What a cluster's spec begins with: told to whoever gives something else."""


@attrs.frozen(kw_only=True)
class SpecFile:
    """A spec as it was written: ``raw`` goes to the control plane, which names all the faults of it."""

    name: str
    raw: Mapping[str, Any]
    spec: ClusterSpec
    lines: Mapping[str, int]
    """Where each field stands, by path (``worker_nodes[2].max_nodes``), counted from 1."""


def load(source: str) -> SpecFile:
    """Read a spec from a file, or from stdin for ``-``.

    Raises SpecError with every fault and its line; for text that is not YAML the one fault names line and column.
    """
    name, raw, lines = document(source)
    with located(name, lines):
        spec = wire.structure(raw, ClusterSpec, subject=name)
    return SpecFile(name=name, raw=raw, spec=spec, lines=lines)


def document(source: str, fields: str = FIELDS) -> tuple[str, Mapping[str, Any], Mapping[str, int]]:
    """Return the name of a file (or of stdin for ``-``), the mapping in it, and the line of each path. Raises SpecError."""
    name, text = _read(source)
    return (name, *parse(text, name, fields))


def parse(text: str, name: str, fields: str = FIELDS) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """Return the mapping that ``text`` is, and the line of each path in it. Raises SpecError."""
    import yaml

    try:
        node = yaml.compose(text, Loader=_loader())
        raw = yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError([Fault(path=where, message=f"is not YAML: {error.problem or error}")], subject=name) from None
    except yaml.YAMLError as error:
        raise SpecError([Fault(path="", message=f"is not YAML: {error}")], subject=name) from None
    if not isinstance(raw, Mapping):
        what = "is empty" if raw is None else f"holds a {type(raw).__name__}, not a mapping"
        raise SpecError([Fault(path="", message=f"{what}; write {fields}")], subject=name)
    lines: dict[str, int] = {}
    doubled: list[Fault] = []
    _walk(node, "", lines, doubled)
    if doubled:
        raise SpecError(doubled, subject=name)
    return raw, lines


@contextlib.contextmanager
def located(name: str, lines: Mapping[str, int]) -> Iterator[None]:
    """Let the faults of a SpecError raised inside name their lines."""
    try:
        yield
    except SpecError as error:
        faults = [attrs.evolve(fault, line=fault.line or _line(fault.path, lines)) for fault in error.faults]
        raise SpecError(faults, subject=name) from None


def _read(source: str) -> tuple[str, str]:
    if source == "-":
        return "stdin", sys.stdin.read()
    try:
        return source, Path(source).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(
            [Fault(path="", message=f"cannot be read: {error.strerror}; give a spec with -f")], subject=source
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError([Fault(path=f"byte {error.start}", message="is not UTF-8")], subject=source) from None


def _loader() -> Any:
    """Return YAML's safe loader without its dates: a spec is JSON, and ``2026-01-01`` in it is a string."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 (the name and the type are the library's)
            letter: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
            for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return Loader


def _walk(node: Any, path: str, lines: dict[str, int], doubled: list[Fault]) -> None:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, f"{path}[{index}]", lines, doubled)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                # YAML would let the last one win without a word.
                doubled.append(Fault(path=inner, line=line, message=f"was set before, in line {lines[inner]}"))
            lines[inner] = line
            _walk(value, inner, lines, doubled)


def _line(path: str, lines: Mapping[str, int]) -> int:
    """Return the line of a field, or of the nearest one around it; 0 when nothing is."""
    around = path
    while around not in lines and around:
        cut = max(around.rfind("."), around.rfind("["))
        around = around[:cut] if cut > 0 else ""
    return lines[around] if around else 0
