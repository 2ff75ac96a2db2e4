"""Every mutant is caught by each check that was named for it, with that check's own message."""

import pytest
from anyscale_conformance.mutants.base import Mutant, hunted, load
from anyscale_conformance.runner import all_checks


@pytest.mark.parametrize("mutant", load().values(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_by_the_checks_that_are_named_for_it(mutant: Mutant) -> None:
    hunt = hunted(mutant)
    assert hunt.is_caught, f"{', '.join(hunt.missed)} did not fail; {', '.join(hunt.by) or 'nothing'} did"


def test_there_are_enough_of_them_for_every_interface() -> None:
    assert len(load()) >= 60


def test_a_check_that_no_mutant_names_says_why_it_is_there() -> None:
    named = {id.partition("[")[0] for mutant in load().values() for id in mutant.caught_by}
    assert [check.id for check in all_checks() if check.id not in named and not check.why] == []
