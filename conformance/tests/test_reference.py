"""The reference provider keeps the whole contract: the suite accuses nobody wrongly."""

import pytest
from anyscale_conformance.kit import find
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Verdict

FINE = (Verdict.PASS, Verdict.REFUSED_OK)
UNVERIFIED = {"X-ERR-01"}
"""The fake's wire speaks the tree itself: there is no vendor's code to translate."""


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_passes_every_check_by_any_seed_and_leaves_nothing_behind(seed: int) -> None:
    run = Run(kit=find("fake"), seed=seed)
    results = list(run.each(run.rows(all_checks())))
    assert [
        f"{result.row}: {result.message}"
        for result in results
        if result.verdict not in FINE and result.check not in UNVERIFIED
    ] == []
    assert [leak for result in results for leak in result.leaks] == []
