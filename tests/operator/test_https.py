"""An operator with its own threads against a served control plane: real TLS, held polls, restarts, a process of its own."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.clouds import Cloud
from anyscale_core.models.ids import ClusterId, Token
from anyscale_core.models.instance import Created
from anyscale_core.models.order import Dispatch, OperatorState, Poll
from anyscale_core.models.secret import Secret
from anyscale_core.operator.operator import Operator
from anyscale_core.operator.process import Options, build
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeProvider
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec
from tests.api.serving import Service, eventually
from tests.operator.processes import CLOUD, Process, options_of, start

RESIDENT = 80 * 1024 * 1024
"""Bytes that an operator at rest may hold."""


@attrs.define(eq=False)
class Far:
    """A service, and an operator of one of its clouds."""

    service: Service
    options: Options
    operator: Operator
    thread: threading.Thread

    @property
    def cloud(self) -> Cloud:
        return self.service.plane.clouds.get(CLOUD)

    def state(self) -> OperatorState:
        return self.service.plane.operators.view(CLOUD).state


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    service = Service(tmp_path / "plane").start()
    options = options_of(service, tmp_path / "operator")
    registry = Registry.of(FakeProvider(service.cloud).provider())
    operator = build(options, registry=registry, clock=SystemClock())
    thread = threading.Thread(target=operator.run, daemon=True)
    thread.start()
    found = Far(service, options, operator, thread)
    eventually(lambda: found.state() is OperatorState.CONNECTED)
    yield found
    operator.stop()
    thread.join(20)
    service.stop()


def create(far: Far, name: str, cluster: str) -> Any:
    owner = attrs.evolve(far.cloud.owner, cluster=ClusterId(cluster))
    spec = an_instance_spec(name, owner=owner)
    return far.cloud.cluster.create([spec], token=Token(f"tok-{name}"), deadline=far.cloud.deadline())


def test_an_order_is_given_with_the_poll_that_is_held_and_polls_are_no_more_than_orders(far: Far) -> None:
    polls: list[Poll] = []
    ask = far.operator._contact.poll

    def counted(poll: Poll) -> Dispatch:
        polls.append(poll)
        return ask(poll)

    far.operator._contact.poll = counted  # type: ignore[method-assign]
    for _ in range(20):
        assert far.cloud.cluster.offerings(deadline=far.cloud.deadline())
    assert len(polls) <= 22
    assert all(poll.wait.total_seconds() > 1 for poll in polls), "each may be held"


def test_a_slow_call_of_one_cluster_holds_up_nobody_else_and_its_own_lane_keeps_its_order(far: Far) -> None:
    reached, go = threading.Event(), threading.Event()

    def slow() -> None:
        reached.set()
        assert go.wait(20)

    far.service.cloud.before("cluster.create", slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(create, far, "one", "clu_1")
        assert reached.wait(20)
        second = pool.submit(create, far, "two", "clu_1")
        (other,) = create(far, "three", "clu_2")
        assert isinstance(other, Created)
        assert [one.name for one in far.cloud.cluster.list(far.cloud.owner, deadline=far.cloud.deadline())] == ["three"]
        assert not second.done()
        go.set()
        assert [type(done.result(20)[0]) for done in (first, second)] == [Created, Created]
    names = [call.names for call in far.service.cloud.calls if call.action == "cluster.create"]
    assert names.index(("one",)) < names.index(("two",))


def test_a_control_plane_that_was_restarted_finds_its_operator_again(far: Far) -> None:
    assert far.service.serving is not None
    port = int(far.service.serving.connection.url.rpartition(":")[2])
    far.service.stop()
    far.service.start(port)
    eventually(lambda: far.cloud.cluster.list(far.cloud.owner, deadline=far.cloud.deadline()) == (), within=20)


def test_the_state_of_a_cloud_and_the_health_of_its_parts_are_shown_to_people(far: Far) -> None:
    with far.service.client() as client:
        (view,) = [view for view in client.clouds() if view.name == CLOUD]
        assert view.operator is not None
        assert view.operator.state is OperatorState.CONNECTED
        health = eventually(
            lambda: next(view for view in client.clouds() if view.name == CLOUD).operator.health  # type: ignore[union-attr]
        )
        assert [(check.id, check.status.value) for check in health.checks] == [
            (slot, "passed") for slot in ("cluster", "identity", "networking", "storage")
        ]
        told = client.metrics()
        assert f'anyscale_core_operators{{cloud="{CLOUD}",state="CONNECTED"}} 1.0' in told
        assert f'anyscale_core_operators{{cloud="{CLOUD}",state="DISCONNECTED"}} 0.0' in told
        assert f'anyscale_core_operator_orders{{cloud="{CLOUD}"}} 0.0' in told
        assert client.revoke_operator(CLOUD).state is OperatorState.CONNECTED
    assert eventually(lambda: "refuses" in far.operator.vitals.trouble or "Refused" in far.operator.vitals.trouble)
    assert "revoked" in far.operator.vitals.why_not_ready()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[Service, Process, Path]]:
    """A service, and an operator's process that works on this machine."""
    service = Service(tmp_path / "plane").start()
    service.plane.registry._found |= {found.name: found for found in Registry.load().found()}
    options = options_of(service, tmp_path / "operator", "local")
    settings = tmp_path / "operator" / "settings.yaml"
    settings.write_text('{local: {command: ["sleep", "300"]}}')
    process = start(options, tmp_path / "operator", "--settings", str(settings))
    try:
        eventually(lambda: service.plane.operators.view(CLOUD).state is OperatorState.CONNECTED, within=30)
        yield service, process, options.home
    finally:
        process.popen.kill()
        process.popen.wait()
        service.stop()


def test_an_operators_process_is_small_listens_to_its_port_alone_and_reaches_its_control_plane_alone(
    local: tuple[Service, Process, Path],
) -> None:
    service, process, home = local
    assert service.serving is not None
    cloud = service.plane.clouds.get(CLOUD)
    bootstrap = attrs.evolve(a_bootstrap(), join_token=Secret("a-join-token"))
    spec = an_instance_spec(owner=cloud.owner, instance_type="local.1cpu", bootstrap=bootstrap)
    (outcome,) = cloud.cluster.create([spec], token=Token("t"), deadline=cloud.deadline())
    assert isinstance(outcome, Created)
    eventually(lambda: process.get("/readyz") == (200, "ok\n"))
    assert process.get("/healthz")[0] == 200
    assert 'orders_total{action="cluster.create",outcome="ok"} 1' in process.get("/metrics")[1]
    assert process.get("/else")[0] == 404
    (alive,) = cloud.cluster.list(cloud.owner, deadline=cloud.deadline())
    assert cloud.cluster.delete([alive.id], owner=cloud.owner, deadline=cloud.deadline())
    eventually(lambda: cloud.cluster.list(cloud.owner, deadline=cloud.deadline()) == (), within=20)
    itself = psutil.Process(process.popen.pid)
    assert itself.memory_info().rss <= RESIDENT
    listening = [one.laddr.port for one in itself.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert listening == [process.port]
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(30) == 0
    plane = int(service.serving.connection.url.rpartition(":")[2])
    said = {line for line in process.watched.read_text().splitlines() if "AF_UNIX" not in line and "('" in line}
    assert said == {f"socket.bind ('', {process.port})", f"socket.connect ('127.0.0.1', {plane})"}
    logged = process.log.read_text()
    assert {line["level"] for line in process.lines()} == {"info"}
    assert [line["outcome"] for line in process.lines() if line["event"] == "performed cluster.create"] == ["ok"]
    assert "a-join-token" not in logged
    token = (home.parent / "token").read_text()
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert not any(token.encode() in path.read_bytes() for path in kept)


def test_an_operator_that_is_not_let_in_says_why_and_ends(tmp_path: Path) -> None:
    service = Service(tmp_path / "plane").start()
    try:
        options = options_of(service, tmp_path / "operator")
        service.plane.revoke_operator(CLOUD, actor="tester")
        process = start(options, tmp_path / "operator")
        assert process.popen.wait(30) == 3
        assert "revoked" in process.log.read_text()
    finally:
        service.stop()


def test_what_an_operator_cannot_be_run_with_is_said_all_at_once(tmp_path: Path) -> None:
    words = ["operator", "run", "--url", "https://127.0.0.1:1", "--ca", str(tmp_path / "none"), "--cloud", "x"]
    command = [sys.executable, "-m", "anyscale_core.cli", *words, "--token-file", str(tmp_path / "neither")]
    settings = tmp_path / "settings"
    settings.write_text("{nobody: {key: 1}}")
    done = subprocess.run(
        [*command, "--settings", str(settings)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    for word in ("ca: ", "token-file: ", "settings.nobody: "):
        assert word in done.stderr
