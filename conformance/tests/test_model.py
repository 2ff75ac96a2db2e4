"""The model: its programs are the same by one seed, reach every rule, and fail in few steps."""

import random
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from anyscale_conformance.context import Context
from anyscale_conformance.kit import find
from anyscale_conformance.model import Model
from anyscale_conformance.moves import RULES, STEPS, WEIGHTS, carry_out
from anyscale_conformance.mutants.base import load
from anyscale_conformance.programs import Draw, Program, Step, random_program, shortest
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.subjects import BATCH, ENDPOINT, MAIN
from anyscale_conformance.verdicts import Result, Verdict

EVERYTHING = (*MAIN, BATCH, ENDPOINT)


def steps(*rules: str) -> Program:
    return tuple(Step(rule=rule, numbers=(0,)) for rule in rules)


def fails_with(*needed: str) -> Callable[[Program], str | None]:
    def attempt(program: Program) -> str | None:
        rules = [step.rule for step in program]
        return " ".join(rules) if set(needed) <= set(rules) else None

    return attempt


def test_a_failing_program_is_cut_down_to_the_steps_that_matter() -> None:
    program = steps(*"abcdefghijkl")
    assert shortest(program, "whole", fails_with("c", "k"), tries=60) == "c k"


def test_the_search_for_a_shorter_program_ends_when_it_has_had_its_tries() -> None:
    tried: list[Program] = []

    def attempt(program: Program) -> str | None:
        tried.append(program)
        return None

    assert shortest(steps(*"abcdefghijkl"), "whole", attempt, tries=5) == "whole"
    assert len(tried) == 5


def test_a_choice_is_made_by_the_number_however_many_there_are_to_choose_from() -> None:
    step = Step(rule="a", numbers=(7, 7))
    draw = Draw(step)
    assert (draw.of("abc"), draw.of("abcde")) == ("b", "c")


@attrs.frozen
class Made:
    born: int


def test_a_step_whose_thing_was_cut_out_chooses_no_other() -> None:
    first = Draw(Step(rule="a", numbers=(1, 1)))
    assert first.one([Made(4), Made(9), Made(11)]) == [Made(9)]
    assert Draw(first.step).one([Made(9), Made(11)]) == [Made(9)]
    assert Draw(first.step).one([Made(4), Made(11)]) == []


def test_a_program_is_the_same_by_the_same_seed_and_another_by_another() -> None:
    one, same, other = (random_program(random.Random(seed), WEIGHTS, STEPS) for seed in (1, 1, 2))
    assert one == same != other


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [word for seed in range(12) for word in story(seed, tmp_path_factory.mktemp("home"))]


def story(seed: int, home: Path) -> tuple[str, ...]:
    with Run(kit=find("fake"), seed=seed, home=home).world("model") as kit:
        model = Model(Context(kit), EVERYTHING)
        assert carry_out(model, random_program(random.Random(seed), WEIGHTS, 3 * STEPS)) is None
        return tuple(model.story)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_programs_of_a_few_seeds_reach_the_rule(rule: str, stories: list[str]) -> None:
    words = {
        "create_through_a_fault": "create through ",
        "delete_through_a_fault": "delete through ",
        "ask_for_another": "use its token for another spec",
        "repeat_the_moved": "repeat the older order",
        "delete_anothers": "delete another's",
    }.get(rule, rule.replace("_", " "))
    assert [told for told in stories if told.startswith(words)], f"no program told: {words}"


def result_of(name: str, check: str) -> Result:
    run = Run(kit=load()[name].kit, limit_s=30.0)
    return next(run.run(row) for row in run.rows(all_checks()) if row.id == check)


def test_two_runs_by_one_seed_fail_by_the_same_program() -> None:
    first, second = (result_of("EveryFifthIsLost", "X-SEQ-02") for _ in range(2))
    assert first.verdict is Verdict.FAIL
    assert first.message == second.message


def test_the_program_of_a_failure_is_as_short_as_its_fault_needs() -> None:
    message = result_of("AnOlderOrderMovesBack", "X-SEQ-01[networking]").message
    program = message.partition("[program: ")[2].split("; ")
    told = [step for step in program if "networking.endpoint" in step and not step.startswith(("get", "list"))]
    assert len(program) <= 5, message
    assert len(told) >= 3, message
