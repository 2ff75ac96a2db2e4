"""The simulation finds what is wrong: each sabotage is caught by the rule that is there for it, and can be shrunk."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from anyscale_core.controlplane import provisioning
from anyscale_core.controlplane.heartbeats import Heartbeats, View
from anyscale_core.controlplane.provisioning import Work
from anyscale_core.controlplane.store import Store
from anyscale_core.models.ids import Token
from anyscale_core.models.node import JobOrder
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import NodeRecord
from anyscale_core.planning import demand
from anyscale_core.testing import FakeCloud
from tests.simulation.cli import play
from tests.simulation.history import Action, from_seed, shrunk
from tests.simulation.judge import Rule
from tests.simulation.world import Bench, bench

Patch = pytest.MonkeyPatch
SEEDS, STEPS = range(1, 9), 250


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
    patch.setattr(demand, "PRESENT", demand.ALIVE)


def the_store_checks_no_lease(patch: Patch) -> None:
    @contextmanager
    def unfenced(store: Store, *_: object, **__: object) -> Iterator[Any]:
        with store.write() as connection:
            yield connection

    patch.setattr(Store, "fenced", unfenced)


def a_lost_node_is_forgotten_at_once(patch: Patch) -> None:
    move = Work._move

    def forget(work: Work, connection: Any, id: Any, to: NodePhase, reason: str, **fields: object) -> None:
        patch.setitem(provisioning.NODE_MOVES, NodePhase.READY, frozenset(NodePhase))  # type: ignore[arg-type]
        move(work, connection, id, NodePhase.GONE if to is NodePhase.LOST else to, reason, **fields)

    patch.setattr(provisioning, "NODE_MOVES", dict.fromkeys(NodePhase, frozenset(NodePhase)))
    patch.setattr(Work, "_move", forget)


def a_new_head_is_given_every_job_there_was(patch: Patch) -> None:
    def all_of_them(self: Heartbeats, view: View, _: NodeRecord) -> tuple[JobOrder, ...]:
        return tuple(filter(None, (self._job(view.record, job) for job in view.record.jobs)))

    patch.setattr(Heartbeats, "_jobs", all_of_them)


def all_tokens_are_the_same(patch: Patch) -> None:
    patch.setattr(provisioning, "mint", lambda prefix, mint=provisioning.mint: "tok" if prefix == "tok" else mint(prefix))


def wishes_are_slept_over(patch: Patch) -> None:
    wish = Store._wish
    late = timedelta(hours=2)
    patch.setattr(Store, "_wish", lambda store, id, now, **values: wish(store, id, now + late, **values))


def an_endpoint_is_forgotten_instead_of_withdrawn(patch: Patch) -> None:
    def forget(work: Work, _: str) -> None:
        with work._transaction() as connection:
            work._save(connection, endpoint=None)

    patch.setattr(Work, "_withdraw", forget)


SABOTAGES: Mapping[Callable[[Patch], None], set[Rule]] = {
    the_cloud_ignores_tokens_and_names: {Rule.ONCE},
    a_lost_answer_is_taken_for_a_refusal: {Rule.OWNED},
    nodes_that_drain_do_not_count: {Rule.MAX_NODES},
    the_store_checks_no_lease: {Rule.PHASES, Rule.MAX_NODES, Rule.CRASH},
    a_lost_node_is_forgotten_at_once: {Rule.PHASES},
    a_new_head_is_given_every_job_there_was: {Rule.JOBS},
    all_tokens_are_the_same: {Rule.TOKENS},
    wishes_are_slept_over: {Rule.CONVERGED},
    an_endpoint_is_forgotten_instead_of_withdrawn: {Rule.LEAKED},
}


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_each_sabotage_is_caught_by_the_rule_that_is_there_for_it(
    sabotage: Callable[[Patch], None], table: Bench, monkeypatch: Patch
) -> None:
    sabotage(monkeypatch)
    for seed in SEEDS:
        _, broken = play(table, from_seed(seed, STEPS))
        if broken is not None:
            print(f"caught by seed {seed} at step {broken.step}: {broken}")
            assert broken.rule in SABOTAGES[sabotage]
            return
    raise AssertionError(f"{len(SEEDS)} histories of {STEPS} steps saw nothing")
