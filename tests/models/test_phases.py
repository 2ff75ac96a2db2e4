"""Phases: the tables of moves are whole, and every life ends."""

import enum
from collections.abc import Mapping
from typing import Any

import pytest

from anyscale_core.models.phases import (
    CLUSTER_ENDED,
    CLUSTER_MOVES,
    JOB_ENDED,
    JOB_MOVES,
    NODE_ENDED,
    NODE_LEAVING,
    NODE_MOVES,
    ClusterPhase,
    JobPhase,
    NodePhase,
)

TABLES = [
    pytest.param(NodePhase, NODE_MOVES, NODE_ENDED, NodePhase.RECORDED, id="node"),
    pytest.param(ClusterPhase, CLUSTER_MOVES, CLUSTER_ENDED, ClusterPhase.STARTING, id="cluster"),
    pytest.param(JobPhase, JOB_MOVES, JOB_ENDED, JobPhase.WAITING, id="job"),
]

Moves = Mapping[Any, frozenset[Any]]


def reachable(moves: Moves, start: Any) -> set[Any]:
    """Every phase that can follow ``start``, itself included."""
    seen, ahead = {start}, [start]
    while ahead:
        fresh = moves[ahead.pop()] - seen
        seen |= fresh
        ahead += fresh
    return seen


@pytest.mark.parametrize(("phases", "moves", "ended", "first"), TABLES)
class TestEveryTable:
    def test_it_has_a_row_for_each_phase(
        self, phases: type[enum.Enum], moves: Moves, ended: frozenset[Any], first: Any
    ) -> None:
        assert set(moves) == set(phases)

    def test_only_ended_phases_have_no_way_out(
        self, phases: type[enum.Enum], moves: Moves, ended: frozenset[Any], first: Any
    ) -> None:
        assert {phase for phase, after in moves.items() if not after} == ended

    def test_no_phase_follows_itself(
        self, phases: type[enum.Enum], moves: Moves, ended: frozenset[Any], first: Any
    ) -> None:
        assert [phase for phase, after in moves.items() if phase in after] == []

    def test_every_phase_is_reached_from_the_first(
        self, phases: type[enum.Enum], moves: Moves, ended: frozenset[Any], first: Any
    ) -> None:
        assert reachable(moves, first) == set(phases)

    def test_an_end_is_reached_from_every_phase(
        self, phases: type[enum.Enum], moves: Moves, ended: frozenset[Any], first: Any
    ) -> None:
        assert [phase for phase in moves if not reachable(moves, phase) & ended] == []


def test_a_node_that_the_cloud_may_have_is_never_forgotten_without_a_delete() -> None:
    may_exist = set(NodePhase) - NODE_ENDED - {NodePhase.RECORDED, NodePhase.LOST, NodePhase.DELETING}
    assert [phase for phase in may_exist if NODE_MOVES[phase] & NODE_ENDED] == []


def test_a_leaving_node_comes_back_only_from_draining() -> None:
    staying = set(NodePhase) - NODE_LEAVING - NODE_ENDED
    assert {phase for phase in NODE_LEAVING if NODE_MOVES[phase] & staying} == {NodePhase.DRAINING}


def test_a_deleting_node_can_only_be_gone() -> None:
    assert NODE_MOVES[NodePhase.DELETING] == {NodePhase.GONE}


def test_a_cluster_that_is_terminating_never_runs_again() -> None:
    assert reachable(CLUSTER_MOVES, ClusterPhase.TERMINATING) == {ClusterPhase.TERMINATING} | CLUSTER_ENDED


def test_a_cluster_ends_only_by_way_of_terminating() -> None:
    assert {phase for phase, after in CLUSTER_MOVES.items() if after & CLUSTER_ENDED} == {ClusterPhase.TERMINATING}


def test_a_job_that_ran_can_wait_for_its_next_attempt_and_one_that_ended_cannot() -> None:
    assert JobPhase.WAITING in JOB_MOVES[JobPhase.RUNNING]
    assert all(JobPhase.WAITING not in JOB_MOVES[phase] for phase in JOB_ENDED)
