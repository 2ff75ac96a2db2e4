"""The engine alone: how fast clusters pass through it when the cloud, the nodes and the time cost nothing."""

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import attrs
from sqlalchemy import event

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from benchmarks.rows import Row, row

CLUSTERS = 20
WORKERS = 9
NOTHING = timedelta(0)
STEP = timedelta(seconds=1)
STEPS = 200


@attrs.frozen(kw_only=True)
class Passage:
    """``seconds`` for all clusters from the first apply until the last is RUNNING; the durable commits that this took."""

    seconds: float
    commits: int


def engine(rounds: int) -> Iterator[Row]:
    """Measure clusters of a head and nine workers from apply to RUNNING, beside bare commits of the same number."""
    ours, least, commits = [], [], 0
    for _ in range(rounds):
        passage = _passage()
        commits = passage.commits
        ours.append(passage.seconds / CLUSTERS * 1000)
        least.append(_bare(commits) / CLUSTERS * 1000)
    rate = f"{1000 * rounds / sum(ours):.1f} clusters/s"
    size = f"{CLUSTERS} clusters of {1 + WORKERS} nodes at once"
    yield row("engine", "ms/cluster", ours, least, rate, size, f"{commits / CLUSTERS:.1f} durable commits per cluster")


def _passage() -> Passage:
    clock = ManualClock()
    cloud = FakeCloud(clock, boot=NOTHING, exposes_in=NOTHING)
    cloud.limits.update(dict.fromkeys(cloud.limits, float("inf")))
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), url="https://plane.test")
        plane = ControlPlane(settings, registry=Registry.of(FakeProvider(cloud).provider()), clock=clock)
        # Heartbeats go through another engine, without full durability.
        event.listen(plane.store._durable, "commit", count)
        agents = FakeAgents(cloud, plane, ray_start=NOTHING)
        names = [f"c{number}" for number in range(CLUSTERS)]
        begin = time.perf_counter()
        for name in names:
            plane.apply(a_spec(name, workers(min_nodes=WORKERS, max_nodes=WORKERS)), actor="benchmark")
        _run(plane, agents, clock, names)
        seconds = time.perf_counter() - begin
        plane.close()
    return Passage(seconds=seconds, commits=commits)


def _run(plane: ControlPlane, agents: FakeAgents, clock: ManualClock, names: list[str]) -> None:
    for _ in range(STEPS):
        clock.advance(STEP)
        agents.step()
        plane.tick()
        if all(plane.status(name).record.phase is ClusterPhase.RUNNING for name in names):
            return
    phases = {name: plane.status(name).record.phase.value for name in names}
    raise RuntimeError(f"not all RUNNING after {STEPS} steps: {phases}")


def _bare(commits: int) -> float:
    """Return the seconds of that many durable commits of one small row each."""
    with tempfile.TemporaryDirectory() as home, closing(sqlite3.connect(f"{home}/floor.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
        begin = time.perf_counter()
        for number in range(commits):
            with connection:
                connection.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 200))
        return time.perf_counter() - begin
