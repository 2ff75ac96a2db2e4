"""Every mutant is caught by a check that was named for it, with that check's own message."""

import pytest
from anyscale_conformance.mutants.base import Mutant, hunt, load


@pytest.mark.parametrize("mutant", load().values(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_by_a_check_that_is_named_for_it(mutant: Mutant) -> None:
    assert hunt(mutant), f"none of {', '.join(mutant.caught_by)} fails"
