"""The fake agents behave as nodes do: they register once, start Ray head first, report, and obey."""

from datetime import timedelta

import pytest

from anyscale_core.models.ids import JobId, Token
from anyscale_core.models.node import (
    Drain,
    DrainAnswer,
    DrainMode,
    GangStrategy,
    Heartbeat,
    JobOrder,
    NodeDrain,
    Orders,
    RayStatus,
)
from anyscale_core.models.phases import JobPhase
from anyscale_core.models.secret import Secret
from anyscale_core.testing import Remains
from anyscale_core.testing import builders as build
from anyscale_core.testing.agents import JobScript
from tests.testing.stage import TICK, Stage


@pytest.fixture
def up(stage: Stage) -> Stage:
    stage.tick(6)
    assert {agent.name: agent.ray for agent in stage.agents.agents.values()} == dict.fromkeys(
        ("w1", "w2", "head"), RayStatus.ALIVE
    )
    return stage


def test_no_agent_speaks_before_its_instance_runs(stage: Stage) -> None:
    stage.tick()
    assert (stage.agents.agents, stage.plane.registered) == ({}, [])
    stage.tick()
    assert stage.plane.registered == ["head", "w1", "w2"]


def test_an_instance_without_a_bootstrap_has_no_agent(stage: Stage) -> None:
    bare = build.an_instance_spec("bare")
    stage.plane.driver.create([bare], token=Token("bare"), deadline=stage.cloud.clock.now() + TICK)
    stage.tick(4)
    assert "bare" not in {agent.name for agent in stage.agents.agents.values()}


def test_agents_of_another_plane_are_left_alone_when_asked_to() -> None:
    stage = Stage(plane_id="pln_other")
    stage.plane.launch("head")
    stage.tick(4)
    assert stage.agents.agents == {}


def test_each_agent_registers_once_and_then_beats_once_a_step_in_order(stage: Stage) -> None:
    stage.tick(8)
    assert sorted(stage.plane.registered) == ["head", "w1", "w2"]
    sequence = [beat.seq for name, beat in stage.plane.beats if name == "w1"]
    assert sequence == list(range(1, 8))


def test_workers_wait_for_the_head(stage: Stage) -> None:
    seen: list[tuple[RayStatus, RayStatus]] = []
    for _ in range(6):
        stage.tick()
        if stage.agents.agents:
            seen.append((stage.ray("head"), stage.ray("w1")))
    starting, waiting, alive = RayStatus.STARTING, RayStatus.WAITING, RayStatus.ALIVE
    assert seen == [(starting, waiting), (alive, starting), (alive, alive), (alive, alive), (alive, alive)]


def test_the_head_reports_its_nodes_and_their_idle_time(up: Stage) -> None:
    before = up.plane.report()
    up.tick(2)
    after = up.plane.report()
    assert {node.instance_name: node.status for node in after.ray_nodes} == {
        "head": "IDLE", "w1": "IDLE", "w2": "IDLE",
    }  # fmt: skip
    assert [a.idle - b.idle for a, b in zip(after.ray_nodes, before.ray_nodes, strict=True)] == [2 * TICK] * 3
    assert after.gcs_address.endswith(":6379")
    assert up.plane.last("w1").head is None
    assert up.plane.last("w1").ray_id == up.ray_id("w1")


def test_work_takes_free_nodes_and_the_rest_is_demand_until_it_is_released(up: Stage) -> None:
    work = up.agents.demand("demo", {"CPU": 2.0}, 7)
    up.tick(3)
    report = up.plane.report()
    assert [(demand.resources, demand.count) for demand in report.demand] == [({"CPU": 2.0}, 3)]
    assert report.demand_age == 2 * TICK
    busy = {node.instance_name: node.available["CPU"] for node in report.ray_nodes if node.status == "RUNNING"}
    assert busy == {"w1": 0.0, "w2": 0.0}
    work.release()
    up.tick(3)
    report = up.plane.report()
    assert report.demand == ()
    assert {node.idle for node in report.ray_nodes if node.instance_name != "head"} == {2 * TICK}


def test_work_with_labels_takes_only_nodes_that_have_them(up: Stage) -> None:
    up.agents.demand("demo", {"CPU": 4.0}, 2, labels={"zone": "a"})
    up.tick(2)
    assert (up.status("w1"), up.status("w2")) == ("RUNNING", "IDLE")
    assert [(demand.count, demand.labels) for demand in up.plane.report().demand] == [(1, {"zone": "a"})]


@pytest.mark.parametrize(
    ("bundles", "strategy", "starts"),
    [
        ([4.0, 4.0], GangStrategy.PACK, True),
        ([4.0, 4.0, 1.0], GangStrategy.PACK, False),
        ([2.0, 2.0], GangStrategy.STRICT_PACK, True),
        ([3.0, 3.0], GangStrategy.STRICT_PACK, False),
        ([1.0, 1.0], GangStrategy.STRICT_SPREAD, True),
        ([1.0, 1.0, 1.0], GangStrategy.STRICT_SPREAD, False),
    ],
)
def test_a_gang_starts_whole_or_not_at_all(
    up: Stage, bundles: list[float], strategy: GangStrategy, starts: bool
) -> None:
    gang = up.agents.gang("demo", [{"CPU": amount} for amount in bundles], strategy)
    up.tick(2)
    assert gang.waiting == (0 if starts else len(bundles))
    assert [g.strategy for g in up.plane.report().gangs] == ([] if starts else [strategy])


def test_room_that_is_held_is_a_constraint_and_uses_nothing(up: Stage) -> None:
    up.agents.hold("demo", {"CPU": 1.0}, 5)
    up.tick(2)
    report = up.plane.report()
    assert [(c.resources, c.count) for c in report.constraints] == [({"CPU": 1.0}, 5)]
    assert {node.status for node in report.ray_nodes} == {"IDLE"}


def test_a_worker_whose_ray_is_killed_says_so_and_its_work_waits_again(up: Stage) -> None:
    up.agents.demand("demo", {"CPU": 4.0}, 2)
    up.tick()
    up.agents.kill_ray("w1", "out of memory")
    up.tick()
    assert (up.plane.last("w1").ray, up.plane.last("w1").detail) == (RayStatus.DOWN, "out of memory")
    assert up.status("w1") == "DEAD"
    assert up.plane.report().demand[0].count == 1


def test_a_machine_that_vanishes_is_noticed_by_ray_only_later_unless_ray_is_told(up: Stage) -> None:
    w1, w2 = up.ray_id("w1"), up.ray_id("w2")
    up.cloud.preempt("w1")
    up.cloud.preempt("w2")
    up.plane.orders["head"] = Orders(unregister={w2: "preempted"})
    up.tick(2)
    status = {node.ray_id: node.status for node in up.plane.report().ray_nodes}
    assert (status[w1], status[w2]) == ("IDLE", "DEAD")
    up.tick(6)
    assert up.status("w1") == "DEAD"
    assert {name for name, _ in up.plane.beats[-2:]} == {"head"}


def test_a_stopped_machine_is_silent_and_starts_its_ray_again_when_it_is_resumed(up: Stage) -> None:
    up.cloud.kill("w1", Remains.STOPPED)
    count = len([1 for name, _ in up.plane.beats if name == "w1"])
    up.tick(2)
    assert len([1 for name, _ in up.plane.beats if name == "w1"]) == count
    up.cloud.resume("w1")
    up.tick(3)
    assert up.plane.last("w1").ray is RayStatus.ALIVE
    assert up.plane.registered.count("w1") == 1


def test_a_silenced_agent_says_nothing_while_its_ray_goes_on(up: Stage) -> None:
    up.agents.silence("w1")
    seq = up.plane.last("w1").seq
    up.tick(3)
    assert up.plane.last("w1").seq == seq
    assert up.status("w1") == "IDLE"
    up.agents.speak("w1")
    up.tick()
    assert up.plane.last("w1").seq == seq + 1


def test_a_new_epoch_starts_every_ray_anew(up: Stage) -> None:
    old = up.ray_id("w1")
    up.agents.kill_ray("head")
    up.tick()
    assert up.plane.last("head").ray is RayStatus.DOWN
    assert up.agents.ray("demo") is None
    up.plane.epoch = "epoch-2"
    up.tick(4)
    assert {up.plane.last(name).epoch for name in ("head", "w1", "w2")} == {"epoch-2"}
    assert {up.ray(name) for name in ("head", "w1", "w2")} == {RayStatus.ALIVE}
    assert up.ray_id("w1") != old


def test_a_worker_outlives_its_head_for_a_while_and_then_goes_down(up: Stage) -> None:
    up.cloud.kill("head")
    up.tick(6)
    assert up.plane.last("w1").ray is RayStatus.ALIVE
    up.tick(10)
    assert (up.plane.last("w1").ray, up.plane.last("w1").detail) == (RayStatus.DOWN, "its head is gone")


# Drains ----------------------------------------------------------------------------------------------------------


def order(up: Stage, mode: DrainMode, after: timedelta = 4 * TICK) -> Drain:
    return Drain(mode=mode, deadline=up.cloud.clock.now() + after)


def test_an_idle_node_drains_at_once_and_stays_stopped(up: Stage) -> None:
    up.plane.orders["w1"] = Orders(drain=order(up, DrainMode.GRACEFUL))
    up.tick(2)
    assert up.plane.last("w1").ray is RayStatus.STOPPED
    assert up.status("w1") == "DEAD"
    up.plane.epoch = "epoch-2"
    up.tick(6)
    assert up.plane.last("w1").ray is RayStatus.STOPPED


def test_a_graceful_drain_waits_for_the_work_and_for_no_longer_than_its_deadline(up: Stage) -> None:
    work = up.agents.demand("demo", {"CPU": 4.0}, 2)
    up.tick()
    up.plane.orders = {name: Orders(drain=order(up, DrainMode.GRACEFUL)) for name in ("w1", "w2")}
    up.tick(2)
    assert (up.ray("w1"), up.status("w1")) == (RayStatus.ALIVE, "DRAINING")
    up.agents.kill_ray("w2")
    work.release()
    up.tick(2)
    assert up.ray("w1") is RayStatus.STOPPED


@pytest.mark.parametrize(("mode", "ticks"), [(DrainMode.NOW, 1), (DrainMode.GRACEFUL, 4)])
def test_a_busy_node_stops_at_once_or_at_the_deadline(up: Stage, mode: DrainMode, ticks: int) -> None:
    up.agents.demand("demo", {"CPU": 4.0}, 2)
    up.tick()
    up.plane.orders["w1"] = Orders(drain=order(up, mode))
    up.tick(ticks - 1)
    assert up.ray("w1") is RayStatus.ALIVE
    up.tick()
    assert up.ray("w1") is RayStatus.STOPPED


def node_drain(up: Stage, name: str, mode: DrainMode = DrainMode.IDLE) -> NodeDrain:
    deadline = up.cloud.clock.now() + 4 * TICK
    return NodeDrain(ray_id=up.ray_id(name), mode=mode, deadline=deadline, reason="idle")


def test_ray_accepts_an_idle_drain_of_an_idle_node_only(up: Stage) -> None:
    up.agents.demand("demo", {"CPU": 4.0})
    up.tick()
    busy, idle = node_drain(up, "w1"), node_drain(up, "w2")
    up.plane.orders["head"] = Orders(drain_nodes=(busy, idle))
    up.tick(2)
    assert up.plane.report().drains == {busy.ray_id: DrainAnswer.REJECTED, idle.ray_id: DrainAnswer.ACCEPTED}
    assert (up.status("w1"), up.status("w2")) == ("RUNNING", "DRAINING")


def test_a_draining_node_takes_no_work_and_answers_end_with_their_order(up: Stage) -> None:
    up.plane.orders["head"] = Orders(drain_nodes=(node_drain(up, "w1"), node_drain(up, "w2")))
    up.tick(1)
    up.agents.demand("demo", {"CPU": 1.0})
    up.tick(2)
    assert up.plane.report().demand[0].count == 1
    up.plane.orders = {}
    up.tick(2)
    assert up.plane.report().drains == {}


def test_a_busy_node_is_drained_when_it_must_be(up: Stage) -> None:
    up.agents.demand("demo", {"CPU": 4.0}, 2)
    up.tick()
    order_ = node_drain(up, "w1", DrainMode.GRACEFUL)
    up.plane.orders["head"] = Orders(drain_nodes=(order_,))
    up.tick(2)
    assert up.plane.report().drains == {order_.ray_id: DrainAnswer.ACCEPTED}


# Jobs, credentials, the end --------------------------------------------------------------------------------------


def job(entrypoint: str, number: int = 1) -> JobOrder:
    return JobOrder(job_id=JobId(f"job_{number}"), submission_id=f"sub-{number}", entrypoint=entrypoint)


def test_a_job_runs_for_its_time_and_ends_as_it_was_scripted(up: Stage) -> None:
    failed = JobScript(takes=2 * TICK, phase=JobPhase.FAILED, message="boom", exit_code=3)
    up.agents.script("bad.py", failed)
    up.agents.script("long.py", JobScript(takes=None))
    up.plane.orders["head"] = Orders(jobs=(job("good.py"), job("bad.py", 2), job("long.py", 3)))
    up.tick(2)
    assert {report.phase for report in up.plane.report().jobs} == {JobPhase.RUNNING}
    up.tick(13)
    reports = {report.submission_id: report for report in up.plane.report().jobs}
    assert (reports["sub-1"].phase, reports["sub-1"].exit_code) == (JobPhase.SUCCEEDED, 0)
    bad = reports["sub-2"]
    assert (bad.phase, bad.message, bad.exit_code) == (JobPhase.FAILED, "boom", 3)
    assert reports["sub-3"].phase is JobPhase.RUNNING
    up.plane.orders["head"] = Orders(stop_jobs=("sub-3",))
    up.tick(2)
    assert up.plane.report().jobs[2].phase is JobPhase.STOPPED


def test_jobs_end_with_the_ray_that_they_ran_in(up: Stage) -> None:
    up.plane.orders["head"] = Orders(jobs=(job("good.py"),))
    up.tick(2)
    up.plane.orders = {}
    up.agents.kill_ray("head")
    up.plane.epoch = "epoch-2"
    up.tick(4)
    assert up.plane.report().jobs == ()


def test_a_fresh_credential_is_used_from_the_next_heartbeat(up: Stage) -> None:
    up.plane.orders["w1"] = Orders(credential=Secret("w1/second"))
    up.tick()
    assert up.agents.agent("w1").credential == Secret("w1/second")
    up.tick()
    assert up.plane.last("w1").seq > 0


def test_an_agent_that_is_refused_asks_again_with_the_same_nonce(up: Stage) -> None:
    up.plane.refuse = {"w1"}
    up.tick(2)
    assert [refusal.why for refusal in up.agents.agent("w1").refusals] == ["expired", "unknown"]
    up.plane.refuse = set()
    up.tick()
    assert up.plane.registered.count("w1") == 2
    assert up.plane.last("w1").ray is RayStatus.ALIVE


def test_a_forgotten_node_stops_its_ray_and_is_never_heard_again(up: Stage) -> None:
    up.plane.orders["w1"] = Orders(forget=True)
    up.tick()
    beats = len([1 for name, _ in up.plane.beats if name == "w1"])
    up.tick(2)
    assert len([1 for name, _ in up.plane.beats if name == "w1"]) == beats
    assert up.status("w1") == "DEAD"


def test_the_same_story_told_twice_is_the_same_to_the_last_id() -> None:
    def story() -> list[tuple[str, Heartbeat]]:
        stage = Stage()
        stage.plane.launch("w1", "w2", "head")
        stage.agents.demand("demo", {"CPU": 2.0}, 5)
        stage.tick(8)
        stage.cloud.preempt("w1")
        stage.tick(4)
        return stage.plane.beats

    assert story() == story()
