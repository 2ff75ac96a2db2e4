"""Pull mode: what a thousand polling operators cost, how long an order takes over a slow line, what an operator holds."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import psutil

from anyscale_core.clock import SystemClock
from anyscale_core.models import wire
from anyscale_core.models.order import Login, Poll, Session
from anyscale_core.operator.process import Options, build
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeProvider
from benchmarks.heartbeats import Server, connected, started
from benchmarks.rows import Row, row
from tests.api.serving import Service, eventually
from tests.scenarios.machine import Machine

OPERATORS = 1000
AWAY = timedelta(milliseconds=25)
"""What the slow line adds in each direction."""
ORDERS = 20
REST = timedelta(seconds=10)
MB = 1024 * 1024


def operators(rounds: int) -> Iterator[Row]:
    """Measure all three."""
    yield from polling(rounds)
    yield from orders(rounds)
    yield from resident(rounds)


# -- many operators at rest ----------------------------------------------------------------------------------------------


def polling(rounds: int) -> Iterator[Row]:
    """CPU of the service while every one of a thousand operators asks once and is held, beside a bare route asked as often."""
    machine = Machine()
    try:
        machine.serve()
        assert machine.server is not None
        parts = urlsplit(machine.connection.url)
        ours = Server(process=psutil.Process(machine.server.pid), port=parts.port or 0)
        sessions = asyncio.run(_let_in(machine, ours))
        hold = sessions[0].hold.total_seconds()
        mine, least = [], []
        with tempfile.TemporaryDirectory() as bare_home, started(bare_home) as bare:
            for _ in range(rounds):
                mine.append(_cpu(ours, lambda: asyncio.run(_hold(ours, sessions))) / hold)
                least.append(_cpu(bare, lambda: asyncio.run(_ask(bare))) / hold)
        yield row(
            "operator-polling", "of a core", mine, least,
            f"{OPERATORS} operators, each held {hold:g} s; the floor is as many requests to a bare Litestar",
        )  # fmt: skip
    finally:
        machine.close()


def _cpu(server: Server, act: Callable[[], object]) -> float:
    before = server.cpu()
    act()
    return server.cpu() - before


async def _let_in(machine: Machine, server: Server) -> list[Session]:
    logins = []
    for number in range(OPERATORS):
        name = f"cloud-{number}"
        machine.client.register_cloud({"name": name, "provider": "local", "mode": "operator"})
        logins.append(Login(cloud=name, replica="only", token=machine.client.operator_token(name).token))
    async with connected(server) as exchange:
        return [
            wire.structure(json.loads(await exchange(_request("session", wire.unstructure_revealed(login)))), Session)
            for login in logins
        ]


async def _hold(server: Server, sessions: list[Session]) -> None:
    """Let every operator ask once, spread over the time that polls are held."""

    async def one(number: int, session: Session) -> None:
        await asyncio.sleep(session.hold.total_seconds() * number / len(sessions) / 2)
        async with connected(server) as exchange:
            poll = wire.unstructure(Poll(wait=session.hold / 2))
            await exchange(_request("poll", poll, session.credential.reveal()))

    await asyncio.gather(*(one(number, session) for number, session in enumerate(sessions)))


async def _ask(server: Server) -> None:
    beat = {"seq": 1, "wait_s": 0.0, "config_version": "", "epoch": "", "ray": "ALIVE"}

    async def one() -> None:
        async with connected(server) as exchange:
            await exchange(_request("heartbeat", beat, group="nodes"))

    for _ in range(OPERATORS // 50):
        await asyncio.gather(*(one() for _ in range(50)))


def _request(route: str, body: object, credential: str = "-", group: str = "operators") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/{group}/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {credential}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


# -- one order over a slow line ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Taken:
    """Seconds from the call in the control plane to the call of the driver, and to its return."""

    begun: float
    told: float


def orders(rounds: int) -> Iterator[Row]:
    """From a call of the engine to the operator's driver, and back, beside one request over the same line."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "plane").start()
        assert service.serving is not None
        connection = service.serving.connection
        with slow_line(urlsplit(connection.url).port or 0) as port, working(service, Path(folder), port):
            cloud = service.plane.clouds.get("far")
            times: list[Taken] = []
            trips: list[float] = []
            client = service.client()
            client.url = f"https://127.0.0.1:{port}"
            client._port = port
            client.health()
            for _ in range(rounds * ORDERS):
                began: list[float] = []
                service.cloud.before("cluster.offerings", lambda began=began: began.append(time.perf_counter()))  # type: ignore[misc]
                at = time.perf_counter()
                cloud.cluster.offerings(deadline=cloud.deadline())
                times.append(Taken(begun=began[0] - at, told=time.perf_counter() - at))
                at = time.perf_counter()
                client.health()
                trips.append(time.perf_counter() - at)
            client.close()
        service.stop()
    note = f"a line with {2 * AWAY.total_seconds() * 1000:.0f} ms there and back; the floor is GET /healthz over it"
    yield row("operator-order-begun", "s", [one.begun for one in times], trips, note)
    yield row("operator-order", "s", [one.told for one in times], trips, note, "at most 1.2 round trips")


@contextlib.contextmanager
def working(service: Service, folder: Path, port: int) -> Iterator[None]:
    """An operator of the cloud ``far``, which reaches its control plane through a port of this machine."""
    with service.client() as client:
        client.register_cloud({"name": "far", "provider": "fake", "mode": "operator"})
        token = client.operator_token("far")
    (folder / "token").write_text(token.token.reveal())
    (folder / "ca.pem").write_text(token.ca_pem)
    options = Options(
        url=f"https://127.0.0.1:{port}", ca=folder / "ca.pem", cloud="far", home=folder, token_file=folder / "token"
    )
    registry = Registry.of(FakeProvider(service.cloud).provider())
    operator = build(options, registry=registry, clock=SystemClock())
    thread = threading.Thread(target=operator.run, daemon=True)
    thread.start()
    eventually(lambda: service.plane.operators.view("far").health is not None)
    try:
        yield
    finally:
        operator.stop()
        thread.join(20)


@contextlib.contextmanager
def slow_line(port: int) -> Iterator[int]:
    """A way to a port of this machine on which everything takes ``AWAY`` longer, in each direction."""
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            loop.call_later(AWAY.total_seconds(), writer.write, data)
        loop.call_later(AWAY.total_seconds(), writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, back), pump(there, writer))

    server = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


# -- an operator at rest -------------------------------------------------------------------------------------------------


def resident(rounds: int) -> Iterator[Row]:
    """Memory of an operator's process at rest beside a bare Python, and its CPU."""
    mine, least, cpu = [], [], []
    for _ in range(rounds):
        machine = Machine()
        try:
            machine.serve()
            held, used = _at_rest(machine)
            mine.append(held)
            cpu.append(used)
        finally:
            machine.close()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bare:
            time.sleep(0.5)
            least.append(psutil.Process(bare.pid).memory_info().rss / MB)
    yield row("operator-rss", "MB", mine, least, "at most 80 MB", f"CPU at rest {max(cpu) * 100:.2f} % of a core")


def _at_rest(machine: Machine) -> tuple[float, float]:
    machine.client.register_cloud({"name": "far", "provider": "local", "mode": "operator"})
    token = machine.client.operator_token("far")
    (machine.home / "token").write_text(token.token.reveal())
    (machine.home / "ca.pem").write_text(token.ca_pem)
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(machine.home), "operator", "run"]
    command += ["--url", token.url, "--ca", str(machine.home / "ca.pem"), "--cloud", "far"]
    command += ["--token-file", str(machine.home / "token")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=machine.env) as popen:
        try:
            machine.wait(lambda: _is_reported(machine), "the operator to report")
            process = psutil.Process(popen.pid)
            before = process.cpu_times()
            time.sleep(REST.total_seconds())
            after = process.cpu_times()
            used = (after.user + after.system - before.user - before.system) / REST.total_seconds()
            return process.memory_info().rss / MB, used
        finally:
            popen.kill()


def _is_reported(machine: Machine) -> bool:
    return any(view.operator is not None and view.operator.health is not None for view in machine.client.clouds())
