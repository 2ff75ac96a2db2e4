"""A scripted control plane for agents: a real HTTPS server with the two routes, and hands to give orders with."""

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from anyscale_core.controlplane.certificates import ClusterAuthority
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.models import wire
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.instance import Bootstrap, NodeKind
from anyscale_core.models.node import (
    CertificateRequest,
    HeadAddress,
    Heartbeat,
    NodeConfig,
    Orders,
    RayStatus,
    Registered,
    Registration,
)
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess

REPO = Path(__file__).resolve().parents[2]
RAY_TOKEN = Secret("0123456789abcdef0123456789abcdef")

PROVIDER = """
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.hookspecs import Provider, hookimpl
from anyscale_core.models.identity import Proof
from anyscale_core.models.node import PROOF_AUDIENCE
from anyscale_core.models.secret import Secret


class Identity(IdentityDriver):
    provider = "nodetest"
    create = get = list = delete = credentials = verify = permissions = None

    def prove(self, audience, *, subject, deadline):
        assert audience == PROOF_AUDIENCE
        return Proof(provider="nodetest", document=Secret(f"I am {subject}"))


@hookimpl
def anyscale_provider():
    capabilities = Capabilities(supported=frozenset({"identity.prove"}))
    return Provider(
        name="nodetest", contract=">=1.0,<2", summary="proves nothing", capabilities=capabilities,
        settings={"greeting": "unused"}, identity=lambda config: Identity(),
    )
"""
"""A provider with an identity driver, found by its entry point as any third party's is."""


def install_provider(folder: Path) -> None:
    """Write the provider and its metadata into a folder that will be on an agent's path."""
    info = folder / "nodetest-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "nodetest_plugin.py").write_text(PROVIDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nodetest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anyscale_core.providers]\nnodetest = nodetest_plugin\n")


@attrs.frozen(kw_only=True)
class Authority:
    """A certificate authority of our own, and a certificate of it for 127.0.0.x."""

    ca_pem: str
    cert_pem: str
    key_pem: str

    @classmethod
    def make(cls) -> "Authority":
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        now = datetime.now(UTC)
        base = x509.CertificateBuilder().not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(1))
        ca = (
            base.subject_name(ca_name)
            .issuer_name(ca_name)
            .public_key(ca_key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(f"127.0.0.{n}")) for n in range(1, 9)])
        cert = (
            base.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "control plane")]))
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(names, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        return cls(
            ca_pem=ca.public_bytes(pem).decode(), cert_pem=cert.public_bytes(pem).decode(), key_pem=private.decode()
        )

    def server_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(self.cert_pem + self.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


class ControlPlane:
    """Answers agents. ``configs`` by instance name; ``orders`` are given until ``give`` changes them."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.configs: dict[str, NodeConfig] = {}
        self.registrations: list[Registration] = []
        self.beats: dict[str, list[Heartbeat]] = {}
        self.heard_at: dict[str, list[float]] = {}
        self.refuse: int = 0
        self.revoked = ""
        self.certificate_ttl = timedelta(hours=1)
        with tempfile.TemporaryDirectory() as folder:
            keys = KeyRing(Path(folder), now=datetime.now(UTC))
        self.cluster_ca = ClusterAuthority(keys, ClusterId("clu_1"), born=datetime.now(UTC))
        self._orders: dict[str, Orders] = {}
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._sockets: set[Any] = set()
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen, at the same port as before."""
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                plane._sockets.add(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = plane.answer(self.path, body, self.headers.get("Authorization", ""))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # connections that this test has cut

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.socket = self.authority.server_tls().wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Go away: no listening, every connection cut."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        self._sockets.clear()

    def answer(self, path: str, body: Any, authorization: str) -> tuple[int, Any]:
        if self.refuse:
            return self.refuse, {"title": "no", "status": self.refuse, "detail": "this node is not known"}
        if path == "/v1/nodes/register":
            registration = wire.structure(body, Registration)
            name = registration.proof.document.reveal().removeprefix("I am ")
            self.registrations.append(registration)
            registered = Registered(
                credential=Secret(f"credential-of-{name}"),
                expires_at=datetime.now(UTC) + timedelta(hours=1),
                config=self.configs[name],
            )
            return 200, wire.unstructure_revealed(registered)
        if path == "/v1/nodes/certify":
            certificate = self.cluster_ca.certify(
                wire.structure(body, CertificateRequest), now=datetime.now(UTC), ttl=self.certificate_ttl
            )
            return 200, wire.unstructure_revealed(certificate)
        beat = wire.structure(body, Heartbeat)
        name = authorization.removeprefix("Bearer credential-of-")
        if self.revoked and authorization == f"Bearer {self.revoked}":
            self.revoked = ""
            return 401, {"title": "no", "status": 401, "detail": "expired"}
        with self._news:
            self.beats.setdefault(name, []).append(beat)
            self.heard_at.setdefault(name, []).append(time.monotonic())
            self._news.notify_all()
            self._news.wait_for(lambda: self._due(name, beat) != Orders(), timeout=beat.wait.total_seconds())
            return 200, wire.unstructure_revealed(self._due(name, beat))

    def give(self, name: str, orders: Orders) -> None:
        """Give these orders from now on."""
        with self._news:
            self._orders[name] = orders
            self._news.notify_all()

    def configure(self, config: NodeConfig) -> None:
        with self._news:
            self.configs[config.instance_name] = config
            self._news.notify_all()

    def until(self, name: str, holds: Callable[[Heartbeat], bool], *, within: float) -> Heartbeat:
        """Return the last heartbeat of an agent as soon as it holds."""
        with self._news:
            found = self._news.wait_for(lambda: bool(self.beats.get(name)) and holds(self.beats[name][-1]), within)
            last = self.beats.get(name, [None])[-1]
            assert found, f"not within {within} s; the last heartbeat of {name}: {last}"
            assert last is not None
            return last

    def _due(self, name: str, beat: Heartbeat) -> Orders:
        orders, config = self._orders.get(name, Orders()), self.configs[name]
        return attrs.evolve(orders, config=config) if config.version != beat.config_version else orders


class Cluster:
    """Agents of one cluster, as real processes in sessions of their own, and the folder that is their bucket."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        # Short: Ray's sockets lie below it, and their paths may have 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="an", dir="/tmp"))
        self.bucket = self.root / "bucket"
        self.bucket.mkdir()
        self.plugins = self.root / "plugins"
        install_provider(self.plugins)
        self.agents: dict[str, subprocess.Popen[bytes]] = {}

    def config(self, name: str, **fields: Any) -> NodeConfig:
        """Return a configuration: the head unless ``head`` says where one is."""
        values: dict[str, Any] = {
            "version": "1",
            "cluster_id": ClusterId("clu_1"),
            "cluster_name": "test",
            "node_id": NodeId(f"nod_{name}"),
            "instance_name": name,
            "kind": NodeKind.HEAD,
            "group": "head",
            "head": HeadAddress(epoch="e1", address=""),
            "ray_token": RAY_TOKEN,
            "resources": {"CPU": 1.0, "memory": 500_000_000.0, "slot": 2.0},
            "labels": {"market-type": "spot"},
            "env_vars": {},
            "store": StoreAccess(url=self.bucket.as_uri()),
            "heartbeat_interval": timedelta(seconds=5),
        }
        return NodeConfig(**(values | fields))

    def start(self, config: NodeConfig, *, address: str) -> "subprocess.Popen[bytes]":
        """Start an agent; one that was started before continues in its home."""
        name = config.instance_name
        self.plane.configure(config)
        bootstrap = Bootstrap(
            url=f"https://127.0.0.1:{self.plane.port}",
            ca_pem=self.plane.authority.ca_pem,
            node_id=config.node_id,
            join_token=Secret("join"),
            identity_provider="nodetest",
            identity_settings={"greeting": "hello"},
        )
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(wire.unstructure_revealed(bootstrap)))
        arguments = ("--bootstrap", str(path), "--home", str(self.home(name)), "--name", name, "--address", address)
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                (sys.executable, "-m", "anyscale_core.node", *arguments),
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
                | {"PYTHONPATH": str(self.plugins)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
            )
        self.agents[name] = process
        return process

    def head(self, **fields: Any) -> Heartbeat:
        """Start a head, return the heartbeat with which it is ALIVE."""
        self.start(self.config("head", **fields), address="127.0.0.2")
        return self.plane.until("head", lambda beat: beat.ray is RayStatus.ALIVE, within=60)

    def home(self, name: str) -> Path:
        return self.root / name

    def raylet(self, name: str) -> int:
        """Return the pid of a node's raylet."""
        return int(json.loads((self.home(name) / "ray.json").read_text())["started"]["raylet_pid"])

    def session(self, name: str) -> list[psutil.Process]:
        """Return what runs in an agent's session beside the agent itself."""
        return [process for process in _members(self.agents[name].pid) if process.pid != self.agents[name].pid]

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    def close(self) -> None:
        """Kill exactly what was started here."""
        for agent in self.agents.values():
            deadline = time.monotonic() + 10
            while (left := _members(agent.pid)) and time.monotonic() < deadline:
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL)
                time.sleep(0.02)
            agent.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def eventually(holds: Callable[[], Any], *, within: float, what: str) -> Any:
    """Return what ``holds`` returns as soon as that is true."""
    deadline = time.monotonic() + within
    while not (value := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.02)
    return value


def by_submission(beat: Heartbeat) -> Mapping[str, Any]:
    return {} if beat.head is None else {job.submission_id: job for job in beat.head.jobs}


def _members(session: int) -> list[psutil.Process]:
    out = []
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            if os.getsid(pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                out.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return out
