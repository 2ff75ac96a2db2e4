"""A network that others make and delete while a call is at it: each order of their requests, one by one."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings
from anyscale_gcp.kit.world import REGION, Ambient, World, endpoints_of
from anyscale_gcp.networking import GcpNetworking
from joserfc.jwk import RSAKey

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError, Conflict
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Network, NetworkSpec
from anyscale_core.testing.builders import owner

OURS = owner(cluster="clu_1")
KEY = RSAKey.generate_key(2048)
SPEC = NetworkSpec(name="net", owner=OURS)
CREATES, DELETES = 7, 7
"""More requests than a create and a delete of a network make."""


class Interrupted:
    """``http`` of a client; before its nth request something else happens, once."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self._left, self._act = at, act

    def __call__(self, inner: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self._act()
        return inner


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-races", timings=Timings.none())
        yield World(simulator=simulator, project=project, folder=tmp_path, key=KEY)


def driver(world: World, wrap: Callable[[Any], Any] = lambda inner: inner) -> GcpNetworking:
    settings = {"project": world.project.id, "endpoints": endpoints_of(world.simulator)}
    config = DriverConfig(owner=OURS, home=world.folder, region=REGION, settings=settings)
    client = Client(read_settings(config), config.clock, wrap=wrap, credentials=Ambient(world.project))
    return GcpNetworking(config, client)


def create(of: GcpNetworking, token: str) -> Network | CloudError:
    try:
        return of.create(SPEC, owner=OURS, token=Token(token), deadline=datetime.now(UTC) + timedelta(seconds=60))
    except CloudError as error:
        return error


def delete(of: GcpNetworking) -> Deletion | CloudError:
    try:
        return of.delete("net", owner=OURS, deadline=datetime.now(UTC) + timedelta(seconds=60))
    except CloudError as error:
        return error


def kinds(world: World) -> list[str]:
    ours = ("networks", "subnetworks", "firewalls", "routers")
    return sorted(seen.kind for seen in world.project.inventory() if seen.kind in ours)


WHOLE = ["firewalls", "networks", "routers", "subnetworks"]


@pytest.mark.parametrize("at", range(1, CREATES + 1))
def test_a_delete_within_a_create_comes_before_or_after_it_and_leaves_nothing_half(world: World, at: int) -> None:
    plain, answers = driver(world), list[Deletion | CloudError]()
    made = create(driver(world, Interrupted(at, lambda: answers.append(delete(plain)))), "t1")
    assert isinstance(made, Network), made
    (answer,) = answers or [Deletion.ALREADY_ABSENT]
    assert answer in (Deletion.GONE, Deletion.ALREADY_ABSENT)
    assert kinds(world) == ([] if answer is Deletion.GONE else WHOLE)


@pytest.mark.parametrize("at", range(1, CREATES + 1))
def test_a_successor_within_a_create_is_whole_and_goes_without_remains(world: World, at: int) -> None:
    plain, answers = driver(world), list[Network | CloudError]()

    def take_over() -> None:
        if delete(plain) is Deletion.GONE:
            answers.append(create(plain, "t2"))

    made = create(driver(world, Interrupted(at, take_over)), "t1")
    assert isinstance(made, Network), made
    assert all(isinstance(answer, Network) for answer in answers), answers
    assert set(kinds(world)) == set(WHOLE)
    for _ in range(3):
        if delete(plain) is Deletion.GONE:
            break
    assert kinds(world) == []


@pytest.mark.parametrize("at", range(1, DELETES + 1))
def test_a_repeated_create_within_a_delete_is_told_that_its_network_goes_or_keeps_it(world: World, at: int) -> None:
    plain, answers = driver(world), list[Network | CloudError]()
    assert isinstance(create(plain, "t1"), Network)
    gone = delete(driver(world, Interrupted(at, lambda: answers.append(create(plain, "t1")))))
    assert gone is Deletion.GONE, gone
    assert kinds(world) == []
    for answer in answers:
        assert isinstance(answer, Network) or (isinstance(answer, Conflict) and answer.reason == "TOKEN_SPENT"), answer


@pytest.mark.parametrize("at", range(1, DELETES + 1))
def test_two_deletes_at_once_both_find_it_gone(world: World, at: int) -> None:
    plain, answers = driver(world), list[Deletion | CloudError]()
    create(plain, "t1")
    answers.append(delete(driver(world, Interrupted(at, lambda: answers.append(delete(plain))))))
    assert set(answers) <= {Deletion.GONE, Deletion.ALREADY_ABSENT}
    assert kinds(world) == []
