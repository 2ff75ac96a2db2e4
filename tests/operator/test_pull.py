"""A cloud in pull mode, from a wish to its end: the engine is the same, the arm is longer."""

from pathlib import Path

from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing.builders import a_spec, workers
from tests.operator.pull import Pull


def test_a_cluster_of_a_cloud_in_pull_mode_comes_up_and_ends_and_leaves_nothing(tmp_path: Path) -> None:
    pull = Pull.new(tmp_path)
    world = pull.world
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.RUNNING and len(world.ready()) == 2)
    assert len(world.instances()) == 3
    world.plane.terminate("demo", actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert not world.instances()
