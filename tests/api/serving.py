"""A real service over TLS on a loopback port, on a cloud in memory, with agents that speak HTTP."""

import contextlib
import http.client
import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from anyscale_core.api.client import Client
from anyscale_core.api.server import Serving, serve
from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.keys import client_context
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models import wire
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap
from anyscale_core.models.node import Heartbeat, Orders, RayStatus, Registered, Registration
from anyscale_core.models.records import Timing
from anyscale_core.models.secret import Secret
from anyscale_core.node.link import Link
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec

AT_ONCE = timedelta()


class OverHttp:
    """A plane as agents know it: two routes over TLS."""

    def __init__(self, serving: Serving) -> None:
        connection = serving.connection
        bootstrap = Bootstrap(
            url=connection.url,
            ca_pem=connection.ca_pem,
            node_id=NodeId("nod_x"),
            join_token=Secret("-"),
            identity_provider="",
        )
        self._link = Link(bootstrap)

    def register(self, registration: Registration) -> Registered:
        return self._link.register(registration)

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        return self._link.heartbeat(heartbeat, credential=credential)

    def close(self) -> None:
        self._link.close()


@attrs.define(eq=False)
class Service:
    """One service in a thread of this process."""

    home: Path
    cloud: FakeCloud = attrs.field(
        factory=lambda: FakeCloud(
            ManualClock(SystemClock().now()), boot=AT_ONCE, delete_takes=AT_ONCE, exposes_in=AT_ONCE,
            list_window=AT_ONCE,
        )
    )  # fmt: skip
    timing: Timing = attrs.field(factory=lambda: Timing(suspect_after=timedelta(minutes=5)))
    serving: Serving | None = None
    thread: threading.Thread | None = None
    failure: list[BaseException] = attrs.field(factory=list)

    def start(self, port: int = 0) -> "Service":
        ready: queue.Queue[Serving | BaseException] = queue.Queue()

        def run() -> None:
            try:
                serve(
                    Settings(home=self.home, timing=self.timing), port=port, ready=ready.put,
                    registry=Registry.of(FakeProvider(self.cloud).provider()),
                )  # fmt: skip
            except BaseException as error:
                self.failure.append(error)
                ready.put(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        got = ready.get(timeout=20)
        if isinstance(got, BaseException):
            raise got
        self.serving = got
        return self

    @property
    def plane(self) -> ControlPlane:
        assert self.serving is not None
        return self.serving.plane

    def client(self, token: Secret[str] | None = None) -> Client:
        assert self.serving is not None
        connection = self.serving.connection
        return Client(connection.url, token or connection.token, connection.ca_pem, timedelta(seconds=10))

    def agents(self) -> FakeAgents:
        assert self.serving is not None
        return FakeAgents(self.cloud, OverHttp(self.serving), ray_start=AT_ONCE)

    def stop(self) -> None:
        if self.serving is not None:
            self.serving.stop()
        self.ended()

    def ended(self) -> None:
        """Wait for its end."""
        assert self.thread is not None
        self.thread.join(15)
        assert not self.thread.is_alive(), "the service did not end"

    def raw(self, method: str, path: str, *, token: str | None = None, body: bytes | None = None) -> tuple[int, Any]:
        """Send what no client of ours would send; return the status and the decoded answer."""
        assert self.serving is not None
        parts = urlsplit(self.serving.connection.url)
        context = client_context(self.serving.connection.ca_pem)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=10)
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(data) if "json" in kind else data


def spec_body(name: str = "demo", *groups: Any, **fields: Any) -> dict[str, Any]:
    """Return a spec as a user writes it."""
    body: dict[str, Any] = wire.unstructure(a_spec(name, *groups, **fields))
    assert wire.structure(body, ClusterSpec).name == name
    return body


def eventually(holds: Callable[[], Any], *, within: float = 10, what: str = "") -> Any:
    """Return the first true answer. Fails after ``within`` seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found = holds()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {within} s: {what or holds}")


def beat(seq: int, config_version: str, wait: timedelta, ray: RayStatus = RayStatus.STARTING) -> Heartbeat:
    """Return a heartbeat of a node that starts."""
    return Heartbeat(seq=seq, wait=wait, config_version=config_version, epoch="", ray=ray)
