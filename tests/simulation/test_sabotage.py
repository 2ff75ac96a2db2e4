"""The simulation finds what is wrong: each sabotage is caught by the rule that is there for it, and can be shrunk."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
import pytest

from anyscale_core.controlplane import provisioning
from anyscale_core.controlplane.clouds import mint
from anyscale_core.controlplane.heartbeats import Heartbeats, View
from anyscale_core.controlplane.provisioning import Work
from anyscale_core.controlplane.store import Store
from anyscale_core.models.ids import Token
from anyscale_core.models.node import JobOrder
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import NodeRecord
from anyscale_core.planning import candidates
from anyscale_core.testing import FakeCloud
from tests.simulation.cli import main, play
from tests.simulation.history import Action, History, from_seed, shrunk
from tests.simulation.judge import Rule
from tests.simulation.world import Bench, bench

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def table() -> Iterator[Bench]:
    with bench() as made:
        yield made


def the_cloud_ignores_tokens_and_names(patch: Patch) -> None:
    patch.setattr(FakeCloud, "once", lambda *_: [])
    patch.setattr(FakeCloud, "named", lambda *_: None)


def a_lost_answer_is_taken_for_a_refusal(patch: Patch) -> None:
    def give_up(work: Work, token: Token, error: Exception) -> None:
        with work._transaction() as connection:
            for node in work.record.nodes:
                if node.launch == token and node.phase is NodePhase.RECORDED:
                    work._move(connection, node.id, NodePhase.FAILED, str(error))

    patch.setattr(Work, "_create_failed", give_up)


def nodes_that_drain_do_not_count(patch: Patch) -> None:
    patch.setattr(candidates, "PRESENT", candidates.ALIVE)


def the_store_checks_no_lease(patch: Patch) -> None:
    @contextmanager
    def unfenced(store: Store, *_: object, **__: object) -> Iterator[Any]:
        with store.write() as connection:
            yield connection

    patch.setattr(Store, "fenced", unfenced)


def a_lost_node_is_forgotten_at_once(patch: Patch) -> None:
    move = Work._move

    def forget(work: Work, connection: Any, id: Any, to: NodePhase, reason: str, **fields: object) -> None:
        move(work, connection, id, NodePhase.GONE if to is NodePhase.LOST else to, reason, **fields)

    patch.setattr(provisioning, "NODE_MOVES", dict.fromkeys(NodePhase, frozenset(NodePhase)))
    patch.setattr(Work, "_move", forget)


def a_new_head_is_given_every_job_there_was(patch: Patch) -> None:
    def all_of_them(self: Heartbeats, view: View, _: NodeRecord) -> tuple[JobOrder, ...]:
        return tuple(filter(None, (self._job(view.record, job) for job in view.record.jobs)))

    patch.setattr(Heartbeats, "_jobs", all_of_them)


def all_tokens_are_the_same(patch: Patch) -> None:
    patch.setattr(provisioning, "mint", lambda prefix: "tok" if prefix == "tok" else mint(prefix))


def wishes_are_slept_over(patch: Patch) -> None:
    wish = Store._wish
    late = timedelta(hours=2)
    patch.setattr(Store, "_wish", lambda store, key, now, **values: wish(store, key, now + late, **values))


def a_turn_fails_by_a_bug(patch: Patch) -> None:
    patch.setattr(Work, "_expose", lambda work: work.nothing)


def an_endpoint_is_forgotten_instead_of_withdrawn(patch: Patch) -> None:
    def forget(work: Work, _: str) -> None:
        with work._transaction() as connection:
            work._save(connection, endpoint=None)

    patch.setattr(Work, "_withdraw", forget)


LOWERED = (("apply", 697, 974), ("turn", 736, 159), ("apply", 807, 982))
"""A maximum is lowered while the nodes are on their way."""
FROZEN = (
    ("apply", 34, 431), ("turn", 399, 358), ("time_passes", 998, 965), ("time_passes", 484, 702), ("nodes_speak", 943, 317),
    ("turn", 113, 978), ("plane_freezes", 980, 958), ("turn", 161, 143), ("time_passes", 770, 519), ("time_passes", 95, 833),
    ("turn", 226, 602), ("time_passes", 919, 322), ("node_is_lost", 66, 63), ("time_passes", 130, 118),
    ("time_passes", 372, 340), ("turn", 634, 210),
)  # fmt: skip
"""A plane freezes in a turn, its lease lapses, another goes on, and it wakes up."""


@attrs.frozen(kw_only=True)
class Caught:
    """Which rule catches a sabotage, in which histories: those of the first seeds, or one that a long search found."""

    rule: Rule
    histories: tuple[tuple[Action, ...], ...] = tuple(tuple(from_seed(seed, 250)) for seed in range(1, 5))


def told(*actions: tuple[str, int, int]) -> tuple[tuple[Action, ...], ...]:
    return (tuple(Action(*one) for one in actions),)


SABOTAGES: Mapping[Callable[[Patch], None], Caught] = {
    the_cloud_ignores_tokens_and_names: Caught(rule=Rule.ONCE),
    a_lost_answer_is_taken_for_a_refusal: Caught(rule=Rule.OWNED),
    nodes_that_drain_do_not_count: Caught(rule=Rule.MAX_NODES, histories=told(*LOWERED)),
    the_store_checks_no_lease: Caught(rule=Rule.PHASES, histories=told(*FROZEN)),
    a_lost_node_is_forgotten_at_once: Caught(rule=Rule.PHASES),
    a_new_head_is_given_every_job_there_was: Caught(rule=Rule.JOBS),
    all_tokens_are_the_same: Caught(rule=Rule.TOKENS),
    wishes_are_slept_over: Caught(rule=Rule.CONVERGED),
    an_endpoint_is_forgotten_instead_of_withdrawn: Caught(rule=Rule.LEAKED),
    a_turn_fails_by_a_bug: Caught(rule=Rule.CRASH),
}


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_each_sabotage_is_caught_by_the_rule_that_is_there_for_it(
    sabotage: Callable[[Patch], None], table: Bench, monkeypatch: Patch
) -> None:
    caught = SABOTAGES[sabotage]
    with monkeypatch.context() as patch:
        sabotage(patch)
        broken = next(filter(None, (play(table, history)[1] for history in caught.histories)), None)
    assert broken is not None, "nothing was seen"
    assert broken.rule is caught.rule
    print(f"at step {broken.step}: {broken}")


@pytest.mark.parametrize("history", [LOWERED, FROZEN])
def test_the_histories_that_a_search_found_are_harmless_without_the_sabotage(
    history: tuple[tuple[str, int, int], ...], table: Bench
) -> None:
    (actions,) = told(*history)
    assert play(table, actions)[1] is None


def test_every_rule_has_its_sabotage() -> None:
    assert {caught.rule for caught in SABOTAGES.values()} == set(Rule)


def test_a_failing_history_is_shrunk_to_what_it_needs_and_fails_again(table: Bench, monkeypatch: Patch) -> None:
    all_tokens_are_the_same(monkeypatch)

    def breaks(history: History) -> bool:
        broken = play(table, history)[1]
        return broken is not None and broken.rule is Rule.TOKENS

    shortest = shrunk(from_seed(1, 60), breaks)
    assert breaks(shortest)
    assert len(shortest) <= 3, "a wish and a turn"


def test_a_seed_that_fails_is_told_with_its_shortest_history_and_the_command_that_plays_it_again(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_tokens_are_the_same(monkeypatch)
    assert main(["--seed", "1", "--steps", "60"]) == 1
    said = capsys.readouterr().out
    assert "TOKENS" in said
    assert "again: python -m tests.simulation --seed 1 --steps 60" in said
