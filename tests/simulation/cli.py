"""The long run by hand: chapters of histories from a seed, and the shortest history that breaks what the seed has broken."""

import argparse
import enum
import json
import time
from collections.abc import Sequence

import attrs

from tests.simulation.history import History, from_seed, shrunk
from tests.simulation.judge import Broken
from tests.simulation.world import Bench, Sim, Tally, bench


class Output(enum.Enum):
    """For whom it is printed."""

    TEXT = "text"
    JSON = "json"


CHAPTER = 500
"""Steps of one world; a longer run is several, each with the next seed, so that what fails is short from the start."""


def play(bench: Bench, history: History) -> tuple[Sim, Broken | None]:
    """Play a history and the quiet after it in a fresh world; return the world and what broke."""
    sim = Sim(bench)
    try:
        sim.play(history)
        sim.quiet()
    except Broken as broken:
        return sim, broken
    finally:
        sim.close()
    return sim, None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 0 when all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    with bench() as made:
        return _run(made, args.seed, args.steps, Output.JSON if args.json else Output.TEXT)


def _run(bench: Bench, seed: int, steps: int, output: Output) -> int:
    total, began = Tally(), time.perf_counter()
    for number, start in enumerate(range(0, steps, CHAPTER)):
        length = min(CHAPTER, steps - start)
        sim, broken = play(bench, from_seed(seed + number, length))
        total.add(sim.tally)
        if broken is not None:
            return _report(bench, seed + number, length, broken, output)
    _sum_up(total, time.perf_counter() - began, seed, output)
    return 0


def _report(bench: Bench, seed: int, steps: int, broken: Broken, output: Output) -> int:
    """Print the shortest history that breaks the same rule, and the command that plays the whole again."""
    history = from_seed(seed, steps)[: broken.step]

    def fails(candidate: History) -> bool:
        _, other = play(bench, candidate)
        return other is not None and other.rule is broken.rule

    shortest = shrunk(history, fails)
    sim, last = play(bench, shortest)
    assert last is not None, "a history that failed fails again"
    if output is Output.JSON:
        print(json.dumps({"seed": seed, "steps": steps, "broken": last.rule.name, "message": last.message,
                          "history": [attrs.astuple(action) for action in shortest]}))  # fmt: skip
        return 1
    print(f"seed {seed} broke after {broken.step} steps; {len(shortest)} of them are enough:")
    print("\n".join(sim.story))
    print(last)
    print(f"again: python -m tests.simulation --seed {seed} --steps {steps}")
    return 1


def _sum_up(total: Tally, seconds: float, seed: int, output: Output) -> None:
    rate = round(total.steps / seconds)
    if output is Output.JSON:
        print(json.dumps({"seed": seed, "seconds": round(seconds, 2), "steps_per_s": rate} | attrs.asdict(total)))
        return
    print(f"seed {seed}: {total}")
    print(f"{seconds:.1f} s, {rate} steps a second, quiet at the end of every history included")
