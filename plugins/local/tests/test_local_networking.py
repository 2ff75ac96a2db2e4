import socket
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from anyscale_local.networking import LocalNetworking
from anyscale_local.testing import Machine, owned, soon, specified

from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import (
    CheckStatus,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Network,
    NetworkMode,
    NetworkSpec,
)
from anyscale_core.models.owner import Owner

CLOUD = owned(cluster=None)
OTHER = owned(cloud="other", cluster=None)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine.lent(tmp_path) as lent:
        yield lent


@pytest.fixture
def driver(machine: Machine) -> LocalNetworking:
    return LocalNetworking(machine.config())


@pytest.fixture
def gateway() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def network(driver: LocalNetworking, token: str = "n1", owner: Owner = CLOUD) -> Network:
    return driver.create(NetworkSpec(name="net"), owner=owner, token=Token(token), deadline=soon())


def endpoint(port: int, **fields: object) -> EndpointSpec:
    spec = EndpointSpec(name="head", owner=owned(), network="net", target_address="127.0.0.1", target_port=port)
    return attrs.evolve(spec, **fields)  # type: ignore[arg-type]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def exposed(driver: LocalNetworking, spec: EndpointSpec, token: str = "e1") -> Endpoint:
    return driver.expose(spec, token=Token(token), deadline=soon())


def test_a_network_is_made_once_per_token_and_is_its_clouds(driver: LocalNetworking) -> None:
    made = network(driver)
    assert network(driver) == made
    assert (made.id, made.zones, made.mode) == ("lo", ("local",), NetworkMode.PRIVATE)
    with pytest.raises(AlreadyExists):
        network(driver, token="n2")
    theirs = network(driver, owner=OTHER)
    assert driver.list(CLOUD, deadline=soon()) == (made,)
    assert driver.list(OTHER, deadline=soon()) == (theirs,)
    assert driver.delete("net", owner=OTHER, deadline=soon()) is Deletion.GONE
    assert driver.get("net", owner=CLOUD, deadline=soon()) == made
    with pytest.raises(NotFound):
        driver.get("net", owner=OTHER, deadline=soon())
    assert driver.delete("net", owner=OTHER, deadline=soon()) is Deletion.ALREADY_ABSENT
    with pytest.raises(Conflict) as spent:
        network(driver, owner=OTHER)
    assert spent.value.reason == "TOKEN_SPENT"


def test_what_loopback_cannot_be_is_refused_before_anything_is_written(
    driver: LocalNetworking, machine: Machine
) -> None:
    for spec in (
        NetworkSpec(name="net", mode=NetworkMode.PUBLIC),
        NetworkSpec(name="net", cidr="10.0.0.0/16"),
        NetworkSpec(name="net", subnets=("a",)),
        NetworkSpec(name="Net!"),
    ):
        with pytest.raises(InvalidRequest):
            driver.create(spec, owner=CLOUD, token=Token("n1"), deadline=soon())
    with pytest.raises(NotFound):
        driver.create(NetworkSpec(name="net", adopt="eth0"), owner=CLOUD, token=Token("n1"), deadline=soon())
    assert not machine.state.exists()


def test_an_endpoint_is_pending_until_its_head_answers_and_shows_its_url_only_then(
    driver: LocalNetworking, gateway: socket.socket
) -> None:
    network(driver)
    port = gateway.getsockname()[1]
    gateway.close()
    pending = exposed(driver, endpoint(port))
    assert (pending.state, pending.url) == (EndpointState.PENDING, "")
    with socket.create_server(("127.0.0.1", port)):
        ready = exposed(driver, endpoint(port))
        assert (ready.state, ready.url) == (EndpointState.READY, f"https://127.0.0.1:{port}")
        assert driver.get("net", owner=CLOUD, deadline=soon()).endpoints == (ready,)
    assert driver.get("net", owner=CLOUD, deadline=soon()).endpoints == (pending,)


def test_an_endpoint_moves_to_a_new_target_and_a_late_repeat_of_the_old_order_does_not_move_it_back(
    driver: LocalNetworking, gateway: socket.socket
) -> None:
    network(driver)
    port, old = gateway.getsockname()[1], closed_port()
    exposed(driver, endpoint(old), "e1")
    moved = exposed(driver, endpoint(port), "e2")
    assert moved.url == f"https://127.0.0.1:{port}"
    assert exposed(driver, endpoint(old), "e1") == moved
    with pytest.raises(Conflict) as mismatch:
        exposed(driver, endpoint(old), "e2")
    assert mismatch.value.reason == "TOKEN_MISMATCH"


def test_a_network_with_an_endpoint_or_an_instance_is_in_use(machine: Machine, driver: LocalNetworking) -> None:
    network(driver)
    exposed(driver, endpoint(closed_port()))
    cluster = machine.cluster()
    cluster.create([specified("worker", network="net")], token=Token("t1"), deadline=soon())
    with pytest.raises(Conflict) as error:
        driver.delete("net", owner=CLOUD, deadline=soon())
    assert error.value.reason == "IN_USE"
    assert "head" in error.value.message
    assert "worker" in error.value.message

    assert driver.withdraw("head", owner=owned(), deadline=soon()) is Deletion.GONE
    assert driver.withdraw("head", owner=owned(), deadline=soon()) is Deletion.ALREADY_ABSENT
    with pytest.raises(Conflict):
        driver.delete("net", owner=CLOUD, deadline=soon())
    cluster.delete([item.id for item in cluster.list(owned(), deadline=soon())], owner=owned(), deadline=soon())
    assert driver.delete("net", owner=CLOUD, deadline=soon()) is Deletion.GONE


def test_an_endpoint_is_refused_where_it_could_not_lead_or_is_somebody_elses(driver: LocalNetworking) -> None:
    with pytest.raises(NotFound):
        exposed(driver, endpoint(1))
    network(driver)
    for wrong in (endpoint(1, target_address="192.0.2.1"), endpoint(0), endpoint(1, target_address="localhost")):
        with pytest.raises(InvalidRequest):
            exposed(driver, wrong)
    withdrawn = endpoint(closed_port())
    exposed(driver, withdrawn)
    stranger = owned(cluster="clu_2")
    with pytest.raises(AlreadyExists):
        exposed(driver, endpoint(1, owner=stranger), "e9")
    assert driver.withdraw("head", owner=stranger, deadline=soon()) is Deletion.ALREADY_ABSENT
    driver.withdraw("head", owner=owned(), deadline=soon())
    with pytest.raises(Conflict) as spent:
        exposed(driver, withdrawn)
    assert spent.value.reason == "TOKEN_SPENT"


def test_a_head_that_swallows_connections_does_not_hold_a_call_up(
    driver: LocalNetworking, gateway: socket.socket
) -> None:
    network(driver)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        shown = exposed(driver, endpoint(port))
        took = time.monotonic() - began
        for client in waiting:
            client.close()
    assert shown.state is EndpointState.PENDING
    assert took < 0.5


def test_a_check_looks_at_loopback_ports_and_endpoints_and_says_the_remedy(
    driver: LocalNetworking, gateway: socket.socket
) -> None:
    network(driver)
    exposed(driver, endpoint(gateway.getsockname()[1]))
    exposed(driver, endpoint(closed_port(), name="down"), "e2")
    checks = {check.id: check for check in driver.check("net", owner=CLOUD, deadline=soon())}
    assert set(checks) == {"loopback.reachable", "loopback.aliases", "ports.free", "endpoint.head", "endpoint.down"}
    assert checks["loopback.reachable"].status is CheckStatus.PASSED
    assert checks["loopback.aliases"].status is CheckStatus.PASSED
    assert checks["endpoint.head"].status is CheckStatus.PASSED
    assert checks["endpoint.down"].status is CheckStatus.WARNING
    assert checks["endpoint.down"].remedy
    with pytest.raises(NotFound):
        driver.check("net", owner=OTHER, deadline=soon())
