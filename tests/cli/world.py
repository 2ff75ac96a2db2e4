"""A control plane served for real on a cloud in memory, with a gateway that streams logs and a bucket on disk."""

import http.server
import queue
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import attrs

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import AccessView
from anyscale_core.api.server import Serving, serve
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.controlplane.settings import Settings
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.networking import Endpoint
from anyscale_core.models.owner import Owner
from anyscale_core.models.records import Timing
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Grant, StoreAccess
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.agents import JobScript
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import WayIn

SPEC = """\
name: demo
cloud: fake
head_node: {instance_type: cpu-4}
worker_nodes:
  - {name: workers, instance_type: cpu-4, min_nodes: 2, max_nodes: 4}
"""
STEP = 0.02
"""Seconds between two rounds of the agents."""
AT_ONCE = timedelta()


class Gateway:
    """A small HTTPS server that streams logs as Ray's dashboard does. ``logs`` by submission id; it can break off."""

    def __init__(self, keys: KeyRing) -> None:
        self.logs: dict[str, bytes] = {}
        self.token: str | None = None
        """The one token that is let in; None lets every one in."""
        self.requests: list[str] = []
        self.break_after: int | None = None
        """Bytes after which the next answer breaks off."""
        self._growth = threading.Condition()
        self._keys = keys
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gateway._answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                """Clients hang up whenever they like."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = self._context("nobody").wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def access(self, token: str = "open sesame", server_name: str = "clu-1") -> AccessView:
        """Return the way in that a control plane would give."""
        return AccessView(
            url=self.url,
            token=Secret(token),
            expires_at=datetime.now(UTC) + timedelta(hours=1),
            server_name=server_name,
            ca_pem=self._keys.ca_pem,
        )

    def _context(self, server_name: str) -> ssl.SSLContext:
        """Return a context with a certificate for that name; it makes another when a client asks for another."""
        certificate = self._keys.issue(server_name, hosts=(), now=datetime.now(UTC))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(certificate.cert_pem + certificate.key_pem.reveal())
            file.flush()
            context.load_cert_chain(file.name)

        def for_name(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name is not None and name != server_name:
                connection.context = self._context(name)

        context.sni_callback = for_name
        return context

    def write(self, submission_id: str, data: bytes) -> None:
        with self._growth:
            self.logs[submission_id] = self.logs.get(submission_id, b"") + data
            self._growth.notify_all()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        parts = urlsplit(request.path)
        submission_id = parse_qs(parts.query)["submission_id"][0]
        if self.token is not None and request.headers["Authorization"] != f"Bearer {self.token}":
            request.send_error(401)
            return
        if submission_id not in self.logs:
            request.send_error(500, "Job has no driver node id info")  # what Ray says of one that has not begun
            return
        self._send(request, submission_id, keep_alive=parts.path.endswith("/stream"))

    def _send(self, request: http.server.BaseHTTPRequestHandler, submission_id: str, *, keep_alive: bool) -> None:
        limit, self.break_after = self.break_after, None
        sent, begun = 0, False
        while True:
            with self._growth:
                if len(self.logs[submission_id]) <= sent:
                    self._growth.wait(0.05)
                data = self.logs[submission_id][sent : sent + 1000]
            if not data:
                if not keep_alive:
                    break
                continue
            if not begun:  # Ray answers with the first byte of the log, not before
                request.send_response(200)
                request.send_header("Transfer-Encoding", "chunked")
                request.end_headers()
                begun = True
            data = data if limit is None else data[: limit - sent]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            request.wfile.flush()
            sent += len(data)
            if limit is not None and sent >= limit:
                request.close_connection = True
                request.connection.shutdown(2)
                return
        request.wfile.write(b"0\r\n\r\n")


class _Storage(FakeStorageDriver):
    """The fake driver, with grants that another process can use: its buckets lie in a folder."""

    folder = Path()

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        grant = super().grant(
            bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
        )
        return attrs.evolve(grant, store=StoreAccess(url=f"file://{self.folder}/{prefix}"))


class _Networking(FakeNetworkingDriver):
    """The fake driver, with endpoints that lead to the gateway of the tests."""

    url = ""

    def _endpoint(self, way: WayIn) -> Endpoint:
        endpoint = super()._endpoint(way)
        return attrs.evolve(endpoint, url=self.url) if endpoint.url else endpoint


class Town:
    """A served control plane, its cloud and its agents, all alive: time runs by itself."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.bucket = folder / "bucket"
        self.cloud = FakeCloud(
            ManualClock(datetime.now(UTC)), boot=AT_ONCE, delete_takes=AT_ONCE, exposes_in=AT_ONCE, list_window=AT_ONCE
        )
        self.gateway = Gateway(KeyRing(self.home / "keys", now=datetime.now(UTC)))
        self.output = b"hello\n"
        """What every job prints while it runs."""
        self.last_words = b"bye\n"
        """What it prints too late for the stream: only the bucket has it."""
        self._stop = threading.Event()
        self.serving = self._serve()
        self.agents = FakeAgents(self.cloud, self.serving.plane, ray_start=AT_ONCE)
        for entrypoint in ("x", "y", "python main.py"):
            self.job(entrypoint)
        self._stepper = threading.Thread(target=self._step, daemon=True)
        self._stepper.start()

    def client(self) -> Client:
        connection = self.serving.connection
        return Client(connection.url, connection.token, connection.ca_pem)

    def job(self, entrypoint: str, *, seconds: float | None = 0.3, **script: object) -> None:
        """Set how a job goes; with ``seconds`` None it runs until it is stopped."""
        takes = None if seconds is None else timedelta(seconds=seconds)
        self.agents.script(entrypoint, attrs.evolve(JobScript(takes=takes), **script))  # type: ignore[arg-type]

    def close(self) -> None:
        self._stop.set()
        self._stepper.join(10)
        self.serving.stop()
        self._server.join(15)
        self.gateway.close()

    def _serve(self) -> Serving:
        ready: queue.Queue[Serving] = queue.Queue()
        settings = Settings(
            home=self.home, timing=Timing(suspect_after=timedelta(minutes=5), sweep_ceiling=timedelta(seconds=1))
        )
        registry = Registry.of(self._provider())
        self._server = threading.Thread(
            target=lambda: serve(settings, ready=ready.put, registry=registry), name="server", daemon=True
        )
        self._server.start()
        return ready.get(timeout=20)

    def _provider(self) -> Provider:
        def storage(config: DriverConfig) -> _Storage:
            driver = _Storage(self.cloud, config, "fake")
            driver.folder = self.bucket
            return driver

        def networking(config: DriverConfig) -> _Networking:
            driver = _Networking(self.cloud, config, "fake")
            driver.url = self.gateway.url
            return driver

        return attrs.evolve(FakeProvider(self.cloud).provider(), storage=storage, networking=networking)

    def _step(self) -> None:
        while not self._stop.wait(STEP):
            self.cloud.clock.advance(max(AT_ONCE, datetime.now(UTC) - self.cloud.clock.now()))
            self._print()
            self.agents.step()

    def _print(self) -> None:
        """Let jobs that have begun print, and put their whole logs where the head's agent would."""
        for ray in tuple(self.agents.rays.values()):
            for submission_id in tuple(ray.jobs):
                if submission_id not in self.gateway.logs:
                    self.gateway.write(submission_id, self.output)
                    cluster = next(view for view in self.serving.plane.clusters() if view.name == ray.cluster)
                    stored = self.bucket / "clusters" / cluster.id / "jobs" / f"{submission_id}.log"
                    stored.parent.mkdir(parents=True, exist_ok=True)
                    stored.write_bytes(self.output + self.last_words)


def eventually(true: Callable[[], bool], what: str, *, within: float = 15.0) -> None:
    """Wait until something is true; fail with ``what`` when it is not in time."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)
