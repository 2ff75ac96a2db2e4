"""Known failures: each with a reason, an issue and a day on which it ends. Strict: one that is no longer needed is a failure.

A file of TOML::

    [[waiver]]
    row = "X-PAGE-06[storage]"
    reason = "the vendor's list shows no tags, so each bucket is got once more"
    issue = "https://tracker.invalid/42"
    expires = 2027-03-01
"""

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.verdicts import Result, Verdict
from anyscale_core.errors import Fault, SpecError

FIELDS = ("row", "reason", "issue", "expires")


@attrs.frozen(kw_only=True)
class Waiver:
    """One failure that is known."""

    row: str
    reason: str
    issue: str
    expires: date


def read(path: Path) -> tuple[Waiver, ...]:
    """Return the waivers of a file. Raises SpecError with every fault."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError([Fault(path="", message=str(error))], subject=str(path)) from error
    entries = body.get("waiver", [])
    faults = [Fault(path=key, message="unknown field; write [[waiver]]") for key in body if key != "waiver"]
    for number, entry in enumerate(entries):
        faults += _faults(f"waiver[{number}]", entry)
    if faults:
        raise SpecError(faults, subject=str(path))
    return tuple(Waiver(**entry) for entry in entries)


def apply(results: Iterable[Result], waivers: Iterable[Waiver], *, today: date) -> tuple[Result, ...]:
    """Return the results as the waivers let them stand."""
    by_row = {waiver.row: waiver for waiver in waivers}
    return tuple(_applied(result, by_row.get(result.row), today) for result in results)


def _applied(result: Result, waiver: Waiver | None, today: date) -> Result:
    if waiver is None or result.verdict in (Verdict.ERROR, Verdict.NOT_RUN, Verdict.UNVERIFIED):
        return result
    if result.verdict is not Verdict.FAIL:
        message = f"it holds, and a waiver ({waiver.issue}) says that it does not: remove the waiver"
        return attrs.evolve(result, verdict=Verdict.FAIL, message=message)
    if today > waiver.expires:
        message = f"the waiver ({waiver.issue}) ended on {waiver.expires}: {result.message}"
        return attrs.evolve(result, message=message)
    message = f"{waiver.reason} ({waiver.issue}, until {waiver.expires}): {result.message}"
    return attrs.evolve(result, verdict=Verdict.WAIVED, message=message)


def _faults(where: str, entry: Mapping[str, Any]) -> Iterable[Fault]:
    for field in FIELDS:
        kind = date if field == "expires" else str
        value = entry.get(field)
        if not value:
            yield Fault(path=f"{where}.{field}", message="is required")
        elif not isinstance(value, kind):
            yield Fault(path=f"{where}.{field}", message=f"{value!r} is not a {'date' if kind is date else 'string'}")
    for field in entry.keys() - set(FIELDS):
        yield Fault(path=f"{where}.{field}", message=f"unknown field; there are {', '.join(FIELDS)}")
