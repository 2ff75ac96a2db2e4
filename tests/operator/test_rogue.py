"""An operator's process whose control plane is somebody else's: what it is told by whom has not the key is not done."""

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.drivers import speech
from anyscale_core.models import wire
from anyscale_core.models.cloud import SLOTS
from anyscale_core.models.ids import CloudName, PlaneId, Token
from anyscale_core.models.order import Dispatch, Noted, Order, Session
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.operator.process import Options
from tests.api.serving import eventually
from tests.operator.processes import CLOUD, Process, start

OWNER = Owner(plane=PlaneId("pln_1"), cloud=CloudName(CLOUD))
HOUR = timedelta(hours=1)


@attrs.define(eq=False)
class Rogue:
    """Whoever ends the operator's TLS: it hands out the slips that it is given, and hears the reports."""

    keys: KeyRing
    server: ThreadingHTTPServer
    slips: list[Secret[str]] = attrs.field(factory=list)
    reported: list[dict[str, Any]] = attrs.field(factory=list)

    def answer(self, path: str, body: dict[str, Any]) -> object:
        now = SystemClock().now()
        if path.endswith("/session"):
            return Session(
                credential=Secret("c"), expires_at=now + HOUR, owner=OWNER, providers=dict.fromkeys(SLOTS, "local"),
                order_certificate=self.keys.order_certificate(now=now), hold=timedelta(milliseconds=100),
                report_interval=HOUR,
            )  # fmt: skip
        if path.endswith("/report"):
            self.reported += body["done"]
            return Noted(now=now)
        slips, self.slips = tuple(self.slips), []
        if not slips:
            threading.Event().wait(0.05)
        return Dispatch(now=now, leads=True, slips=slips)

    def order(self, bucket: str, *, expires: datetime) -> bytes:
        arguments = speech.say_call({"spec": BucketSpec(name=bucket), "owner": OWNER, "token": Token(f"tok-{bucket}")})
        order = Order(
            id=f"ord_{bucket}", attempt=1, number=1, cloud=CLOUD, plane="pln_1", action="storage.create", lane="cloud",
            arguments=arguments, expires_at=expires,
        )  # fmt: skip
        return json.dumps(wire.unstructure_revealed(order)).encode()


@pytest.fixture
def rogue(tmp_path: Path) -> Iterator[Rogue]:
    keys = KeyRing(tmp_path / "keys", now=SystemClock().now())
    made: list[Rogue] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(wire.unstructure_revealed(made[0].answer(self.path, body))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    certificate = keys.issue("127.0.0.1", hosts=(), now=SystemClock().now())
    (tmp_path / "tls.pem").write_text(certificate.key_pem.reveal() + certificate.cert_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.append(Rogue(keys, server))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made[0]
    server.shutdown()
    server.server_close()


@pytest.fixture
def process(rogue: Rogue, tmp_path: Path) -> Iterator[Process]:
    folder = tmp_path / "operator"
    folder.mkdir()
    (folder / "token").write_text("token")
    (folder / "ca.pem").write_text(rogue.keys.ca_pem)
    options = Options(
        url=f"https://127.0.0.1:{rogue.server.server_address[1]}", ca=folder / "ca.pem", cloud=CLOUD,
        home=folder / "home", token_file=folder / "token",
    )  # fmt: skip
    process = start(options, folder)
    yield process
    process.popen.kill()
    process.popen.wait()


def performed(process: Process) -> int:
    return sum(line["event"] == "performed storage.create" for line in process.lines())


def test_forged_late_and_repeated_orders_are_not_performed_by_a_real_process(
    rogue: Rogue, process: Process, tmp_path: Path
) -> None:
    now = SystemClock().now()
    stranger = KeyRing(tmp_path / "stranger", now=now)
    genuine = rogue.keys.sign_order(rogue.order("good", expires=now + HOUR))
    rogue.slips = [stranger.sign_order(rogue.order("forged", expires=now + HOUR))]
    eventually(lambda: "not signed by the control plane" in process.log.read_text(), within=40)
    assert rogue.reported == []
    rogue.slips = [rogue.keys.sign_order(rogue.order("late", expires=now - HOUR)), genuine]
    late, good = eventually(lambda: rogue.reported if len(rogue.reported) == 2 else None, within=40)
    if late["id"] != "ord_late":
        late, good = good, late
    assert late["error"]["category"] == "DeadlineExceeded"
    assert good["error"] is None
    before = performed(process)
    rogue.slips = [genuine]
    again = eventually(lambda: rogue.reported[2:], within=40)
    assert again == [good], "what came of it is told again"
    assert performed(process) == before, "and it was not performed again"
    made = [path.name for path in (tmp_path / "operator" / "home").rglob("*") if "good" in path.name]
    assert made
    assert not [
        path for path in (tmp_path / "operator" / "home").rglob("*") if "forged" in path.name or "late" in path.name
    ]
