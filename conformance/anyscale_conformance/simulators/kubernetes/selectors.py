"""Label and field selectors: the grammar of the query parameters, and that of ``matchLabels`` and ``matchExpressions``."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes.problems import Problem, bad_request

Labels = Mapping[str, str]

_REQUIREMENT = re.compile(
    r"""\s*(?:
        (?P<not>!)\s*(?P<absent>[^\s!=,()]+)
      | (?P<key>[^\s!=,()<>]+)\s*(?:
            (?P<set>\b(?:in|notin))\s*\((?P<values>[^()]*)\)
          | (?P<sign>==|=|!=|<|>)\s*(?P<value>[^\s,()=!]*)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)
_KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@attrs.frozen(kw_only=True)
class Requirement:
    """One condition on one label. ``operator``: In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def is_met(self, labels: Labels) -> bool:
        """Tell whether labels fulfil it."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        bound = next(iter(self.values))
        if value is None or not value.lstrip("-").isdigit():
            return False
        return int(value) > int(bound) if self.operator == "Gt" else int(value) < int(bound)


@attrs.frozen(kw_only=True)
class Selector:
    """Every requirement has to be met; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def selects(self, labels: Labels) -> bool:
        """Tell whether labels are selected."""
        return all(requirement.is_met(labels) for requirement in self.requirements)


def parse(text: str) -> Selector:
    """Read a ``labelSelector``. Raises Problem 400."""
    requirements, position = [], 0
    while position < len(text):
        found = _REQUIREMENT.match(text, position)
        if found is None or found.end() == position:
            raise _unreadable(text, f"found '{text[position:]}', expected: identifier")
        requirements.append(_requirement(text, found))
        position = found.end()
        if position == len(text) and text.rstrip().endswith(","):
            raise _unreadable(text, "found '', expected: identifier after ','")
    return Selector(requirements=tuple(requirements))


def from_object(selector: Mapping[str, Any] | None) -> Selector | None:
    """Return the selector of a ``LabelSelector`` object; None selects nothing, an empty one everything."""
    if selector is None:
        return None
    exact = [
        Requirement(key=key, operator="In", values=frozenset((value,)))
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    rest = [
        Requirement(key=one["key"], operator=one["operator"], values=frozenset(one.get("values") or ()))
        for one in selector.get("matchExpressions") or ()
    ]
    return Selector(requirements=tuple(exact + rest))


def from_labels(labels: Labels) -> Selector:
    """Return the selector of a plain map, as a Service has it."""
    return Selector(
        requirements=tuple(
            Requirement(key=key, operator="In", values=frozenset((value,))) for key, value in labels.items()
        )
    )


def parse_fields(text: str, allowed: Iterable[str], kind: str) -> Callable[[Mapping[str, Any]], bool]:
    """Read a ``fieldSelector``; only the fields that a kind declares can be asked for. Raises Problem 400."""
    known, terms = frozenset(allowed), []
    for term in filter(None, (word.strip() for word in text.split(","))):
        found = re.fullmatch(r"([^=!]+?)(==|!=|=)(.*)", term)
        if found is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        field, sign, value = found.groups()
        if field not in known:
            raise bad_request(f"field label not supported: {field}" if kind else f"unable to find field {field}")
        terms.append((tuple(field.split(".")), sign != "!=", value))
    return lambda obj: all((_at(obj, path) == value) is equal for path, equal, value in terms)


def _at(obj: Any, path: tuple[str, ...]) -> str:
    for word in path:
        obj = obj.get(word) if isinstance(obj, Mapping) else None
    if obj is None:
        return ""
    return str(obj).lower() if isinstance(obj, bool) else str(obj)


def _requirement(text: str, found: re.Match[str]) -> Requirement:
    key = found["absent"] or found["key"]
    if not _KEY.fullmatch(key):
        raise _unreadable(text, f'key: Invalid value: "{key}": name part must consist of alphanumeric characters')
    if found["not"]:
        return Requirement(key=key, operator="DoesNotExist")
    if found["set"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        operator = "In" if found["set"] == "in" else "NotIn"
    elif found["sign"]:
        values = frozenset((found["value"],))
        operator = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}[found["sign"]]
    else:
        return Requirement(key=key, operator="Exists")
    for value in values:
        if not _VALUE.fullmatch(value):
            raise _unreadable(
                text, f'values[0][{key}]: Invalid value: "{value}": a valid label must be 63 characters or less'
            )
        if operator in ("Gt", "Lt") and not value.lstrip("-").isdigit():
            raise _unreadable(text, "for 'Gt', 'Lt' operators, the value must be an integer")
    return Requirement(key=key, operator=operator, values=values)


def _unreadable(text: str, why: str) -> Problem:
    return bad_request(f"unable to parse requirement: {why} (in {text!r})")
