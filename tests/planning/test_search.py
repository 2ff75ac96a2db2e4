"""How good the packing is beside a proven bound, and that its work does not grow with the number of requests."""

import pytest

from anyscale_core.planning import exact, search, solver
from anyscale_core.planning.packing import Kind, Packer, Problem
from benchmarks.fleets import MIXES, catalogue, demand
from benchmarks.fleets import problem as arithmetic


def problem(mix: str, types: int, requests: int) -> Problem:
    """Return a point of the benchmark's grid, prices alone."""
    return arithmetic(demand(mix, requests), catalogue(types))


@pytest.mark.parametrize("types", [10, 100])
@pytest.mark.parametrize("mix", MIXES)
def test_a_fleet_costs_at_most_1_12_times_the_bound_alone_and_1_03_times_with_the_solver(mix: str, types: int) -> None:
    for requests in (1000, 5000):
        asked = problem(mix, types, requests)
        bound = solver.bound(asked)
        alone, solved = search.cheapest(asked), search.cheapest(asked, improve=solver.improve)
        assert not any((*alone.left, *solved.left))
        assert bound * (1 - 1e-6) <= solved.cost <= alone.cost
        assert alone.cost <= 1.12 * bound
        assert solved.cost <= 1.03 * bound


@pytest.mark.parametrize("mix", MIXES)
def test_fifty_thousand_requests_are_no_more_work_than_a_thousand(mix: str) -> None:
    steps = []
    for requests in (1000, 50_000):
        packer = Packer(problem(mix, 100, requests))
        packer.pack(packer.standalone())
        steps.append(packer.steps)
    assert steps[1] <= 2 * steps[0]


def test_equal_problems_have_equal_answers_with_the_solver_too() -> None:
    asked = problem("mixed", 10, 300)
    answers = {repr(search.cheapest(asked, improve=solver.improve)) for _ in range(3)}
    assert len(answers) == 1


def test_a_search_that_is_too_much_says_so_instead_of_guessing() -> None:
    assert exact.cheapest(Packer(problem("many", 100, 60))) is None
    assert exact.cheapest(Packer(problem("cpu", 10, 6)), steps=3) is None
    assert exact.cheapest(Packer(problem("cpu", 10, 6))) is not None


def test_limits_bind_the_solver_too() -> None:
    asked = problem("cpu", 10, 400)
    few = Problem(
        items=asked.items,
        kinds=tuple(Kind(room=kind.room, cost=kind.cost, uses=((0, 1.0),)) for kind in asked.kinds),
        limits=(12.0,),
    )
    alone, solved = search.cheapest(few), search.cheapest(few, improve=solver.improve)
    for fleet in (alone, solved):
        assert sum(load.nodes for load in fleet.loads) <= 12
    values = Packer(few).standalone()
    assert (
        sum(n * v for n, v in zip(solved.left, values, strict=True))
        <= sum(n * v for n, v in zip(alone.left, values, strict=True)) + 1e-9
    )
