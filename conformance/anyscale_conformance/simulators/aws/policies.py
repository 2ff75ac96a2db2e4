"""Policies as IAM reads them: explicit denies, actions and resources with patterns, and the conditions that are used here.

Source: IAM User Guide, "Policy evaluation logic" and "Condition operators".
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

Document = Mapping[str, Any]
Context = Mapping[str, str]


def allows(documents: Iterable[Document], *, action: str, resource: str, context: Context) -> bool:
    """Tell whether these documents together allow an action on a resource."""
    allowed = False
    for document in documents:
        for statement in _several(document.get("Statement", ())):
            if not _applies(statement, action, resource, context):
                continue
            if statement["Effect"] == "Deny":
                return False
            allowed = True
    return allowed


def trusts(document: Document, *, action: str, principal: str, kind: str, context: Context) -> bool:
    """Tell whether a trust policy lets a principal (``kind``: AWS, Service, Federated) assume its role."""
    for statement in _several(document.get("Statement", ())):
        named = statement.get("Principal", {})
        names = ["*"] if named == "*" else _several(named.get(kind, ()))
        if not any(_is(principal, name) for name in names):
            continue
        if any(_like(action, each) for each in _several(statement["Action"])) and holds(statement, context):
            return bool(statement["Effect"] == "Allow")
    return False


def names(document: Document, principals: Iterable[str]) -> bool:
    """Tell whether a trust policy names one of these principals itself, and not just its account."""
    wanted = set(principals)
    return any(
        wanted & set(_several(statement["Principal"].get("AWS", ())))
        for statement in _several(document.get("Statement", ()))
        if isinstance(statement.get("Principal"), Mapping)
    )


def demands(document: Document, key: str) -> bool:
    """Tell whether every way in to a role has a condition on ``key``."""
    return all(key in json.dumps(statement.get("Condition", {})) for statement in _several(document["Statement"]))


def holds(statement: Mapping[str, Any], context: Context) -> bool:
    """Tell whether all conditions of a statement hold."""
    return all(
        _condition(operator, key, wanted, context)
        for operator, pairs in statement.get("Condition", {}).items()
        for key, wanted in pairs.items()
    )


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Context) -> bool:
    acts = _several(statement.get("Action", ()))
    if "Action" in statement and not any(_like(action.lower(), each.lower()) for each in acts):
        return False
    places = [_filled(each, context) for each in _several(statement.get("Resource", "*"))]
    return any(_like(resource, each) for each in places) and holds(statement, context)


def _condition(operator: str, key: str, wanted: Any, context: Context) -> bool:
    name = operator.removesuffix("IfExists")
    found = next((value for each, value in context.items() if each.lower() == key.lower()), None)
    if found is None:
        return operator.endswith("IfExists") or name in ("StringNotEquals", "StringNotLike", "ArnNotLike")
    values = [_filled(str(each), context) for each in _several(wanted)]
    match name:
        case "StringEquals" | "ArnEquals":
            return found in values
        case "StringNotEquals":
            return found not in values
        case "StringLike" | "ArnLike":
            return any(_like(found, each) for each in values)
        case "StringNotLike" | "ArnNotLike":
            return not any(_like(found, each) for each in values)
        case "Bool":
            return found.lower() in (each.lower() for each in values)
        case "Null":
            return values == ["false"]
    raise NotImplementedError(f"the condition operator {operator} is not simulated")


def _is(principal: str, name: str) -> bool:
    if name in ("*", principal):
        return True
    account = principal.split(":")[4] if principal.count(":") >= 5 else ""
    return bool(account) and name in (account, f"arn:aws:iam::{account}:root")


def _filled(pattern: str, context: Context) -> str:
    """Put in policy variables: ``${*}``, ``${?}`` and ``${$}`` stand for the characters themselves."""
    if "${" not in pattern:
        return pattern

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in ("*", "?", "$"):
            return {"*": "\0", "?": "\1", "$": "$"}[name]
        return context.get(name, "\2")

    return re.sub(r"\$\{([^}]*)\}", value, pattern)


def _like(text: str, pattern: str) -> bool:
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": ".", "\0": r"\*", "\1": r"\?"}
    return re.compile("".join(parts.get(each) or re.escape(each) for each in pattern), re.DOTALL)


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
