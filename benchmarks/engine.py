"""The engine alone: how fast clusters pass through it when the cloud, the nodes and the time cost nothing."""

import os
import secrets
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import attrs
from sqlalchemy import create_engine, event, make_url, text

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from benchmarks.rows import Row, row

ENV_DATABASE = "BENCHMARK_DATABASE_URL"
"""Of a PostgreSQL server on which databases may be made: ``postgresql+psycopg://user:password@host/postgres``."""
CLUSTERS = 20
WORKERS = 9
NOTHING = timedelta(0)
STEP = timedelta(seconds=1)
STEPS = 200


@attrs.frozen(kw_only=True)
class Passage:
    """``seconds`` for all clusters from the first apply until the last is RUNNING, ``cpu`` those of this process in between;
    the durable commits that this took."""

    seconds: float
    cpu: float
    commits: int


def engine(rounds: int) -> Iterator[Row]:
    """Measure clusters of a head and nine workers from apply to RUNNING, beside bare commits of the same number.

    With a server's URL in ``BENCHMARK_DATABASE_URL`` also on PostgreSQL, each round in a database of its own; the floor stays
    SQLite's commits.
    """
    yield _measured("engine", rounds, _embedded)
    server = os.environ.get(ENV_DATABASE)
    if server:
        yield _measured("engine-postgresql", rounds, lambda: _fresh_database(server))


def _measured(name: str, rounds: int, database: Callable[[], AbstractContextManager[str | None]]) -> Row:
    ours, least, passages = [], [], []
    for _ in range(rounds):
        with database() as url:
            passage = _passage(url)
        passages.append(passage)
        ours.append(passage.seconds / CLUSTERS * 1000)
        least.append(_bare(passage.commits) / CLUSTERS * 1000)
    rate = f"{1000 * rounds / sum(ours):.1f} clusters/s"
    cpu = f"{statistics.median(one.cpu for one in passages) / CLUSTERS * 1000:.0f} ms of CPU per cluster"
    size = f"{CLUSTERS} clusters of {1 + WORKERS} nodes at once"
    commits = f"{passages[-1].commits / CLUSTERS:.1f} durable commits per cluster"
    return row(name, "ms/cluster", ours, least, rate, cpu, size, commits)


def _embedded() -> AbstractContextManager[str | None]:
    return nullcontext(None)


@contextmanager
def _fresh_database(server: str) -> Iterator[str | None]:
    """Make a database on a PostgreSQL server, and drop it afterwards."""
    url = make_url(server).set(database=f"benchmark_{secrets.token_hex(4)}")
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {url.database}"))
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
    finally:
        admin.dispose()


def _passage(database: str | None = None) -> Passage:
    clock = ManualClock()
    cloud = FakeCloud(clock, boot=NOTHING, exposes_in=NOTHING)
    cloud.limits.update(dict.fromkeys(cloud.limits, float("inf")))
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), url="https://plane.test", database=database)
        plane = ControlPlane(settings, registry=Registry.of(FakeProvider(cloud).provider()), clock=clock)
        # Heartbeats go through another engine, without full durability.
        event.listen(plane.store._durable, "commit", count)
        agents = FakeAgents(cloud, plane, ray_start=NOTHING)
        names = [f"c{number}" for number in range(CLUSTERS)]
        begin, used = time.perf_counter(), time.process_time()
        for name in names:
            plane.apply(a_spec(name, workers(min_nodes=WORKERS, max_nodes=WORKERS)), actor="benchmark")
        _run(plane, agents, clock, names)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - used
        plane.close()
    return Passage(seconds=seconds, cpu=cpu, commits=commits)


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
