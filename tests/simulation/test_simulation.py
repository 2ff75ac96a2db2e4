"""The simulation in the ordinary run, the same each time: what hypothesis thinks of, and one long history."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.simulation.cli import play
from tests.simulation.history import History, from_seed, histories
from tests.simulation.world import Bench, Tally, bench

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> Iterator[Bench]:
    with bench() as made:
        yield made


def test_histories_that_hypothesis_thinks_of_break_no_rule(table: Bench) -> None:
    total = Tally()

    @settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(most=80))
    def run(history: History) -> None:
        sim, broken = play(table, history)
        total.add(sim.tally)
        if broken is not None:
            raise AssertionError("\n".join([*sim.story, str(broken)]))

    run()
    print(f"hypothesis: {total}")


def test_two_thousand_steps_break_no_rule(table: Bench) -> None:
    total = Tally()
    for seed in range(1, 5):
        sim, broken = play(table, from_seed(seed, 500))
        total.add(sim.tally)
        assert broken is None, f"{broken}\nshrink it: python -m tests.simulation --seed {seed} --steps 500"
    assert total.steps >= 2000
    happened = (total.faults, total.kills, total.freezes, total.moves["cluster RUNNING"], total.moves["job SUCCEEDED"])
    assert all(happened), f"a history in which nothing happens proves nothing: {total}"
    print(total)


def test_a_seed_is_the_same_history_in_every_process() -> None:
    def run(hashes: str) -> dict[str, object]:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "7", "--steps", "150", "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, text=True, check=True
        )
        counts: dict[str, object] = json.loads(done.stdout)
        return {key: value for key, value in counts.items() if "second" not in key and not key.endswith("_s")}

    assert run("1") == run("2")
