"""Conditions of an object's status: one of each type, with the instant at which its status last changed."""

from collections.abc import Iterable, Mapping
from typing import Any


def with_condition(
    conditions: Iterable[Mapping[str, Any]], type: str, status: str, *, stamp: str, reason: str = "", message: str = ""
) -> list[dict[str, Any]]:
    """Return conditions with one of them set."""
    others = [dict(one) for one in conditions if one["type"] != type]
    old = next((one for one in conditions if one["type"] == type), None)
    since = old["lastTransitionTime"] if old is not None and old["status"] == status else stamp
    made: dict[str, Any] = {"type": type, "status": status, "lastProbeTime": None, "lastTransitionTime": since}
    if reason:
        made["reason"] = reason
    if message:
        made["message"] = message
    return [*others, made]


def plain(conditions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return conditions of kinds that know no probes."""
    return [{key: value for key, value in one.items() if key != "lastProbeTime"} for one in conditions]
