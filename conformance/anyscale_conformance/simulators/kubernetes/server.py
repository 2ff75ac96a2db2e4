"""The simulated API server over real HTTP: one thread and one event loop for all clusters of a process, a port for each."""

import asyncio
import shutil
import ssl
import tempfile
import threading
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from aiohttp import web
from joserfc.jwk import RSAKey

from anyscale_conformance.simulators.kubernetes import certificates, watching
from anyscale_conformance.simulators.kubernetes.calls import LIMIT, Answer, Call, Watch
from anyscale_conformance.simulators.kubernetes.cluster import Cluster
from anyscale_conformance.simulators.kubernetes.settings import Settings
from anyscale_core.clock import Clock

BACKLOG = 512
TICK_S = 0.02
"""How often the clock is looked at while somebody watches: only a watch hears of what happens by time alone."""


class Servers:
    """Serves simulated clusters on 127.0.0.1, over TLS; a context manager. A key and an authority are shared by all."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ack-"))
        self.ca_file, server = certificates.write(self._folder)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(server)
        self._key = RSAKey.generate_key(2048, {"kid": "simulated"}, auto_kid=False)
        self._loop = asyncio.new_event_loop()
        self._doors: list[_Door] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubernetes-simulator", daemon=True)
        self._thread.start()

    def start(self, *, clock: Clock, settings: Settings | None = None) -> Cluster:
        """Return a new cluster that is served."""
        cluster = Cluster(clock, settings or Settings(), self._key, ca=self.ca_file)
        door = _Door(cluster, self._loop)
        cluster.url = self._await(door.open(self._tls))
        cluster.on_close = lambda: self._close(door)
        self._doors.append(door)
        return cluster

    def close(self) -> None:
        """End every cluster, the thread, and what they left on this machine."""
        if self._loop.is_closed():
            return
        for door in tuple(self._doors):
            door.cluster.close()
        self._await(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close(self, door: "_Door") -> None:
        if door in self._doors:
            self._doors.remove(door)
            self._await(door.close())

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


class _Door:
    """The port of one cluster. All of it but its making runs in the loop's thread."""

    def __init__(self, cluster: Cluster, loop: asyncio.AbstractEventLoop) -> None:
        self.cluster = cluster
        self._loop = loop
        self._bells: set[asyncio.Event] = set()
        self._is_ringing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, tls: ssl.SSLContext) -> str:
        """Listen, and return the URL."""
        self._web = web.Server(self._handle, access_log=None, keepalive_timeout=75)
        self._socket = await self._loop.create_server(self._web, "127.0.0.1", 0, backlog=BACKLOG, ssl=tls)
        self.cluster.world.watchers.append(self._changed)
        self._ticker = self._loop.create_task(self._tick())
        return f"https://127.0.0.1:{self._socket.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        self._socket.close()
        for task in (self._ticker, *self._tasks):
            task.cancel()
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # so that they hear of it

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read() if request.content_length is None else await _body(request)
        call = Call(
            method=request.method, path=request.path, query=dict(request.query),
            headers={key.lower(): value for key, value in request.headers.items()}, body=body,
        )  # fmt: skip
        delay = self.cluster.delay_of(call)
        if delay:
            await asyncio.sleep(delay)
        outcome = self.cluster.answer(call)
        if isinstance(outcome, Watch):
            return await self._watch(request, outcome)
        return _response(outcome)

    async def _watch(self, request: web.BaseRequest, watch: Watch) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        bell = asyncio.Event()
        self._bells.add(bell)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        stream = watching.Stream(self.cluster.world, watch)
        cuts = self.cluster.cuts
        try:
            while True:
                bell.clear()
                with self.cluster.world.lock:
                    self.cluster.world.advance()
                    written = stream.read()
                if cuts != self.cluster.cuts:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if written:
                    await response.write(written)
                if stream.is_over:
                    await response.write_eof()
                    return response
                await bell.wait()
        except (ConnectionError, asyncio.CancelledError):
            return response  # whoever listened has gone
        finally:
            self._bells.discard(bell)
            self._tasks.discard(task)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._bells:
                self._ring()

    def _changed(self) -> None:
        """Wake the watches; called from any thread, under the world's lock."""
        if not self._is_ringing and self._bells:
            self._is_ringing = True
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._is_ringing = False
        for bell in self._bells:
            bell.set()


async def _end_tasks() -> None:
    """End whatever still waits in the loop: requests that nobody will read the answers of."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _body(request: web.BaseRequest) -> bytes:
    """Read a body, but not much more of it than may be: the rest is refused by its length."""
    if not request.content_length:
        return b""
    if request.content_length > LIMIT:
        return await request.content.readexactly(LIMIT + 1)
    return await request.content.readexactly(request.content_length)


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    response.headers["Content-Type"] = answer.content_type
    response.headers["Audit-Id"] = str(uuid.uuid4())
    response.headers["Cache-Control"] = "no-cache, private"
    for warning in answer.warnings:
        escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{escaped}"')
    return response
