"""Histories that the simulation found (tests/simulation), each written down as small as it was shrunk."""

from datetime import timedelta

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
