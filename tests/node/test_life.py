"""The life of real agents with real Ray, against a scripted control plane."""

import io
import os
import signal
import time
import zipfile
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from anyscale_core.models.ids import JobId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import (
    Drain,
    DrainMode,
    HeadAddress,
    Heartbeat,
    JobOrder,
    NodeDrain,
    Orders,
    Package,
    RayStatus,
)
from anyscale_core.models.phases import JobPhase
from anyscale_core.models.storage import StoreAccess
from tests.node.scripted import RAY_TOKEN, Cluster, ControlPlane, by_submission, eventually

pytestmark = pytest.mark.real_ray

NOW = datetime(2020, 1, 1, tzinfo=UTC)


def worker(cluster: Cluster, head: Heartbeat | None, **fields: object) -> None:
    joins = None if head is None or head.head is None else HeadAddress(epoch="e1", address=head.head.gcs_address)
    config = cluster.config("w1", kind=NodeKind.WORKER, group="cpu", head=joins, **fields)
    cluster.start(config, address="127.0.0.3")


def alive(beat: Heartbeat) -> bool:
    return beat.ray is RayStatus.ALIVE


def test_a_worker_waits_for_its_head_joins_it_and_ends_with_its_logs_in_the_bucket(
    cluster: Cluster, plane: ControlPlane
) -> None:
    worker(cluster, None)
    plane.until("w1", lambda beat: beat.ray is RayStatus.WAITING, within=20)
    head = cluster.head(expected_workers=1)
    assert head.head is not None
    joins = HeadAddress(epoch="e1", address=head.head.gcs_address)
    plane.configure(attrs.evolve(plane.configs["w1"], version="2", head=joins))
    plane.until("w1", alive, within=30)
    seen = plane.until("head", lambda beat: beat.head is not None and len(beat.head.ray_nodes) == 2, within=5)
    assert seen.head is not None
    node = next(node for node in seen.head.ray_nodes if node.instance_name == "w1")
    assert (node.total["CPU"], node.total["memory"], node.total["slot"]) == (1.0, 500_000_000.0, 2.0)
    drain = Drain(mode=DrainMode.NOW, deadline=NOW)
    begin = time.monotonic()
    plane.give("w1", Orders(drain=drain))
    stopped = plane.until("w1", lambda beat: beat.ray is RayStatus.STOPPED, within=5)
    assert time.monotonic() - begin < 1.5
    assert stopped.detail == "drained (now)"
    assert cluster.session("w1") == []
    assert list((cluster.bucket / "logs/w1").rglob("raylet.out"))
    plane.until("head", lambda beat: beat.head is not None and _status(beat, "w1") == "DEAD", within=5)
    plane.give("w1", Orders(forget=True))
    assert cluster.agents["w1"].wait(5) == 0
    for name in ("head", "w1"):
        assert RAY_TOKEN.reveal() not in cluster.log(name)
        assert RAY_TOKEN.reveal() not in (cluster.home(name) / "launcher.log").read_text()


def test_a_killed_raylet_is_told_within_a_second_and_a_new_epoch_starts_ray_again(
    cluster: Cluster, plane: ControlPlane
) -> None:
    cluster.head()
    first = cluster.raylet("head")
    killed_at = time.monotonic()
    os.kill(first, signal.SIGKILL)
    down = plane.until("head", lambda beat: beat.ray is RayStatus.DOWN, within=5)
    assert plane.heard_at["head"][-1] - killed_at < 1.0
    assert f"raylet (pid {first})" in down.detail
    eventually(lambda: not cluster.session("head"), within=5, what="nothing of a broken Ray is left")
    again = attrs.evolve(plane.configs["head"], version="2", head=HeadAddress(epoch="e2", address=""))
    plane.configure(again)
    plane.until("head", lambda beat: alive(beat) and beat.epoch == "e2", within=60)
    assert cluster.raylet("head") != first


def test_a_job_runs_with_its_package_once_and_its_log_is_in_the_bucket_when_its_end_is_told(
    cluster: Cluster, plane: ControlPlane
) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("hello.py", "import os\nprint('hello', os.environ['WHOM'])\n")
    (cluster.bucket / "p.zip").write_bytes(data.getvalue())
    order = JobOrder(
        job_id=JobId("job_1"),
        submission_id="job_1-1",
        entrypoint="python hello.py",
        env_vars={"WHOM": "world"},
        package=Package(store=StoreAccess(url=cluster.bucket.as_uri()), key="p.zip"),
    )
    failing = JobOrder(job_id=JobId("job_2"), submission_id="job_2-1", entrypoint="exit 7")
    endless = JobOrder(job_id=JobId("job_3"), submission_id="job_3-1", entrypoint="sleep 600")
    cluster.head()
    plane.give("head", Orders(jobs=(order, failing, endless)))
    done = plane.until("head", lambda beat: _phase(beat, "job_1-1") is JobPhase.SUCCEEDED, within=40)
    assert by_submission(done)["job_1-1"].exit_code == 0
    assert (cluster.bucket / "jobs/job_1-1.log").read_text().splitlines().count("hello world") == 1
    failed = plane.until("head", lambda beat: _phase(beat, "job_2-1") is JobPhase.FAILED, within=20)
    assert by_submission(failed)["job_2-1"].exit_code == 7
    plane.until("head", lambda beat: _phase(beat, "job_3-1") is JobPhase.RUNNING, within=20)
    plane.give("head", Orders(stop_jobs=("job_3-1",)))
    plane.until("head", lambda beat: _phase(beat, "job_3-1") is JobPhase.STOPPED, within=20)


def test_ray_and_its_job_go_on_while_the_control_plane_is_away_and_nothing_is_done_twice(
    cluster: Cluster, plane: ControlPlane
) -> None:
    order = JobOrder(job_id=JobId("job_1"), submission_id="job_1-1", entrypoint="echo once; sleep 4")
    cluster.head()
    raylet = cluster.raylet("head")
    plane.give("head", Orders(jobs=(order,)))
    plane.until("head", lambda beat: _phase(beat, "job_1-1") is JobPhase.RUNNING, within=40)
    plane.close()
    heard = len(plane.beats["head"])
    eventually(lambda: (cluster.bucket / "jobs/job_1-1.log").exists(), within=20, what="the job ends meanwhile")
    assert len(plane.beats["head"]) == heard
    plane.open()
    plane.until("head", lambda beat: _phase(beat, "job_1-1") is JobPhase.SUCCEEDED, within=12)
    assert cluster.raylet("head") == raylet
    assert (cluster.bucket / "jobs/job_1-1.log").read_text().splitlines().count("once") == 1
    assert len(plane.registrations) == 1
    assert cluster.log("head").count("the control plane is away") == 1


def test_an_agent_that_was_killed_finds_its_ray_again(cluster: Cluster, plane: ControlPlane) -> None:
    cluster.head()
    raylet = cluster.raylet("head")
    first = cluster.agents["head"]
    first.kill()
    first.wait()
    beats = len(plane.beats["head"])
    try:
        cluster.start(plane.configs["head"], address="127.0.0.2")
        plane.until("head", lambda beat: len(plane.beats["head"]) > beats and alive(beat), within=20)
        seen = plane.until("head", lambda beat: bool(beat.head and beat.head.ray_nodes), within=20)
        assert seen.head is not None
        assert seen.seq > plane.beats["head"][beats - 1].seq
        assert cluster.raylet("head") == raylet
        assert len(plane.registrations) == 1
        plane.give("head", Orders(forget=True))
        assert cluster.agents["head"].wait(10) == 0
        eventually(lambda: not _runs(raylet), within=5, what="the adopted raylet is ended too")
    finally:
        cluster.agents["before"] = first


def test_a_head_drains_an_idle_worker_and_shows_what_ray_cannot_place(cluster: Cluster, plane: ControlPlane) -> None:
    head = cluster.head()
    worker(cluster, head)
    plane.until("w1", alive, within=40)
    wants = "import ray; ray.init(); f = ray.remote(num_cpus=64)(lambda: 1).remote(); ray.wait([f], timeout=30)"
    job = JobOrder(job_id=JobId("j"), submission_id="j-1", entrypoint=f'python -c "{wants}"')
    idle = plane.until("head", lambda beat: _status(beat, "w1") == "IDLE", within=20)
    assert idle.head is not None
    ray_id = next(node.ray_id for node in idle.head.ray_nodes if node.instance_name == "w1")
    order = NodeDrain(ray_id=ray_id, mode=DrainMode.IDLE, deadline=datetime.now(UTC), reason="idle")
    plane.give("w1", Orders(drain=Drain(mode=DrainMode.IDLE, deadline=datetime.now(UTC) + timedelta(minutes=1))))
    plane.give("head", Orders(drain_nodes=(order,), jobs=(job,)))
    plane.until("w1", lambda beat: beat.ray is RayStatus.STOPPED, within=10)
    answered = plane.until("head", lambda beat: bool(beat.head and beat.head.drains), within=5)
    assert answered.head is not None
    assert answered.head.drains[ray_id].value == "accepted"
    wanted = plane.until("head", lambda beat: bool(beat.head and beat.head.demand), within=30)
    assert wanted.head is not None
    assert wanted.head.demand[0].resources["CPU"] == 64.0


def test_a_signal_ends_an_agent_and_all_of_its_ray(cluster: Cluster) -> None:
    cluster.head()
    agent = cluster.agents["head"]
    agent.terminate()
    assert agent.wait(10) == 0
    assert cluster.session("head") == []
    assert list((cluster.bucket / "logs/head").rglob("gcs_server.out"))


def _status(beat: Heartbeat, name: str) -> str:
    assert beat.head is not None
    return next((node.status for node in beat.head.ray_nodes if node.instance_name == name), "")


def _phase(beat: Heartbeat, submission_id: str) -> JobPhase | None:
    job = by_submission(beat).get(submission_id)
    return None if job is None else job.phase


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
