"""The conformance suite through control plane, mailbox, wire and operator: what holds directly holds in pull mode too.

Kubernetes runs whole, on its simulated API server, and is held against its kept result of the direct way. The reference provider
runs each check on one of its subjects, in turn; ``python -m tests.operator.through fake`` runs all of its rows.
"""

from pathlib import Path

import attrs
import pytest
from anyscale_conformance.reports.result import read
from anyscale_conformance.rows import Row
from anyscale_conformance.runner import all_checks
from anyscale_conformance.verdicts import Grade, Verdict

from tests.operator.through import bad, graded, run_of

KEPT = Path(__file__).parents[2] / "conformance" / "results"
MODELS = ("X-SEQ-01", "X-SEQ-02")
"""Thousands of calls each."""


@pytest.mark.timeout(900)
def test_kubernetes_is_as_conformant_through_an_operator_as_it_is_directly(tmp_path: Path) -> None:
    run = attrs.evolve(run_of("kubernetes", scope="ci"), home=tmp_path)
    rows = run.rows(all_checks())
    results = list(run.each(rows))
    assert bad(results) == []
    assert graded(run, rows, results).grade is Grade.CONFORMANT
    directly = {result.row for result in read(KEPT / "kubernetes.json").results if result.verdict is Verdict.UNVERIFIED}
    unproven = {result.row for result in results if result.verdict is Verdict.UNVERIFIED}
    assert unproven <= directly, "what can be proven directly can be proven through an operator"


@pytest.mark.timeout(900)
def test_the_reference_provider_is_conformant_through_an_operator(tmp_path: Path) -> None:
    run = attrs.evolve(run_of("fake"), home=tmp_path)
    by_check: dict[str, list[Row]] = {}
    for row in run.rows(all_checks()):
        if row.check.id not in MODELS:
            by_check.setdefault(row.check.id, []).append(row)
    rows = [rows[turn % len(rows)] for turn, rows in enumerate(by_check.values())]
    assert len(rows) > 150
    assert {row.subject.partition(".")[0] for row in rows} >= {"cluster", "identity", "networking", "storage"}
    results = list(run.each(rows))
    assert bad(results) == []
    assert {result.check for result in results if result.verdict is Verdict.UNVERIFIED} <= {"X-ERR-01"}, (
        "its wire is ours"
    )
