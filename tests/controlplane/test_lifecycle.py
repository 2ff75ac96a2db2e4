"""From a wish to RUNNING and away again, on the fake cloud."""

from datetime import timedelta

import attrs
import pytest

from anyscale_core.errors import NameTaken, PermissionDenied, SpecError, UnknownName
from anyscale_core.models.cluster import HeadNode, HeadRecovery
from anyscale_core.models.job import AfterJob, JobSpec
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from anyscale_core.models.records import EndCause
from anyscale_core.testing.agents import JobScript
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


def test_a_cluster_runs_once_its_head_and_every_minimum_are_ready(world: World) -> None:
    record = world.up(a_spec("demo", workers("a", min_nodes=2), workers("b", min_nodes=1)))
    assert {node.group for node in record.nodes} == {"head", "a", "b"}
    assert [node.phase for node in record.nodes] == [NodePhase.READY] * 4
    assert world.creates() == 3, "one call for each group, however many nodes"


def test_terminating_leaves_nothing_in_the_cloud_but_what_clusters_share(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2)))
    world.until(lambda: "endpoint.ready" in world.kinds())
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    left = {item.kind for item in world.cloud.inventory()}
    assert left == {"network", "bucket", "identity"}


def test_a_converged_cluster_costs_no_call_while_nothing_happens(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2)))
    world.run(steps=60)
    before = len(world.cloud.calls)
    world.run(steps=300)
    actions = {call.action for call in world.cloud.calls[before:]}
    assert actions <= {"cluster.list"}
    assert len(world.cloud.calls) - before <= 300 / 30 + 1, "one sweep of the cloud every thirty seconds"


def test_the_generation_that_is_met_is_observed(world: World) -> None:
    spec = a_spec("demo", workers(min_nodes=1, max_nodes=4))
    world.up(spec)
    world.run(steps=10)
    assert world.record().observed_generation == 1
    world.plane.apply(a_spec("demo", workers(min_nodes=3, max_nodes=4)), actor="tester")
    assert world.record().generation == 2
    world.until(lambda: len(world.ready()) == 3)
    world.run(steps=10)
    assert world.record().observed_generation == 2


def test_a_name_that_is_alive_is_changed_and_a_head_that_is_alive_is_not(world: World) -> None:
    world.up(a_spec("demo"))
    with pytest.raises(SpecError) as caught:
        world.plane.apply(attrs.evolve(a_spec("demo"), head_node=HeadNode(instance_type="cpu-16")), actor="tester")
    assert [fault.path for fault in caught.value.faults] == ["head_node"]


def test_a_name_is_free_again_once_its_cluster_has_ended(world: World) -> None:
    first = world.up(a_spec("demo"))
    world.plane.terminate("demo", actor="tester")
    with pytest.raises(SpecError, match="being terminated"):
        world.plane.apply(a_spec("demo"), actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    second = world.up(a_spec("demo"))
    assert second.id != first.id


def test_an_instance_type_that_the_cloud_has_not_is_refused_with_the_nearest_name(world: World) -> None:
    with pytest.raises(SpecError) as caught:
        world.plane.apply(a_spec("demo", workers(instance_type="cpu-44"), head="nonsense"), actor="tester")
    assert [fault.path for fault in caught.value.faults] == ["head_node.instance_type", "worker_nodes[0].instance_type"]
    assert "did you mean 'cpu-4'?" in caught.value.faults[1].message
    assert world.cloud.inventory() == ()


def test_unknown_clouds_and_clusters_are_answered_with_the_nearest_name(world: World) -> None:
    with pytest.raises(UnknownName, match="no cloud 'fakke' is registered; known: fake"):
        world.plane.apply(a_spec("demo", cloud="fakke"), actor="tester")
    world.up(a_spec("demo"))
    with pytest.raises(UnknownName, match="did you mean 'demo'"):
        world.plane.status("dmo")


def test_two_live_clusters_cannot_share_a_name(world: World) -> None:
    record = world.up(a_spec("demo"))
    with pytest.raises(NameTaken):
        world.plane.store.add_cluster(record)


def test_an_idle_cluster_ends_after_its_minutes_and_a_busy_one_does_not(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1), idle_termination_minutes=10))
    work = world.agents.demand("demo", {"CPU": 1.0})
    world.run(steps=40, step=timedelta(seconds=30))
    assert world.phase() is ClusterPhase.RUNNING, "twenty busy minutes"
    work.release()
    world.run(steps=16, step=timedelta(seconds=30))
    assert world.phase() is ClusterPhase.RUNNING, "eight idle minutes"
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED, step=timedelta(seconds=5))
    assert world.record().end_cause is EndCause.IDLE


def test_a_cluster_ends_at_its_uptime_even_while_it_works(world: World) -> None:
    world.up(a_spec("demo", max_uptime_minutes=5, idle_termination_minutes=0))
    world.agents.demand("demo", {"CPU": 1.0})
    world.run(steps=270)
    assert world.phase() is ClusterPhase.RUNNING
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert world.record().end_cause is EndCause.UPTIME


def test_a_job_runs_when_the_cluster_does_and_takes_the_cluster_along_when_asked(world: World) -> None:
    world.agents.script("python work.py", JobScript(takes=timedelta(seconds=20)))
    world.up(a_spec("demo", workers(min_nodes=1)), JobSpec(entrypoint="python work.py", after=AfterJob.TERMINATE))
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    (job,) = world.record().jobs
    assert (job.phase, job.attempt, job.exit_code) == (JobPhase.SUCCEEDED, 1, 0)
    assert world.record().end_cause is EndCause.JOB_ENDED


def test_a_failed_job_keeps_its_exit_code_and_a_kept_cluster_lives_on(world: World) -> None:
    world.agents.script("false", JobScript(takes=timedelta(seconds=2), phase=JobPhase.FAILED, exit_code=3))
    world.up(a_spec("demo"), JobSpec(entrypoint="false"))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.FAILED)
    assert world.record().jobs[0].exit_code == 3
    world.run(steps=60)
    assert world.phase() is ClusterPhase.RUNNING


def test_jobs_that_still_run_are_stopped_when_their_cluster_is_taken_down(world: World) -> None:
    world.agents.script("sleep", JobScript(takes=None))
    world.up(a_spec("demo"), JobSpec(entrypoint="sleep"))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.RUNNING)
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert world.record().jobs[0].phase is JobPhase.STOPPED


def test_a_refusal_that_somebody_has_to_mend_fails_the_cluster_with_the_remedy(world: World) -> None:
    error = PermissionDenied("not allowed to run instances", reason="POLICY", hint="grant instances/write")
    world.cloud.refuse("cluster.create", error, count=None)
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.FAILED)
    assert "grant instances/write" in world.record().reason
    assert world.instances() == []


def test_a_cluster_whose_nodes_never_register_gives_up_and_cleans_up(world: World) -> None:
    world.timing = attrs.evolve(world.timing, boot_timeout=timedelta(seconds=30))
    world.restart()
    world.agents.step = lambda cluster=None: None  # type: ignore[method-assign]  # no agent ever speaks
    world.plane.apply(a_spec("demo"), actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.FAILED, steps=2000)
    assert "did not register" in world.record().reason
    assert world.instances() == []


def test_head_recovery_none_ends_the_cluster_with_a_clear_reason(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1), head_recovery=HeadRecovery.NONE))
    world.cloud.kill(world.head().name)
    world.until(lambda: world.phase() is ClusterPhase.FAILED)
    assert "head_recovery is NONE" in world.record().reason
    assert world.instances() == []


def test_what_plan_shows_is_what_apply_makes_and_plan_makes_nothing(world: World) -> None:
    spec = a_spec("demo", workers(min_nodes=2, max_nodes=5))
    preview = world.plane.plan(spec)
    assert [(one.group, one.count, one.instance_type) for one in preview.nodes] == [
        ("head", 1, "cpu-4"),
        ("workers", 2, "cpu-4"),
    ]
    assert preview.max_price_per_hour == pytest.approx(preview.price_per_hour * 2)
    assert world.cloud.inventory() == ()
    assert world.plane.clusters() == ()
    record = world.up(spec)
    assert sum(node.price_per_hour for node in record.nodes) == pytest.approx(preview.price_per_hour)
