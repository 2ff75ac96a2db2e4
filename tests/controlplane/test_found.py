"""Histories that the simulation found (tests/simulation), each written down as small as it was shrunk."""

from datetime import timedelta

import pytest

from anyscale_core.errors import CloudError, Conflict, PermissionDenied
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


def test_a_list_that_lags_is_no_proof_that_a_new_instance_is_gone(world: World) -> None:
    world.cloud.lag(timedelta(seconds=30))
    world.plane.apply(a_spec("demo", workers(min_nodes=1)), actor="tester")
    world.run(steps=2)
    world.plane.terminate("demo", actor="tester")
    while world.phase() is not ClusterPhase.TERMINATED:
        world.run(step=timedelta(seconds=2))
        there = set(world.instances())
        ended = {node.name for node in world.nodes("demo", NodePhase.GONE, NodePhase.FAILED)}
        assert not there & ended, "what is recorded as gone is gone"
    assert world.instances() == []


def test_a_batch_is_repeated_word_for_word_by_whoever_takes_over(world: World) -> None:
    world.cloud.lag(timedelta(seconds=30))
    world.cloud.lose_response("cluster.create", 8)  # more than one turn repeats by itself
    world.plane.apply(a_spec("demo", workers(min_nodes=4)), actor="tester")
    world.run(steps=2)
    world.restart()
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    batches = {call.names for call in world.cloud.calls if call.action == "cluster.create" and len(call.names) == 4}
    assert len(batches) == 1
    assert not [call for call in world.cloud.calls if call.outcome == "Conflict"]


@pytest.mark.parametrize("refusal", [PermissionDenied("not allowed", reason="POLICY"), Conflict("no", reason="IN_USE")])
def test_a_refusal_after_a_lost_answer_is_no_proof_that_nothing_was_made(world: World, refusal: CloudError) -> None:
    world.up(a_spec("demo"))
    world.cloud.lose_response("cluster.create", 1)
    refused = world.cloud.refuse("cluster.create", refusal, skip=1)
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    while not refused.spent or len(world.ready()) < 2:
        world.run()
        ended = {node.name for node in world.nodes("demo", NodePhase.GONE, NodePhase.FAILED)}
        assert not set(world.instances()) & ended, "what is recorded as failed or gone does not exist"
    world.until(lambda: len(world.instances()) == 3)
    assert sorted(node.name for node in world.nodes()) == world.instances()


def test_a_spec_that_changes_while_its_create_is_repeated_is_no_reason_to_give_the_cluster_up(world: World) -> None:
    world.cloud.lag(timedelta(seconds=30))
    world.cloud.lose_response("cluster.create", 8)
    world.plane.apply(a_spec("demo", workers(min_nodes=2), tags={"team": "a"}), actor="tester")
    world.run()
    world.plane.apply(a_spec("demo", workers(min_nodes=2), tags={"team": "b"}), actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    world.until(lambda: len(world.instances()) == len(world.nodes()) == 3)
