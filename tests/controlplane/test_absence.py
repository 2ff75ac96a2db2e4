"""A control plane that was away: its own silence is not the nodes'."""

from datetime import timedelta

from anyscale_core.controlplane.plane import RETURN
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World

HOUR = timedelta(hours=1)


def test_nodes_are_not_lost_because_the_control_plane_was_away_for_an_hour(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2)))
    before = world.instances()
    world.clock.advance(HOUR)
    world.restart()
    world.plane.tick()
    assert {node.phase for node in world.nodes()} == {NodePhase.READY}
    world.run(steps=60)
    assert world.instances() == before
    assert world.phase() is ClusterPhase.RUNNING
    assert "node.suspect" not in world.kinds()


def test_a_node_that_does_not_come_back_is_lost_as_long_after_the_return_as_any_other_silent_one(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2)))
    silent = world.ready()[0]
    world.clock.advance(HOUR)
    world.agents.silence(silent.name)
    world.restart()
    back = world.clock.now()
    world.until(lambda: world.node(silent.id).phase not in (NodePhase.READY, NodePhase.SUSPECT))
    took = world.clock.now() - back
    limit = RETURN + world.timing.lost_after
    assert limit <= took <= limit + timedelta(seconds=3), took


def test_a_node_that_boots_while_the_control_plane_is_away_is_given_its_time_anew(world: World) -> None:
    world.plane.apply(a_spec("demo"), actor="tester")
    world.plane.tick()
    (head,) = world.nodes()
    assert head.phase is NodePhase.LAUNCHING
    world.clock.advance(HOUR / 2)  # longer than boot_timeout, shorter than its join token lives
    world.restart()
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert world.head().id == head.id


def test_a_cluster_is_not_idle_for_the_time_in_which_nobody_looked(world: World) -> None:
    world.up(a_spec("demo", idle_termination_minutes=30))
    world.clock.advance(HOUR)
    world.restart()
    world.run(steps=29, step=timedelta(minutes=1))
    assert world.phase() is ClusterPhase.RUNNING
    world.run(steps=3, step=timedelta(minutes=1))
    assert world.phase() in (ClusterPhase.TERMINATING, ClusterPhase.TERMINATED)


def test_a_process_that_was_stopped_and_goes_on_counts_no_silence_from_before(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    world.plane.attend()
    world.clock.advance(HOUR)
    world.plane.attend()  # the watcher's first turn after SIGCONT
    world.plane.tick()
    assert {node.phase for node in world.nodes()} == {NodePhase.READY}


def test_a_silence_before_the_end_of_the_grace_is_noticed_after_it(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    silent = world.ready()[0]
    world.restart()
    world.agents.silence(silent.name)
    world.run(steps=2)
    assert world.node(silent.id).phase is NodePhase.READY
    world.until(lambda: world.node(silent.id).phase is not NodePhase.READY, steps=30)
