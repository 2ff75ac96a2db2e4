"""A head whose Ray dies comes back on what its GCS has stored: same address, workers attached, detached actors kept."""

import textwrap
import time
from datetime import UTC, datetime, timedelta

import pytest

from anyscale_core.models.ids import JobId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import GcsStorage, HeadAddress, Heartbeat, JobOrder, Orders, RayStatus
from anyscale_core.models.phases import JobPhase
from tests.node.scripted import Cluster, ControlPlane, by_submission, eventually

pytestmark = pytest.mark.real_ray

COUNT = """
import ray
ray.init(log_to_driver=False, namespace="n")

@ray.remote(num_cpus=0, lifetime="detached", label_selector={"role": "worker"})
class Counter:
    value = 0
    def up(self):
        self.value += 1
        return self.value

@ray.remote(num_cpus=1, label_selector={"role": "worker"})
def ask(counter):
    return ray.get(counter.up.remote())

print("counted", ray.get(ask.remote(Counter.options(name="c", get_if_exists=True).remote())))
"""


def test_whatever_of_a_heads_ray_is_killed_comes_back_with_its_workers_and_a_detached_actors_state(
    cluster: Cluster, plane: ControlPlane
) -> None:
    head = cluster.head(gcs_storage=GcsStorage.NODE)
    assert head.head is not None
    address = head.head.gcs_address
    joins = HeadAddress(epoch="e1", address=address)
    cluster.start(
        cluster.config("w1", kind=NodeKind.WORKER, group="cpu", head=joins, labels={"role": "worker"}),
        address="127.0.0.3",
    )
    plane.until("w1", lambda beat: beat.ray is RayStatus.ALIVE, within=40)
    worker = cluster.raylet("w1")
    script = cluster.root / "count.py"
    script.write_text(textwrap.dedent(COUNT))
    assert counted(cluster, plane, "first") == 1
    begun = cluster.root / "begun"
    endless = JobOrder(job_id=JobId("long"), submission_id="long", entrypoint=f"touch {begun}; sleep 600")
    plane.give("head", Orders(jobs=(endless,)))
    eventually(begun.exists, within=30, what="the long job begins")

    took = back(cluster, plane, "gcs_server")
    print(f"the gcs_server was back after {took:.1f} s")
    assert counted(cluster, plane, "second") == 2
    assert phase(plane.beats["head"][-1], "long") is JobPhase.RUNNING, "the driver needs no GCS to live"

    for number, victims in enumerate(("raylet", "gcs_server raylet"), start=3):
        print(f"after {victims}: back after {back(cluster, plane, victims):.1f} s")
        plane.until("head", lambda beat: phase(beat, "long") is JobPhase.LOST, within=30)
        assert counted(cluster, plane, f"job{number}") == number
    again = plane.beats["head"][-1].head
    assert again is not None
    assert again.gcs_address == address
    assert cluster.raylet("w1") == worker
    assert len(cluster.log("w1").split("Ray is")) == 1, "the worker has noticed nothing"
    seen = {beat.ray for beat in plane.beats["head"]}
    assert RayStatus.DOWN not in seen, "the control plane is not told that a head is gone which comes back"


def test_a_heads_ray_has_a_new_certificate_before_the_old_one_ends(cluster: Cluster, plane: ControlPlane) -> None:
    plane.certificate_ttl = timedelta(seconds=24)
    cluster.head(gcs_storage=GcsStorage.NODE)
    tls = cluster.home("head") / "tls"
    first, ray = (tls / "cert.pem").read_text(), cluster.raylet("head")
    plane.certificate_ttl = timedelta(hours=1)
    later = datetime.now(UTC) + timedelta(minutes=30)
    plane.until(
        "head",
        lambda beat: beat.ray is RayStatus.ALIVE and beat.renew_at is not None and beat.renew_at > later,
        within=60,
    )
    assert cluster.raylet("head") != ray
    assert (tls / "cert.pem").read_text() != first


def back(cluster: Cluster, plane: ControlPlane, victims: str) -> float:
    """Kill processes of the head by name; return the seconds until it is ALIVE again."""
    before, began = len(plane.beats["head"]), time.monotonic()
    doomed = [process for process in cluster.session("head") if process.name() in victims.split()]
    assert len(doomed) == len(victims.split())
    for process in doomed:
        process.kill()

    def came_back(beat: Heartbeat) -> bool:
        since = [each.ray for each in plane.beats["head"][before:]]
        return RayStatus.STARTING in since and beat.ray is RayStatus.ALIVE

    plane.until("head", came_back, within=60)
    return time.monotonic() - began


def counted(cluster: Cluster, plane: ControlPlane, id: str) -> int:
    """Run the counting job; return what it counted."""
    before = plane._orders["head"].jobs if "head" in plane._orders else ()
    order = JobOrder(job_id=JobId(id), submission_id=id, entrypoint=f"python {cluster.root / 'count.py'}")
    plane.give("head", Orders(jobs=(*before, order)))
    plane.until("head", lambda beat: phase(beat, id) is JobPhase.SUCCEEDED, within=60)
    log = (cluster.bucket / f"jobs/{id}.log").read_text()
    return int(log.rpartition("counted")[2])


def phase(beat: Heartbeat, id: str) -> JobPhase | None:
    report = by_submission(beat).get(id)
    return None if report is None else report.phase
