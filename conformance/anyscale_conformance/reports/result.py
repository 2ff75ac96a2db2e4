"""``result.json``: what a run found. The one source of every other report."""

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.rows import Row
from anyscale_conformance.rules import Level
from anyscale_conformance.runner import Run
from anyscale_conformance.verdicts import Grade, Result, Verdict, grade
from anyscale_core import CONTRACT_VERSION
from anyscale_core.drivers.capability import CAPABILITIES, Capabilities
from anyscale_core.errors import Fault, SpecError
from anyscale_core.hookspecs import Provider

SCHEMA = 1
TIMES = frozenset({"duration_s", "virtual_s"})
"""Fields in which two runs of one seed may differ."""


@attrs.frozen(kw_only=True)
class Claim:
    """What is declared of one capability (``supported``, ``emulated``, ``unsupported``), and how its row came out."""

    declared: str
    note: str = ""
    verdict: str = ""


@attrs.frozen(kw_only=True)
class Report:
    """One run's results, by row. ``selection``: the checks that were asked for, empty for all.

    ``integrity``: what is wrong with the suite itself; a report with any is INCOMPLETE at best.
    """

    provider: str
    distribution: str
    version: str
    slots: tuple[str, ...]
    contract: str
    suite: str
    manifest: str
    integrity: tuple[str, ...]
    mode: str
    seed: int
    profile: str
    selection: tuple[str, ...]
    python: str
    system: str
    capabilities: Mapping[str, Claim]
    results: tuple[Result, ...]

    @property
    def grade(self) -> Grade:
        """What the results are worth."""
        found = grade(self.results, is_partial=bool(self.selection))
        return Grade.INCOMPLETE if self.integrity and found is not Grade.FAILED else found

    def counts(self) -> Mapping[Verdict, int]:
        """Return how many rows came out how, in the order of Verdict."""
        counter = Counter(result.verdict for result in self.results)
        return {verdict: counter[verdict] for verdict in Verdict if counter[verdict]}


def report_of(
    run: Run,
    *,
    rows: Iterable[Row],
    results: Iterable[Result],
    selection: tuple[str, ...] = (),
    profile: str = "",
    integrity: tuple[str, ...] = (),
    manifest: str = "",
) -> Report:
    """Return the report of a run; rows without a result are NOT_RUN, unless others were selected."""
    found = {result.row: result for result in results}
    for row in rows if not selection else ():
        if row.id not in found:
            found[row.id] = Result(
                row=row.id, check=row.check.id, subject=row.subject, level=row.check.level, verdict=Verdict.NOT_RUN,
                message="it has no result: deselected, removed or interrupted",
            )  # fmt: skip
    with run.world("report") as kit:
        provider = kit.provider()
        distribution = kit.distribution()
    return Report(
        provider=run.kit.name, distribution=distribution, version=_version(distribution), slots=tuple(provider.slots()),
        contract=CONTRACT_VERSION, suite=_version("anyscale-conformance"), manifest=manifest, integrity=integrity,
        mode=run.mode.value, seed=run.seed, profile=profile, selection=selection, python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}", capabilities=_claims(provider, found),
        results=tuple(found[id] for id in sorted(found)),
    )  # fmt: skip


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    plain = attrs.asdict(report, recurse=True)
    plain["results"] = [
        attrs.asdict(result) | {"level": result.level.value, "verdict": result.verdict.value}
        for result in report.results
    ]
    counts = {verdict.value: count for verdict, count in report.counts().items()}
    return {"schema": SCHEMA, "grade": report.grade.value, "counts": counts, **plain}


def without_times(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without what differs between two runs of one seed."""
    results = [{key: value for key, value in result.items() if key not in TIMES} for result in plain["results"]]
    return {**plain, "results": results}


def read(path: Path) -> Report:
    """Return the report in a file (or in the ``result.json`` of a folder). Raises SpecError for what is not one."""
    path = path / "result.json" if path.is_dir() else path
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {plain.get('schema')!r}, not {SCHEMA}")
        results = tuple(
            Result(**{
                **each, "level": Level(each["level"]), "verdict": Verdict(each["verdict"]),
                "faults": tuple(each["faults"]), "leaks": tuple(each["leaks"]),
            })
            for each in plain["results"]
        )  # fmt: skip
        capabilities = {id: Claim(**claim) for id, claim in plain["capabilities"].items()}
        fields = {field.name: plain[field.name] for field in attrs.fields(Report)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            [Fault(path="", message=f"{type(error).__name__}: {error}")], subject=f"report {path}"
        ) from error
    tuples = {name: tuple(fields[name]) for name in ("slots", "integrity", "selection")}
    return Report(**{**fields, **tuples, "results": results, "capabilities": capabilities})


def write_json(report: Report, folder: Path) -> Path:
    """Write ``result.json`` into a folder, made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
    return path


def _claims(provider: Provider, results: Mapping[str, Result]) -> dict[str, Claim]:
    claims: Capabilities = provider.capabilities
    out: dict[str, Claim] = {}
    for id in CAPABILITIES:
        declared = "supported" if id in claims.supported else "emulated" if id in claims.emulated else "unsupported"
        note = claims.emulated.get(id, "") or claims.unsupported.get(id, "")
        rows = (results.get(f"K-CAP-05[{id}]"), results.get(f"K-CAP-04[{id}]"))
        verdict = next((row.verdict.value for row in rows if row is not None), "")
        out[id] = Claim(declared=declared, note=note, verdict=verdict)
    return out


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
