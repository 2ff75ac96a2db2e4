"""Heartbeats through the real server with the store behind it, beside a bare Litestar that reads the same bodies."""

import asyncio
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import psutil

from benchmarks.fakeserver import NODES
from benchmarks.rows import Row, row
from tests.scenarios.machine import ENV

CLUSTERS, SIZE = 100, 10
CONNECTIONS = 64
SECONDS = 5.0
"""Of each round, for each server."""


@attrs.define(kw_only=True)
class Node:
    """What the load says for one node."""

    token: str
    body: dict[str, Any]

    def request(self) -> bytes:
        """Return its next heartbeat as bytes on the wire."""
        self.body["seq"] += 1
        content = json.dumps(self.body).encode()
        head = (
            "POST /v1/nodes/heartbeat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


@attrs.frozen(kw_only=True)
class Server:
    """A process that takes heartbeats."""

    process: psutil.Process
    port: int

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@attrs.frozen(kw_only=True)
class Load:
    """What a round came to."""

    beats: int
    seconds: float
    cpu: float

    @property
    def us(self) -> float:
        """Microseconds of the server's CPU for one heartbeat."""
        return self.cpu / self.beats * 1e6


def heartbeats(rounds: int) -> Iterator[Row]:
    """Measure the CPU that a heartbeat costs the server, all nodes in turn over kept connections, in rounds that alternate."""
    mine, least = [], []
    with (
        tempfile.TemporaryDirectory() as ours_home,
        tempfile.TemporaryDirectory() as bare_home,
        started(ours_home, CLUSTERS, SIZE) as ours,
        started(bare_home) as bare,
    ):
        nodes = nodes_of(ours_home)
        settle(ours, nodes)
        for _ in range(rounds):
            mine.append(load(ours, nodes))
            least.append(load(bare, nodes))
    ours_us, floor_us = [one.us for one in mine], [one.us for one in least]
    rate, floor_rate = 1e6 / statistics.median(ours_us), 1e6 / statistics.median(floor_us)
    yield row(
        "heartbeats", "us of CPU", ours_us, floor_us,
        f"{rate:.0f} a second on one core, bare Litestar {floor_rate:.0f}: {rate / floor_rate:.2f} of it",
        f"10,000 nodes at 10 s: {1000 / rate:.2f} of a core",
        f"{CLUSTERS} clusters of {SIZE} nodes over {CONNECTIONS} connections",
    )  # fmt: skip


@contextmanager
def started(home: str, *numbers: int) -> Iterator[Server]:
    """Run a server process; it is gone afterwards."""
    command = [sys.executable, "-m", "benchmarks.fakeserver", home, *map(str, numbers)]
    root = Path(__file__).parents[1]
    log = Path(home) / "server.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=ENV, cwd=root) as child,
    ):
        try:
            assert child.stdout is not None
            said = child.stdout.readline()
            if not said.strip():
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")
            yield Server(process=psutil.Process(child.pid), port=int(said))
        finally:
            child.kill()


def nodes_of(home: str) -> list[Node]:
    """Return the nodes that the server in ``home`` was seeded with."""
    return [Node(token=token, body=body) for token, body in json.loads((Path(home) / NODES).read_text())]


def settle(server: Server, nodes: Sequence[Node]) -> None:
    """Let every node have the configuration that is meant for it, until no node is told anything new."""
    for _ in range(20):
        if not asyncio.run(_round(server, nodes)):
            return
        time.sleep(1)
    raise RuntimeError("nodes are told something new again and again")


def load(server: Server, nodes: Sequence[Node]) -> Load:
    """Send heartbeats for a while, as fast as they are answered."""
    begin, before = time.perf_counter(), server.cpu()
    beats = asyncio.run(_press(server, nodes, begin + SECONDS))
    return Load(beats=beats, seconds=time.perf_counter() - begin, cpu=server.cpu() - before)


async def _round(server: Server, nodes: Sequence[Node]) -> int:
    """Send one heartbeat for each node; return how many were told something."""
    told = 0

    async def some(share: Sequence[Node]) -> None:
        nonlocal told
        async with connected(server) as exchange:
            for node in share:
                orders = json.loads(await exchange(node.request()))
                if orders["config"] is not None:
                    node.body["config_version"] = orders["config"]["version"]
                told += any(orders.values())

    await asyncio.gather(*(some(nodes[index::CONNECTIONS]) for index in range(CONNECTIONS)))
    return told


async def _press(server: Server, nodes: Sequence[Node], until: float) -> int:
    beats = 0

    async def some(share: Sequence[Node]) -> None:
        nonlocal beats
        async with connected(server) as exchange:
            while True:
                for node in share:
                    await exchange(node.request())
                    beats += 1
                    if time.perf_counter() > until:
                        return

    await asyncio.gather(*(some(nodes[index::CONNECTIONS]) for index in range(CONNECTIONS)))
    return beats


class connected:
    def __init__(self, server: Server) -> None:
        self._port = server.port

    async def __aenter__(self) -> Any:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context)
        return self._exchange

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def _exchange(self, request: bytes) -> bytes:
        """Send one request and return the body of its answer. Raises RuntimeError unless it is 200."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head.decode()}{body.decode()}")
        return body
