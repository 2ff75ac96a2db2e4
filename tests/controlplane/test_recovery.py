"""Losses: workers, heads, answers, the control plane itself."""

from datetime import timedelta

import attrs
import pytest

from anyscale_core.errors import Applied, DeadlineExceeded, Transient
from anyscale_core.models.instance import Notice, NoticeKind
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from anyscale_core.testing.agents import JobScript
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.world import Remains
from tests.controlplane.world import World


class Killed(BaseException):
    """The control plane dies here: nothing catches it."""


@pytest.mark.parametrize("remains", list(Remains))
def test_a_worker_whose_instance_vanishes_is_replaced(world: World, remains: Remains) -> None:
    world.up(a_spec("demo", workers(min_nodes=2, max_nodes=2)))
    lost = world.ready()[0]
    world.cloud.kill(lost.name, remains)
    world.until(lambda: len(world.ready()) == 2 and lost.id not in {node.id for node in world.ready()})
    world.until(lambda: lost.name not in world.instances())
    assert world.phase() is ClusterPhase.RUNNING
    assert world.node(lost.id).phase is NodePhase.GONE


def test_a_worker_whose_ray_dies_is_suspect_then_lost_then_replaced(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=1)))
    (old,) = world.ready()
    world.agents.kill_ray(old.name)
    world.until(lambda: [node.id for node in world.ready()] not in ([], [old.id]))
    said = [event.kind for event in world.plane.events("demo") if event.node == old.name]
    assert said[-4:] == ["node.suspect", "node.lost", "node.deleting", "node.gone"] or said[-3:] == [
        "node.suspect",
        "node.lost",
        "node.deleting",
    ]


def test_a_silent_worker_is_suspect_and_comes_back_without_being_replaced(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    (node,) = world.ready()
    world.agents.silence(node.name)
    world.until(lambda: world.node(node.id).phase is NodePhase.SUSPECT)
    world.agents.speak(node.name)
    world.until(lambda: world.node(node.id).phase is NodePhase.READY)
    assert len(world.nodes(group="workers")) == 1


def test_a_worker_that_stays_silent_is_lost_deleted_and_replaced(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    (node,) = world.ready()
    world.agents.silence(node.name)
    world.until(lambda: world.node(node.id).phase is NodePhase.GONE)
    world.until(lambda: len(world.ready()) == 1)
    assert node.name not in world.instances()


def test_a_preempted_worker_is_drained_and_its_replacement_started_before_it_goes(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=2)))
    (node,) = world.ready()
    world.cloud.announce(node.name, Notice(kind=NoticeKind.PREEMPTION, at=world.clock.now() + timedelta(seconds=120)))
    world.until(lambda: world.node(node.id).phase is NodePhase.DRAINING)
    world.run()
    assert len(world.nodes(group="workers")) == 2
    world.until(lambda: len(world.ready()) == 1 and world.ready()[0].id != node.id)


def test_a_lost_head_is_replaced_and_the_workers_keep_their_instances(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2)))
    old, before = world.head(), {node.id for node in world.ready()}
    world.cloud.kill(old.name)
    world.until(lambda: world.phase() is ClusterPhase.RECOVERING)
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert world.head().id != old.id
    assert {node.id for node in world.ready()} == before


def test_a_job_is_tried_again_on_the_new_head_and_lost_when_its_tries_are_used_up(world: World) -> None:
    world.agents.script("forever", JobScript(takes=None))
    world.up(a_spec("demo"), JobSpec(entrypoint="forever", max_retries=1))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.RUNNING)
    world.cloud.kill(world.head().name)
    world.until(lambda: world.record().jobs[0].attempt == 2 and world.record().jobs[0].phase is JobPhase.RUNNING)
    world.cloud.kill(world.head().name)
    world.until(lambda: world.record().jobs[0].phase is JobPhase.LOST)


def test_the_control_plane_killed_while_a_cluster_runs_finds_the_same_nodes_again(world: World) -> None:
    world.agents.script("work", JobScript(takes=timedelta(seconds=300)))
    world.up(a_spec("demo", workers(min_nodes=2)), JobSpec(entrypoint="work"))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.RUNNING)
    before = world.record()
    instances, creates = world.instances(), world.creates()
    world.restart()
    world.run(steps=60)
    after = world.record()
    assert [node.id for node in after.nodes] == [node.id for node in before.nodes]
    assert all(node.phase is NodePhase.READY for node in after.nodes)
    assert (world.instances(), world.creates()) == (instances, creates)
    world.until(lambda: world.record().jobs[0].phase is JobPhase.SUCCEEDED)
    assert world.record().jobs[0].attempt == 1


@pytest.mark.parametrize("hand", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2])
def test_killed_around_a_create_call_it_resumes_and_nothing_is_made_twice(world: World, hand: str, call: int) -> None:
    def die() -> None:
        raise Killed

    getattr(world.cloud, hand)("cluster.create", die, nth=call)
    world.plane.apply(a_spec("demo", workers(min_nodes=3)), actor="tester")
    with pytest.raises(Killed):
        world.run(steps=5)
    world.restart()
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert len(world.instances()) == 4
    assert sorted(node.name for node in world.nodes()) == world.instances()


@pytest.mark.parametrize("verb", ["cluster.delete", "networking.withdraw", "cluster.list"])
@pytest.mark.parametrize("hand", ["before", "after"])
def test_killed_in_the_middle_of_a_teardown_it_is_finished_by_the_next(world: World, verb: str, hand: str) -> None:
    def die() -> None:
        raise Killed

    world.up(a_spec("demo", workers(min_nodes=2)))
    world.run(steps=10)
    getattr(world.cloud, hand)(verb, die)
    world.plane.terminate("demo", actor="tester")
    with pytest.raises(Killed):
        world.run(steps=60)
    world.restart()
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert {item.kind for item in world.cloud.inventory()} == {"network", "bucket", "identity"}


def test_an_answer_lost_after_the_commit_is_asked_for_again_with_the_same_token(world: World) -> None:
    rule = world.cloud.lose_response("cluster.create", 2)
    world.up(a_spec("demo", workers(min_nodes=3)))
    assert rule.fired == 2
    assert len(world.instances()) == 4
    tokens = {call.token for call in world.cloud.calls if call.action == "cluster.create"}
    assert len(tokens) == 2, "one for the head, one for the workers, whatever was repeated"


def test_a_create_that_fails_for_a_moment_is_repeated_and_said_so(world: World) -> None:
    world.cloud.refuse("cluster.create", Transient("try again", reason="SERVER"), count=9)
    world.up(a_spec("demo", workers(min_nodes=1)))
    assert "create.retry" in world.kinds()
    assert len(world.instances()) == 2


def test_a_cluster_told_to_end_while_a_create_is_unanswered_leaves_nothing(world: World) -> None:
    lost = DeadlineExceeded("no answer", applied=Applied.UNKNOWN, reason="REQUEST")
    world.cloud.lose_response("cluster.create", None)
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    world.run(steps=3)
    assert world.instances(), f"made, but nobody was told: {lost}"
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert world.instances() == []


def test_an_instance_with_our_tag_and_no_record_is_an_orphan_and_deleted(world: World) -> None:
    from anyscale_core.testing.builders import an_instance_spec

    world.up(a_spec("demo"))
    cloud = world.plane.clouds.get("fake")
    stray = an_instance_spec("stray", owner=cloud.owner_of(world.record().id))
    foreign = an_instance_spec("foreign")
    for spec in (stray, foreign):
        cloud.cluster.create([spec], token=spec.name, deadline=cloud.deadline())  # type: ignore[arg-type]
    world.until(lambda: "stray" not in world.instances())
    assert "foreign" in world.instances()
    assert "orphan.deleted" in [event.kind for event in world.plane.events()]


def test_a_node_that_ends_while_the_cloud_is_being_listed_is_no_orphan_of_that_list(world: World) -> None:
    from anyscale_core.controlplane.rows import save_node

    world.up(a_spec("demo", workers(min_nodes=1), idle_termination_minutes=0))
    node = world.ready()[0]

    def end() -> None:
        with world.plane.store.write() as connection:
            save_node(connection, attrs.evolve(node, phase=NodePhase.GONE, phase_since=world.clock.now()))

    world.clock.advance(world.timing.sweep_ceiling)
    rule = world.cloud.after("cluster.list", end)
    world.plane.collector.collect()
    assert rule.fired == 1
    assert node.name in world.instances()
    assert "orphan.deleted" not in world.kinds()
    world.clock.advance(timedelta(minutes=2))
    world.plane.collector.collect()
    kinds = [event.kind for event in world.plane.events()]
    assert "orphan.deleted" in kinds, "what a later list still shows has nobody"


def test_a_lease_that_was_taken_over_stops_its_old_holder_from_writing(world: World) -> None:
    from anyscale_core.errors import LeaseLost

    world.up(a_spec("demo"))
    store, now = world.plane.store, world.clock.now()
    store.touch(world.record().id, now=now)
    old = store.claim("frozen", now=now, ttl=timedelta(seconds=10))
    assert old is not None
    later = now + timedelta(seconds=11)
    store.touch(world.record().id, now=later)
    new = store.claim("other", now=later, ttl=timedelta(seconds=10))
    assert new is not None
    assert new.token > old.token
    with pytest.raises(LeaseLost), store.fenced(old, now=later):
        raise AssertionError("the fence let the old holder in")
    with store.fenced(new, now=later):
        pass


def test_workers_whose_ray_ends_with_their_head_wait_for_the_next_and_are_not_replaced(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2, max_nodes=2)))
    before = {node.id for node in world.ready()}
    head = world.head()
    world.cloud.kill(head.name)
    for node in world.ready():
        world.agents.kill_ray(node.name, "the head is gone")
    world.until(lambda: world.head().id != head.id)
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert {node.id for node in world.ready()} == before


def test_a_head_whose_ray_does_not_start_is_replaced_at_once_and_not_for_ever(world: World) -> None:
    world.plane.apply(a_spec("demo"), actor="tester")

    def fail_every_start() -> bool:
        for node in world.nodes("demo", NodePhase.STARTING):
            world.agents.kill_ray(node.name, "no shared memory")
        return world.phase() is ClusterPhase.FAILED

    world.until(fail_every_start, steps=1500)
    assert "did not start" in world.record().reason
    assert "no shared memory" in world.record().reason
    assert world.instances() == []


def test_a_head_whose_ray_hangs_at_its_start_is_given_up(world: World) -> None:
    world.agents.ray_start = timedelta(days=1)
    world.plane.apply(a_spec("demo"), actor="tester")
    world.until(lambda: bool(world.nodes("demo", NodePhase.LOST, NodePhase.DELETING)))
    assert "not alive within" in world.nodes("demo", NodePhase.LOST, NodePhase.DELETING)[0].reason


def test_a_turn_that_takes_long_renews_its_lease_and_one_that_takes_too_long_loses_it(world: World) -> None:
    ttl = world.plane.settings.lease_ttl
    world.cloud.after("cluster.create", lambda: world.clock.advance(ttl * 0.7), count=2)
    world.up(a_spec("demo", workers(min_nodes=1)))
    assert len(world.instances()) == 2
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    world.cloud.after("cluster.create", lambda: world.clock.advance(ttl * 2), count=1)
    world.up(a_spec("again", workers(min_nodes=1)))
    assert len(world.instances()) == 2, "whoever came next found the recorded call and repeated it with its token"


def test_a_bucket_that_cannot_be_had_keeps_no_running_cluster_from_being_healed(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2, max_nodes=2)))
    rule = world.cloud.refuse("storage.grant", Transient("not now", reason="SERVER"), count=None)
    world.restart()  # what was granted is no longer at hand
    lost = world.ready()[0]
    world.cloud.kill(lost.name)
    world.until(lambda: world.node(lost.id).phase is NodePhase.GONE)
    world.until(lambda: len(world.instances()) == 3)
    assert rule.fired
    rule.lift()
    world.until(lambda: len(world.ready()) == 2)


def test_a_cloud_that_could_not_be_read_for_a_while_leaves_no_trace_on_the_status(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    rule = world.cloud.refuse("cluster.list", Transient("not now", reason="SERVER"), count=None)
    world.agents.silence(world.ready()[0].name)
    name = world.ready()[0].name
    world.until(lambda: "cannot be read" in world.record().reason)
    rule.lift()
    world.agents.speak(name)
    world.until(lambda: world.phase() is ClusterPhase.RUNNING and world.record().reason == "")
