"""What a control plane costs that has nothing to do: a tick over clusters that did not change, and a process at rest."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.records import Timing
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeProvider, ManualClock
from benchmarks.heartbeats import Server, started
from benchmarks.rows import Row, row
from benchmarks.seeding import a_cloud, seed
from benchmarks.startup import COMMAND, warm
from tests.scenarios.machine import ENV

SIZES = (100, 1_000, 10_000)
NODES = 10
CLUSTERS = 1_000
TICKS = 50
STEP = timedelta(milliseconds=500)
DAY = timedelta(days=1)
SECONDS = 10.0
QUIET = 0.05
"""Share of a core below which a server that has just started is taken to be at rest."""


def idle_tick(rounds: int) -> Iterator[Row]:
    """Measure a tick, a look for silence and the collector's turn over clusters that did not change, beside 100 of them."""
    with tempfile.TemporaryDirectory() as folder:
        planes = {size: _at_rest(Path(folder) / str(size), size) for size in SIZES}
        least, floor_clock = planes[SIZES[0]]
        for size, (plane, clock) in planes.items():
            ours, floor = [], []
            for _ in range(rounds):
                ours.append(_ticks(plane, clock))
                floor.append(_ticks(least, floor_clock))
            sweep = _sweep(plane, clock)
            yield row(
                f"idle-tick-{size}", "ms of CPU", ours, floor, f"{size} clusters of {NODES} nodes, floor: {SIZES[0]}",
                f"a sweep of their cloud, every 30 s: {sweep:.0f} ms",
            )  # fmt: skip
        for plane, _ in planes.values():
            plane.close()


def rest(rounds: int) -> Iterator[Row]:
    """Measure a server process with 1,000 clusters to which nothing happens, beside one with a single cluster."""
    warm()
    with (
        tempfile.TemporaryDirectory() as full,
        tempfile.TemporaryDirectory() as bare,
        started(full, CLUSTERS, NODES) as ours,
        started(bare, 1, NODES) as least,
    ):
        _quiet(ours)
        _quiet(least)
        used = [(100 * _share(ours, SECONDS), 100 * _share(least, SECONDS)) for _ in range(rounds)]
        yield row("rest-cpu", "% of a core", *_columns(used), f"{CLUSTERS} clusters of {NODES} nodes, target 1 %")
        memory = [(_rss(ours), _rss(least))]
        processes = 1 + len(ours.process.children(recursive=True))
        notes = f"processes: {processes}", "target 150 MB; the fake cloud and its machines are in it"
        yield row("rest-rss", "MB", *_columns(memory), *notes)
        took = [(_status(full, f"c{CLUSTERS // 2}"), _status(bare, "c0")) for _ in range(rounds)]
        yield row("rest-status", "ms", *_columns(took), "anyscale-core status NAME, cold; target 200 ms")


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [ours for ours, _ in pairs], [floor for _, floor in pairs]


def _rss(server: Server) -> float:
    return float(server.process.memory_info().rss / 2**20)


def _at_rest(home: Path, clusters: int) -> tuple[ControlPlane, ManualClock]:
    clock = ManualClock()
    cloud = a_cloud(clock)
    settings = Settings(home=home, url="https://plane.test", timing=Timing(suspect_after=DAY, lost_after=2 * DAY))
    seed(settings, cloud, clock, clusters=clusters, nodes=NODES)
    plane = ControlPlane(settings, registry=Registry.of(FakeProvider(cloud).provider()), clock=clock)
    plane.clouds.get("fake")
    while plane.tick() or plane.collector.collect():
        pass
    return plane, clock


def _ticks(plane: ControlPlane, clock: ManualClock) -> float:
    """Return the milliseconds of CPU of one tick, without the sweeps. Raises RuntimeError when a cluster was worked on."""
    plane.collector.collect()
    began = time.thread_time()
    for number in range(TICKS):
        clock.advance(STEP / TICKS * (number % 2))
        if plane.tick():
            raise RuntimeError("a cluster at rest was worked on")
        plane.collector.collect()
    return (time.thread_time() - began) / TICKS * 1000


def _sweep(plane: ControlPlane, clock: ManualClock) -> float:
    clock.advance(plane.settings.timing.sweep_ceiling)
    began = time.thread_time()
    plane.collector.collect()
    return (time.thread_time() - began) * 1000


def _quiet(server: Server) -> None:
    """Wait until what a start makes due is done."""
    deadline = time.monotonic() + 300
    while _share(server, 2.0) > QUIET:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not come to rest")


def _share(server: Server, seconds: float) -> float:
    before, began = server.cpu(), time.perf_counter()
    time.sleep(seconds)
    # What the kernel counts comes in whole ticks: none is less than one, not nothing.
    return max(server.cpu() - before, 1 / os.sysconf("SC_CLK_TCK")) / (time.perf_counter() - began)


def _status(home: str, name: str) -> float:
    """Return the milliseconds of a whole ``status NAME``. Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    subprocess.run((COMMAND, "--home", home, "status", name), env=ENV, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000
