"""A head that is lost and comes back on what its GCS has stored, beside plain Ray, which begins with nothing."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import grpc

from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import JobPhase
from benchmarks.floor import RawRay
from benchmarks.gcs import Gcs, until
from benchmarks.rows import Row, interleaved, row
from benchmarks.served import NAME, Plane, ready, served
from tests.scenarios.machine import a_spec

COUNT = """
import sys, ray

ray.init(log_to_driver=False, namespace="kept")
head = ray.get_runtime_context().get_node_id()
other = next(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != head)


@ray.remote(num_cpus=0, lifetime="detached", label_selector={"ray.io/node-id": other})
class Counter:
    value = 0

    def up(self):
        self.value += 1
        return self.value


open(sys.argv[1], "w").write(str(ray.get(Counter.options(name="counter", get_if_exists=True).remote().up.remote())))
"""
"""Lets a detached actor on the worker count one further."""


@attrs.frozen(kw_only=True)
class Return:
    """Seconds from the kill until Ray shows head and worker ALIVE, and whether the actor went on from what it had counted."""

    gcs: float
    ray: float
    instance: float
    kept: bool


@attrs.frozen(kw_only=True)
class Anew:
    """The same of plain Ray, started again."""

    took: float
    kept: bool


def head_recovery(rounds: int) -> Iterator[Row]:
    """Kill a head's gcs_server, its raylet, and all of its instance; each time count on. Plain Ray: all is started again."""
    with tempfile.TemporaryDirectory() as folder, served() as plane:
        script, answer = Path(folder) / "count.py", Path(folder) / "answer"
        script.write_text(COUNT)
        ours, raw = interleaved(rounds, lambda: _ours(plane, script, answer), lambda: _without(script, answer))
    least = [one.took for one in raw]
    kept = f"a detached actor's state was kept in {sum(one.kept for one in ours)} of {rounds}"
    kept += f", without stored state in {sum(one.kept for one in raw)} of {rounds}"
    what = "floor: head and worker by `ray start`"
    yield row("head-recovery-gcs", "s", [one.gcs for one in ours], least, "SIGKILL of the gcs_server", what)
    yield row("head-recovery-ray", "s", [one.ray for one in ours], least, "SIGKILL of the head's raylet", what)
    yield row("head-recovery", "s", [one.instance for one in ours], least, "the whole instance", kept, what)


def _ours(plane: Plane, script: Path, answer: Path) -> Return:
    plane.client.apply(a_spec(NAME, low=1, high=1))
    view = plane.view_when(lambda view: len(ready(view)) == len(ready(view, "head")) == 1 and bool(view.endpoint))
    gcs = plane.ray(view).gcs()
    counts = [_counted(plane, script, answer)]
    took = []
    for kill in (_kill_gcs, _kill_raylet, _kill_instance):
        took.append(_back(gcs, lambda kill=kill: kill(plane), same=kill is _kill_gcs))  # type: ignore[misc]
        counts.append(_counted(plane, script, answer))
    gcs.close()
    plane.client.delete(NAME, "the round is over")
    plane.view_when(lambda view: view.ended_at is not None)
    return Return(gcs=took[0], ray=took[1], instance=took[2], kept=counts == [1, 2, 3, 4])


def _back(gcs: Gcs, kill: Callable[[], None], *, same: bool) -> float:
    before = gcs.alive()
    begin = time.perf_counter()
    kill()
    until(lambda: len(now := _seen(gcs)) == len(before) and (now == before) is same, "the head does not come back")
    return time.perf_counter() - begin


def _seen(gcs: Gcs) -> frozenset[str]:
    try:
        return gcs.alive()
    except grpc.RpcError:  # it died while it was asked
        return frozenset()


def _kill_gcs(plane: Plane) -> None:
    _kill_process(plane, "gcs/gcs_server")


def _kill_raylet(plane: Plane) -> None:
    _kill_process(plane, "raylet/raylet")


def _kill_process(plane: Plane, having: str) -> None:
    (head,) = ready(plane.client.get(NAME), "head")
    for process in plane.machine.processes(head, having=having):
        process.kill()


def _kill_instance(plane: Plane) -> None:
    (head,) = ready(plane.client.get(NAME), "head")
    plane.machine.kill_node(head)


def _counted(plane: Plane, script: Path, answer: Path) -> int:
    plane.view_when(lambda view: len(ready(view)) == len(ready(view, "head")) == 1)
    job = plane.client.submit(NAME, JobSpec(entrypoint=f"python {script} {answer}")).id
    plane.view_when(lambda view: any(one.id == job and one.phase is JobPhase.SUCCEEDED for one in view.jobs))
    return int(answer.read_text())


def _without(script: Path, answer: Path) -> Anew:
    with RawRay() as raw:
        raw.start_head()
        raw.start_workers(1)
        raw.run(script, answer)
        raw.stop()
        took = raw.start_head() + raw.start_workers(1)
        raw.run(script, answer)
        return Anew(took=took, kept=answer.read_text() == "2")
