"""The process that serves one home: its lock, its port, its certificate, the plane's turns, and the application over TLS."""

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import random
import signal
import socket
import ssl
import threading
from asyncio import sslproto
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import structlog
import uvicorn

from anyscale_core.api import logs
from anyscale_core.api.app import create_app
from anyscale_core.api.client import CONNECTION_FILE, Connection, write_connection
from anyscale_core.api.metrics import DriverCalls
from anyscale_core.api.service import Service
from anyscale_core.clock import Clock, SystemClock
from anyscale_core.controlplane.keys import CERTIFICATE_DAYS, USER, local_user, write_private
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.runner import Runner
from anyscale_core.controlplane.settings import Settings
from anyscale_core.errors import CoreError
from anyscale_core.registry import Registry

__all__ = ["AlreadyServed", "PortTaken", "Serving", "create_app", "serve"]

LOCK, PORT = "serve.lock", "serve.port"
PORTS = range(20000, 32768)
"""Where a port is chosen: below the range that the kernel takes for outgoing connections, so that it is free next time."""
BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept; agents and clients use theirs again."""
GARBAGE = 20_000
"""New objects between two looks for garbage in cycles; of ours, little is in cycles."""
TLS_BUFFER = 16 * 1024
GRACE = 5
"""Seconds for requests under way when the service ends; those that are held are answered at once."""

log = structlog.get_logger(__name__)


class AlreadyServed(CoreError):
    """Another process serves this home; the message names it."""


class PortTaken(CoreError):
    """The port that nodes know is used by another program."""


@attrs.frozen(kw_only=True)
class Serving:
    """A service that listens. ``stop`` may be called from any thread; ``serve`` returns soon after."""

    connection: Connection
    plane: ControlPlane
    stop: Callable[[], None]


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 0, ready: Callable[[Serving], None] | None = None,
    registry: Registry | None = None, clock: Clock | None = None,
) -> None:  # fmt: skip
    """Serve a home until SIGTERM, SIGINT, ``POST /v1/stop`` or ``Serving.stop``. Clusters run on afterwards.

    ``port`` 0: the one of last time, for nodes that run know it, else a free one. ``settings.url`` says how nodes reach the
    service, if not by ``host`` and port. ``ready`` is called once it listens. Raises AlreadyServed, PortTaken.
    """
    clock = clock or SystemClock()
    logs.configure()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.home.chmod(0o700)
    with _only_one(settings.home), _listener(settings.home, host, port) as listener:
        url = settings.url or f"https://{host}:{listener.getsockname()[1]}"
        calls = DriverCalls()
        plane = ControlPlane(attrs.evolve(settings, url=url), registry=registry, clock=clock, on_call=calls.count)
        if settings.database is None:
            plane.store.break_leases(now=clock.now())  # the lock says that nobody else holds one
        runner = Runner(plane)
        try:
            runner.start()
            asyncio.run(_run(plane, listener, _tls(plane, host, clock), calls, ready))
        finally:
            (settings.home / CONNECTION_FILE).unlink(missing_ok=True)
            runner.stop()
            plane.close()


async def _run(
    plane: ControlPlane, listener: socket.socket, tls: ssl.SSLContext, calls: DriverCalls,
    ready: Callable[[Serving], None] | None,
) -> None:  # fmt: skip
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already: so has the service
            loop.call_soon_threadsafe(over.set)

    app = create_app(plane, calls=calls, stop=stop)
    service: Service = app.state.service
    server = _Server(_config(app, tls))
    if threading.current_thread() is threading.main_thread():
        _settle_in()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
    await service.open()
    ended = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _first(ended, server.listens)
        if server.listens.is_set():
            _announce(plane, stop, ready)
            await _first(ended, over)
        log.info("ending; clusters run on")
        service.release()
        await _finish(server)
        await ended
    finally:
        await service.close()


def _settle_in() -> None:
    """Fit the process, which is all ours, for thousands of connections and requests that leave little behind."""
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)
    # asyncio fills a buffer of 256 KiB for every TLS connection: 2.5 GB for 10,000 nodes. A record has 16 KiB at most.
    sslproto.SSLProtocol.max_size = TLS_BUFFER


def _announce(plane: ControlPlane, stop: Callable[[], None], ready: Callable[[Serving], None] | None) -> None:
    serving = Serving(connection=_connection(plane), plane=plane, stop=stop)
    write_connection(plane.settings.home, serving.connection)
    log.info("serving", url=plane.settings.url, home=str(plane.settings.home))
    if ready is not None:
        ready(serving)


async def _first(task: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait for whichever comes first."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _finish(server: "_Server") -> None:
    """Let the requests under way end, then leave: an idle peer would take its time to say goodbye to TLS."""
    server.should_exit = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE):
            while server.server_state.tasks:
                await asyncio.sleep(0.02)
    server.force_exit = True


class _Server(uvicorn.Server):  # type: ignore[misc]
    """Says when it listens, and leaves signals to ``serve``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, tls: ssl.SSLContext) -> Any:
    return uvicorn.Config(
        app, ssl_context_factory=lambda *_: tls, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE, access_log=False, log_config=None, ws="none", lifespan="off",
        server_header=False, proxy_headers=False,
    )  # fmt: skip


def _connection(plane: ControlPlane) -> Connection:
    now = plane.clock.now()
    expires = now + timedelta(days=CERTIFICATE_DAYS)
    return Connection(
        url=plane.settings.url,
        pid=os.getpid(),
        token=plane.keys.sign(USER, {"sub": local_user()}, issued=now, expires=expires),
        ca_pem=plane.keys.ca_pem,
        started_at=now,
    )


def _tls(plane: ControlPlane, host: str, clock: Clock) -> ssl.SSLContext:
    """Return the server's context: TLS 1.2 or newer, with a fresh certificate of the plane's authority."""
    name = urlsplit(plane.settings.url).hostname or host
    certificate = plane.keys.issue("localhost", hosts=("127.0.0.1", host, name), now=clock.now())
    folder = plane.settings.home / "keys"
    write_private(folder / "server.pem", certificate.cert_pem)
    write_private(folder / "server-key.pem", certificate.key_pem.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    return context


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock; it goes with the process, however that ends. Raises AlreadyServed."""
    with (home / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise AlreadyServed(
                f"{home} is served already, by process {pid}; use that one, or stop it first (`anyscale-core stop`)"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _listener(home: Path, host: str, port: int) -> Iterator[socket.socket]:
    """Bind the port: the one given, else the one of last time, else a free one, which is recorded before it is used."""
    record = home / PORT
    recorded = int(record.read_text()) if record.exists() else 0
    wanted = port or recorded
    listener = _bound(host, wanted) if wanted else _free(host)
    if listener is None:
        remedy = "stop that program, or give another port (nodes that run now would not find the service there)"
        raise PortTaken(f"port {wanted} of {host} is used by another program; {remedy}")
    with listener:
        write_private(record, str(listener.getsockname()[1]))
        yield listener


def _free(host: str) -> socket.socket | None:
    for port in random.sample(PORTS, 50):
        listener = _bound(host, port)
        if listener is not None:
            return listener
    return _bound(host, 0)


def _bound(host: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets that name TCP: without it an answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return listener
