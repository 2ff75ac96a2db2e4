"""Clusters on real Ray beside plain ``ray start``: coming up, going away, growing, healing."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from anyscale_core.api.protocol import ClusterView
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import ClusterPhase
from benchmarks.floor import RawRay, floor
from benchmarks.gcs import Gcs, until
from benchmarks.rows import Row, excess, interleaved, row
from benchmarks.served import NAME, Plane, ready, served
from tests.scenarios.machine import a_spec

WORKERS = 2
ASK = """
import ray

ray.init(log_to_driver=False)


@ray.remote(num_cpus=1, label_selector={"ray.io/node-group": "workers"})
def work():
    return 1


ray.get(work.remote())
"""
"""Wants one CPU on a worker, whatever room the head has."""


@attrs.frozen(kw_only=True)
class Life:
    """Seconds: from apply to all nodes ALIVE and RUNNING, from delete to TERMINATED and no process left."""

    start: float
    stop: float


def cluster_start(rounds: int) -> Iterator[Row]:
    """Measure a cluster that comes and goes beside the same nodes by ``ray start``. Fresh ones in each round."""
    with served() as plane:
        ours, raw = interleaved(rounds, lambda: _life(plane), lambda: floor(workers=WORKERS))
    start, stop = [one.start for one in ours], [one.stop for one in ours]
    nodes = f"head + {WORKERS} workers"
    yield row("cluster-start", "s", start, [one.ready for one in raw], nodes, "target ratio 1.15")
    yield row("cluster-stop", "s", stop, [one.teardown for one in raw], nodes, "ours also puts the logs away")


def scale_up(rounds: int) -> Iterator[Row]:
    """Measure from demand in the GCS to a new worker READY, 0 to 1, beside one worker by ``ray start``."""
    spec = a_spec(NAME, low=0, high=1, idle_worker_seconds=1)
    with tempfile.TemporaryDirectory() as folder, served() as plane, RawRay() as raw:
        script = Path(folder) / "ask.py"
        script.write_text(ASK)
        job = JobSpec(entrypoint=f"python {script}")
        gcs = _up(plane, spec)
        raw.start_head()
        ours, least = interleaved(rounds, lambda: _grown(plane, gcs, job), lambda: _raw_worker(raw))
        yield _worker_row("scale-up", ours, least, target=2)
        gcs.close()


def replace(rounds: int) -> Iterator[Row]:
    """Measure from SIGKILL of a worker's raylet to its replacement READY, beside one worker by ``ray start``."""
    with served() as plane, RawRay() as raw:
        gcs = _up(plane, a_spec(NAME, low=1, high=1))
        raw.start_head()
        ours, least = interleaved(rounds, lambda: _replaced(plane, gcs), lambda: _raw_worker(raw))
        yield _worker_row("replace", ours, least, target=5)
        gcs.close()


def _life(plane: Plane) -> Life:
    begin = time.perf_counter()
    plane.client.apply(a_spec(NAME, low=WORKERS, high=WORKERS))
    view = plane.view_when(_runs)
    start = time.perf_counter() - begin
    gcs = plane.ray(view).gcs()
    if len(gcs.alive()) < 1 + WORKERS:  # then the claim was early, and what counts is Ray's word
        until(lambda: len(gcs.alive()) >= 1 + WORKERS, "Ray does not see all nodes")
        start = time.perf_counter() - begin
    gcs.close()
    begin = time.perf_counter()
    plane.client.delete(NAME, "the round is over")
    plane.view_when(lambda view: view.phase is ClusterPhase.TERMINATED)
    stop = time.perf_counter() - begin
    if plane.others():
        until(lambda: not plane.others(), "processes are left")
        stop = time.perf_counter() - begin
    return Life(start=start, stop=stop)


def _up(plane: Plane, spec: dict[str, object]) -> Gcs:
    """Bring a cluster up and let it come to rest: its dashboard is started after it is RUNNING, and takes a CPU."""
    plane.client.apply(spec)
    view = plane.view_when(lambda view: _runs(view) and bool(view.endpoint))
    return plane.ray(view).gcs()


def _grown(plane: Plane, gcs: Gcs, job: JobSpec) -> float:
    before = gcs.alive()
    plane.client.submit(NAME, job)
    until(gcs.demanded, "Ray has no demand")
    begin = time.perf_counter()
    until(lambda: bool(gcs.alive() - before), "no worker has joined")
    plane.view_when(lambda view: bool(ready(view)))
    took = time.perf_counter() - begin
    plane.view_when(lambda view: not ready(view) and all(job.ended_at for job in view.jobs))
    until(lambda: gcs.alive() == before, "the idle worker stays")
    return took


def _replaced(plane: Plane, gcs: Gcs) -> float:
    before = gcs.alive()
    (worker,) = ready(plane.client.get(NAME))
    (raylet,) = plane.machine.processes(worker, having="raylet/raylet")
    begin = time.perf_counter()
    raylet.kill()
    until(lambda: bool(gcs.alive() - before), "no worker has joined")
    plane.view_when(_has_another(worker.id))
    took = time.perf_counter() - begin
    until(lambda: len(gcs.alive()) == len(before), "Ray holds the killed one for alive")
    return took


def _raw_worker(raw: RawRay) -> float:
    took = raw.start_workers(1)
    raw.stop_workers()
    return took


def _worker_row(name: str, ours: list[float], least: list[float], *, target: int) -> Row:
    over = f"{excess(ours, least):+.2f} s over one `ray start` of a worker"
    return row(name, "s", ours, least, over, f"target {target} s")


def _runs(view: ClusterView) -> bool:
    return view.phase is ClusterPhase.RUNNING


def _has_another(id: str) -> Callable[[ClusterView], bool]:
    return lambda view: any(node.id != id for node in ready(view))
