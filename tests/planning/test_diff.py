"""The plan is a function: of records and observations, and of nothing else."""

import ast
import pathlib
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_socket

import anyscale_core.planning
from anyscale_core.models import wire
from anyscale_core.models.actions import CreateNodes, Plan
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.phases import CLUSTER_MOVES, JOB_MOVES, NODE_ENDED, NODE_MOVES, NodePhase
from anyscale_core.models.records import ClusterRecord, Goal, Observed, Timing
from anyscale_core.planning.diff import diff
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.catalogue import offerings

CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_record() -> ClusterRecord:
    spec = a_spec("demo", workers("a", min_nodes=2), workers("b", min_nodes=1))
    return ClusterRecord(
        id=ClusterId("clu_1"), name="demo", cloud="fake", spec=spec, generation=1, goal=Goal.RUN, created_at=NOW,
        phase_since=NOW,
    )  # fmt: skip


def plan() -> Plan:
    return diff(a_record(), Observed(offerings=offerings()), now=NOW, timing=Timing())


def test_equal_input_gives_equal_bytes() -> None:
    assert {repr(wire.unstructure(plan())) for _ in range(12)} == {repr(wire.unstructure(plan()))}


def test_a_new_cluster_gets_its_head_and_minimums_in_one_plan() -> None:
    created = {action.group: action.count for action in plan().actions if isinstance(action, CreateNodes)}
    assert created == {"head": 1, "a": 2, "b": 1}


def test_an_ended_cluster_has_an_empty_plan_for_ever() -> None:
    import attrs

    from anyscale_core.models.phases import ClusterPhase

    ended = attrs.evolve(a_record(), phase=ClusterPhase.TERMINATED)
    assert diff(ended, Observed(), now=NOW + timedelta(days=999), timing=Timing()) == Plan()


def test_every_phase_has_its_moves_and_every_life_can_end() -> None:
    tables: list[Mapping[Any, frozenset[Any]]] = [NODE_MOVES, CLUSTER_MOVES, JOB_MOVES]
    for moves in tables:
        phases = set(moves)
        assert all(after <= phases for after in moves.values())
        ends = {phase for phase, after in moves.items() if not after}
        for start in phases:
            reached, edge = {start}, {start}
            while edge:
                edge = {after for phase in edge for after in moves[phase]} - reached
                reached |= edge
            assert reached & ends, f"{start} never ends"
    assert {phase for phase, after in NODE_MOVES.items() if not after} == NODE_ENDED
    assert NodePhase.FAILED not in NODE_MOVES[NodePhase.LAUNCHING], "what the cloud accepted is deleted, not forgotten"


def test_planning_reads_no_clock() -> None:
    folder = pathlib.Path(anyscale_core.planning.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                read = f"{node.value.id}.{node.attr}"
                assert read not in CLOCKS, f"{path.name}:{node.lineno} reads a clock"


def test_nothing_here_can_open_a_socket() -> None:
    with pytest.raises(pytest_socket.SocketBlockedError):
        socket.create_connection(("127.0.0.1", 9))
