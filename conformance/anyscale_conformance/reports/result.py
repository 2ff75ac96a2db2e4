"""``result.json``: what a run found. The one source of every other report."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.rows import Row
from anyscale_conformance.runner import Run
from anyscale_conformance.verdicts import Grade, Result, Verdict, grade
from anyscale_core import CONTRACT_VERSION

SCHEMA = 1


@attrs.frozen(kw_only=True)
class Report:
    """One run's results, by row. ``selection``: the checks that were asked for, empty for all."""

    provider: str
    contract: str
    mode: str
    seed: int
    selection: tuple[str, ...]
    results: tuple[Result, ...]

    @classmethod
    def of(
        cls, run: Run, *, rows: Iterable[Row], results: Iterable[Result], selection: tuple[str, ...] = ()
    ) -> "Report":
        """Return the report of a run; rows without a result are NOT_RUN unless others were selected."""
        found = {result.row: result for result in results}
        missing = [] if selection else [row for row in rows if row.id not in found]
        for row in missing:
            found[row.id] = Result(
                row=row.id, check=row.check.id, subject=row.subject, level=row.check.level, verdict=Verdict.NOT_RUN
            )
        return cls(
            provider=run.kit.name, contract=CONTRACT_VERSION, mode=run.mode.value, seed=run.seed, selection=selection,
            results=tuple(found[id] for id in sorted(found)),
        )  # fmt: skip

    @property
    def grade(self) -> Grade:
        """What the results are worth."""
        return grade(self.results, is_partial=bool(self.selection))

    def counts(self) -> Mapping[Verdict, int]:
        """Return how many rows came out how, in the order of Verdict."""
        counter = Counter(result.verdict for result in self.results)
        return {verdict: counter[verdict] for verdict in Verdict if counter[verdict]}


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    return {
        "schema": SCHEMA,
        "provider": report.provider,
        "contract": report.contract,
        "mode": report.mode,
        "seed": report.seed,
        "selection": list(report.selection),
        "grade": report.grade.value,
        "counts": {verdict.value: count for verdict, count in report.counts().items()},
        "results": [
            attrs.asdict(result) | {"level": result.level.value, "verdict": result.verdict.value}
            for result in report.results
        ],
    }


def write_json(report: Report, folder: Path) -> Path:
    """Write ``result.json`` into a folder, made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
    return path
