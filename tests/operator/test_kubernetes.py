"""Operators' processes on a simulated API server: what they reach, what reaches them, and who goes on when one is killed."""

import contextlib
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster, Servers, Settings
from anyscale_kubernetes.testing import TYPES

from anyscale_core.clock import SystemClock
from anyscale_core.models.identity import IdentitySpec
from anyscale_core.models.ids import ClusterId, NodeId, Token
from anyscale_core.models.instance import Created, Deletion, InstanceSpec, InstanceState
from anyscale_core.models.networking import NetworkSpec
from anyscale_core.models.order import OperatorState
from anyscale_core.models.owner import Owner
from anyscale_core.models.records import Timing
from anyscale_core.registry import Registry
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec
from tests.api.serving import Service, eventually
from tests.operator import apart
from tests.operator.processes import CLOUD, Process, options_of, start

NAMESPACE = "ray"
SILENCE = timedelta(seconds=3)
PODS = 40
TRIED = "socket.bind ('::1', 0)"
"""urllib3, while it is imported: it finds out whether there is IPv6, and closes it again (urllib3/util/connection.py)."""


@attrs.define(eq=False)
class Site:
    """A control plane, a cluster that it cannot reach, and what an operator of it is given."""

    service: Service
    cluster: Cluster
    folder: Path
    options: object
    settings: Path
    started: list[Process] = attrs.field(factory=list)

    def ports(self) -> tuple[int, int]:
        """Return the ports of the control plane and of the API server."""
        assert self.service.serving is not None
        return urlsplit(self.service.serving.connection.url).port or 0, urlsplit(self.cluster.url).port or 0

    def operator(self, name: str, within: list[str] | None = None) -> Process:
        folder = self.folder / name
        folder.mkdir()
        process = start(self.options, folder, "--settings", str(self.settings), within=within or ())  # type: ignore[arg-type]
        self.started.append(process)
        return process

    def pods(self) -> list[str]:
        return [obj["metadata"]["name"] for plural, obj in self.cluster.inventory(NAMESPACE) if plural == "pods"]

    def leader(self) -> str:
        return self.service.plane.operators.view(CLOUD).replica

    def is_connected(self) -> bool:
        return self.service.plane.operators.view(CLOUD).state is OperatorState.CONNECTED


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    quick = Settings(starts=timedelta(), stops=timedelta())
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=quick)
        cluster.make_namespace(NAMESPACE)
        service = Service(tmp_path / "plane", timing=Timing(operator_silence=SILENCE)).start()
        service.plane.registry._found |= {found.name: found for found in Registry.load().found()}
        options = options_of(service, tmp_path / "operator", "kubernetes")
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(cluster.kubeconfig(namespace=NAMESPACE)))
        keys = {
            "namespace": NAMESPACE,
            "kubeconfig": str(tmp_path / "kubeconfig"),
            "image": "x:1",
            "instance_types": TYPES,
            "store": {"endpoint": "http://127.0.0.1:1", "secret": "store"},
        }
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"kubernetes": keys}))
        site = Site(service, cluster, tmp_path, options, tmp_path / "settings.yaml")
        try:
            yield site
        finally:
            for process in site.started:
                process.popen.kill()
                process.popen.wait()
            service.stop()


def specs_of(owner: Owner, count: int) -> list[InstanceSpec]:
    names = [f"node-{number}" for number in range(count)]
    bootstrap = attrs.evolve(a_bootstrap(), identity_provider="kubernetes")
    return [
        an_instance_spec(name, owner=owner, node_id=NodeId(name), instance_type="1CPU-1GB", bootstrap=bootstrap)
        for name in names
    ]


def live(site: Site) -> None:
    """Let a whole life pass: an identity, a network and nodes come up and go again, and nothing is left."""
    cloud = site.service.plane.clouds.get(CLOUD)
    owner = attrs.evolve(cloud.owner, cluster=ClusterId("clu_1"))
    before = {(plural, obj["metadata"]["name"]) for plural, obj in site.cluster.inventory(NAMESPACE)}
    network = cloud.networking.create(NetworkSpec(name="net"), owner=owner, token=Token("n"), deadline=cloud.deadline())
    cloud.identity.create(IdentitySpec(name="who", owner=owner), token=Token("i"), deadline=cloud.deadline())
    made = cloud.cluster.create(specs_of(owner, 3), token=Token("c"), deadline=cloud.deadline())
    assert [type(outcome) for outcome in made] == [Created] * 3

    def states() -> list[InstanceState]:
        return [one.state for one in cloud.cluster.list(owner, deadline=cloud.deadline())]

    eventually(lambda: states() == [InstanceState.RUNNING] * 3, within=30)
    ids = [one.id for one in cloud.cluster.list(owner, deadline=cloud.deadline())]
    cloud.cluster.delete(ids, owner=owner, deadline=cloud.deadline())
    eventually(lambda: states() == [], within=30)
    for forget in (
        lambda: cloud.identity.delete("who", owner=owner, deadline=cloud.deadline()),
        lambda: cloud.networking.delete(network.name, owner=owner, deadline=cloud.deadline()),
    ):
        eventually(lambda forget=forget: forget() is not Deletion.GOING, within=30)  # type: ignore[misc]
    after = {(plural, obj["metadata"]["name"]) for plural, obj in site.cluster.inventory(NAMESPACE)}
    assert {item for item in after - before if item[0] != "events"} == set()


def test_with_all_denied_but_its_control_plane_and_its_api_server_an_operator_does_its_work(site: Site) -> None:
    """Every socket is written down; where namespaces can be made, the kernel denies the rest as well."""
    plane, api = site.ports()
    with contextlib.ExitStack() as stack:
        sockets = site.folder / "sockets"
        sockets.mkdir()
        denied = stack.enter_context(apart.only(sockets, (plane, api))) if apart.is_possible() else []
        process = site.operator("one", denied)
        eventually(site.is_connected, within=40)
        live(site)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(30) == 0, process.log.read_text()
    print(f"denied by {'a network namespace' if denied else 'nobody, watched alone'}")
    said = {line for line in process.watched.read_text().splitlines() if "AF_UNIX" not in line and "('" in line}
    hosts = {f"socket.connect ('127.0.0.1', {port})" for port in (plane, api)}
    assert said - {TRIED} == {f"socket.bind ('', {process.port})"} | hosts


def test_of_two_operators_one_performs_and_when_it_is_killed_the_other_goes_on_and_nothing_is_made_twice(
    site: Site,
) -> None:
    first = site.operator("first")
    eventually(site.is_connected, within=40)
    led = site.leader()
    second = site.operator("second")
    eventually(lambda: second.get("/readyz")[0] == 200, within=40)
    cloud = site.service.plane.clouds.get(CLOUD)
    owner = attrs.evolve(cloud.owner, cluster=ClusterId("clu_1"))
    deadline = site.service.plane.clock.now() + timedelta(seconds=60)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            cloud.cluster.create, specs_of(owner, PODS), token=Token(secrets.token_hex(8)), deadline=deadline
        )
        eventually(site.pods, within=30)
        first.popen.kill()
        made = call.result(90)
    assert [type(outcome) for outcome in made] == [Created] * PODS
    assert len(site.pods()) == PODS, "made once"
    assert len({outcome.instance.id for outcome in made if isinstance(outcome, Created)}) == PODS
    assert site.leader() != led
    assert [line["event"] for line in second.lines()].count("performed cluster.create") == 1
    listed = cloud.cluster.list(owner, deadline=cloud.deadline())
    assert len(listed) == PODS
    told = [event.kind for event in site.service.plane.events() if event.kind == "cloud.disconnected"]
    assert len(told) <= 1
