"""Pull mode: what a thousand polling operators cost, how long an order takes over a slow line, what an operator holds."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import psutil

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.order import Login, Poll, Session
from anyscale_core.operator.process import Options, build
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from benchmarks.heartbeats import Server, connected, started
from benchmarks.rows import Row, row
from tests.api.serving import Service, eventually
from tests.scenarios.machine import ENV, Machine

OPERATORS = 1000
AWAY = timedelta(milliseconds=25)
"""What the slow line adds in each direction."""
ORDERS = 20
REST = timedelta(seconds=10)
MB = 1024 * 1024
AT_ONCE = 20
Exchange = Callable[[bytes], Awaitable[bytes]]
"""Sends a request on a kept connection and returns the body of its answer."""


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
        sessions = _let_in(machine.home)
        machine.serve()
        assert machine.server is not None
        parts = urlsplit(machine.connection.url)
        ours = Server(process=psutil.Process(machine.server.pid), port=parts.port or 0)
        hold = sessions[0].hold.total_seconds()
        mine, least = [], []
        with tempfile.TemporaryDirectory() as bare_home, started(bare_home) as bare:
            for _ in range(rounds):
                mine.append(asyncio.run(_hold(ours, sessions)) / hold)
                least.append(asyncio.run(_ask(bare)) / hold)
        yield row(
            "operator-polling", "of a core", mine, least,
            f"{OPERATORS} operators, each held {hold:g} s; the floor is as many requests to a bare Litestar",
        )  # fmt: skip
    finally:
        machine.close()


def _let_in(home: Path) -> list[Session]:
    """Register the clouds in a home that nobody serves yet, and let an operator of each in."""
    plane = ControlPlane(Settings(home=home, url="https://127.0.0.1"))
    sessions = []
    for number in range(OPERATORS):
        cloud = CloudSpec(name=f"cloud-{number}", provider="local", mode=CloudMode.OPERATOR)
        plane.store.add_cloud(cloud, now=plane.clock.now())
        token = plane.operators.token(cloud.name).token
        sessions.append(plane.operators.login(Login(cloud=cloud.name, replica="only", token=token)))
    plane.close()
    return sessions


async def _hold(server: Server, sessions: list[Session]) -> float:
    """Let every operator ask once over a connection that it has, spread over half the time that polls are held.

    Returns the seconds of CPU that it took the server.
    """

    async def one(exchange: Exchange, number: int, session: Session) -> None:
        await asyncio.sleep(session.hold.total_seconds() * number / len(sessions) / 2)
        poll = wire.unstructure(Poll(wait=session.hold / 2))
        await exchange(_request("poll", poll, session.credential.reveal()))

    async with _all_connected(server) as exchanges:
        before = server.cpu()
        await asyncio.gather(*(one(exchanges[number], number, session) for number, session in enumerate(sessions)))
        return server.cpu() - before


async def _ask(server: Server) -> float:
    """Send as many requests that are answered at once; return the seconds of CPU that it took the server."""
    beat = {"seq": 1, "wait_s": 0.0, "config_version": "", "epoch": "", "ray": "ALIVE"}
    async with _all_connected(server) as exchanges:
        before = server.cpu()
        for exchange in exchanges:
            await exchange(_request("heartbeat", beat, group="nodes"))
        return server.cpu() - before


@contextlib.asynccontextmanager
async def _all_connected(server: Server) -> AsyncIterator[list[Exchange]]:
    """Connections of all operators, made a few at a time: a handshake costs more than a poll."""
    async with contextlib.AsyncExitStack() as stack:
        made: list[Exchange] = []
        while len(made) < OPERATORS:
            made += await asyncio.gather(*(stack.enter_async_context(connected(server)) for _ in range(AT_ONCE)))
        yield made


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
    """From a call of the engine to the operator's driver, and back, beside one request over the same line.

    The control plane, the line and the operator are processes of their own, as they are where they are used: in one process each
    would wait for the others' interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "plane").start()
        assert service.serving is not None
        connection = service.serving.connection
        with slow_line(urlsplit(connection.url).port or 0) as port, working(service, Path(folder), port) as begun:
            cloud = service.plane.clouds.get("far")
            times: list[Taken] = []
            trips: list[float] = []
            client = service.client()
            client.url = f"https://127.0.0.1:{port}"
            client._port = port
            client.health()
            for _ in range(rounds * ORDERS):
                at = time.perf_counter()
                cloud.cluster.quotas(deadline=cloud.deadline())
                times.append(Taken(begun=begun() - at, told=time.perf_counter() - at))
                at = time.perf_counter()
                client.health()
                trips.append(time.perf_counter() - at)
            client.close()
        service.stop()
    note = f"a line with {2 * AWAY.total_seconds() * 1000:.0f} ms there and back; the floor is GET /healthz over it"
    yield row("operator-order-begun", "s", [one.begun for one in times], trips, note)
    yield row("operator-order", "s", [one.told for one in times], trips, note, "at most 1.2 round trips")


@contextlib.contextmanager
def working(service: Service, folder: Path, port: int) -> Iterator[Callable[[], float]]:
    """An operator of the cloud ``far``, which reaches its control plane through a port of this machine.

    Gives what returns the instant (of ``perf_counter``) at which the next call of its driver began.
    """
    with service.client() as client:
        client.register_cloud({"name": "far", "provider": "fake", "mode": "operator"})
        token = client.operator_token("far")
    (folder / "token").write_text(token.token.reveal())
    (folder / "ca.pem").write_text(token.ca_pem)
    with _beside("operate", f"https://127.0.0.1:{port}", str(folder)) as child:
        eventually(lambda: service.plane.operators.view("far").health is not None, within=60)
        assert child.stdout is not None
        told = child.stdout
        yield lambda: float(told.readline())


def operate(url: str, folder: str) -> None:
    """Be an operator whose driver tells when it is asked for quotas."""
    cloud = FakeCloud(ManualClock(SystemClock().now()))
    cloud.before("cluster.quotas", lambda: print(time.perf_counter(), flush=True), count=None)
    home = Path(folder)
    options = Options(url=url, ca=home / "ca.pem", cloud="far", home=home / "far", token_file=home / "token")
    build(options, registry=Registry.of(FakeProvider(cloud).provider()), clock=SystemClock()).run()


@contextlib.contextmanager
def slow_line(port: int) -> Iterator[int]:
    """A way to a port of this machine on which everything takes ``AWAY`` longer, in each direction."""
    with _beside("delay", str(port)) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


def delay(port: str) -> None:
    """Be the slow line."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(2**16):
            loop.call_later(AWAY.total_seconds(), writer.write, data)
        loop.call_later(AWAY.total_seconds(), writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", int(port))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, back), pump(there, writer))

    async def forward() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(forward())


@contextlib.contextmanager
def _beside(role: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run one of this module's roles in a process of its own; it is gone afterwards."""
    code = f"import sys; from benchmarks import operators; operators.{role}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) as child:
        try:
            yield child
        finally:
            child.kill()


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
        with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as bare:
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
