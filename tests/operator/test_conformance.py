"""The conformance suite through control plane, mailbox, wire and operator: the reference provider keeps its promises."""

from pathlib import Path

import pytest
from anyscale_conformance.reports.result import report_of
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Grade

from tests.operator.through import FakeThroughOperator, bad

MODELS = ("X-SEQ-01", "X-SEQ-02")
"""Thousands of calls each, a third of the time of all; ``python -m tests.operator.through`` runs them as well."""


@pytest.mark.timeout(900)
def test_the_reference_provider_is_conformant_through_an_operator(tmp_path: Path) -> None:
    run = Run(kit=FakeThroughOperator, home=tmp_path)
    rows = [row for row in run.rows(all_checks()) if row.check.id not in MODELS]
    assert len(rows) > 500
    results = list(run.each(rows))
    assert bad(results) == []
    assert report_of(run, rows=rows, results=results).grade is Grade.CONFORMANT
