"""The conformance suite through control plane, mailbox, wire and operator: the reference provider keeps its promises.

Here every check runs on one of its subjects, in turn; ``python -m tests.operator.through`` runs all rows, which takes minutes.
"""

from pathlib import Path

import pytest
from anyscale_conformance.reports.result import report_of
from anyscale_conformance.rows import Row
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Grade

from tests.operator.through import FakeThroughOperator, bad

MODELS = ("X-SEQ-01", "X-SEQ-02")
"""Thousands of calls each."""


@pytest.mark.timeout(900)
def test_the_reference_provider_is_conformant_through_an_operator(tmp_path: Path) -> None:
    run = Run(kit=FakeThroughOperator, home=tmp_path)
    by_check: dict[str, list[Row]] = {}
    for row in run.rows(all_checks()):
        if row.check.id not in MODELS:
            by_check.setdefault(row.check.id, []).append(row)
    rows = [rows[turn % len(rows)] for turn, rows in enumerate(by_check.values())]
    assert len(rows) > 150
    assert {row.subject.partition(".")[0] for row in rows} >= {"cluster", "identity", "networking", "storage"}
    results = list(run.each(rows))
    assert bad(results) == []
    assert report_of(run, rows=rows, results=results).grade is Grade.CONFORMANT
