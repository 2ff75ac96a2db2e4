"""Every mutant is caught by each check that was named for it, with that check's own message."""

import pytest
from anyscale_conformance.mutants.base import Mutant, hunted, load


@pytest.mark.parametrize("mutant", load().values(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_by_the_checks_that_are_named_for_it(mutant: Mutant) -> None:
    hunt = hunted(mutant)
    assert hunt.is_caught, f"{', '.join(hunt.missed)} did not fail; {', '.join(hunt.by) or 'nothing'} did"


def test_there_are_enough_of_them_for_every_interface() -> None:
    assert len(load()) >= 60
