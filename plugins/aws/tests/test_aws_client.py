"""The door to the SDK: what of it is loaded, and what the drivers of a cloud share. How much a role can be granted."""

import ast
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyscale_aws
import botocore.session
import pytest
from anyscale_aws.client import _instant, new_session
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.grants import QUOTA
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.operations import MEMBERS, OPERATIONS
from anyscale_aws.storage import AwsStorage
from anyscale_conformance.simulators.aws import Account, AwsSimulator
from botocore import xform_name
from botocore.utils import parse_timestamp

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import QuotaExceeded
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import CloudName, PlaneId, Token
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock

REGION = "us-west-2"
CLOUD = Owner(plane=PlaneId("pln_1"), cloud=CloudName("aws"))


class World:
    """A cloud in a simulated account, with sessions that are counted."""

    def __init__(self, simulator: AwsSimulator, home: Path) -> None:
        self.clock = ManualClock()
        self.account: Account = simulator.account("123456789012", region=REGION, clock=self.clock)
        self.key = simulator.issue(self.account.administrator())
        self.sessions = 0
        settings = {"endpoint_url": simulator.url, "image": "ami-1", "image_arm64": "ami-2"}
        self.config = DriverConfig(owner=CLOUD, home=home, clock=self.clock, region=REGION, settings=settings)
        self.driver: Callable[[Any], Any] = lambda cls: cls(self.config, self.session)

    def session(self) -> Any:
        """Return a session of the account's administrator."""
        self.sessions += 1
        session = new_session()
        session.set_credentials(self.key.id, self.key.secret)
        return session

    def deadline(self) -> datetime:
        """Return a deadline that no call reaches."""
        return self.clock.now() + timedelta(minutes=2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    simulator = AwsSimulator()
    yield World(simulator, tmp_path)
    simulator.close()


def constants() -> set[str]:
    """Return every text in the plugin's own code."""
    files = Path(anyscale_aws.__file__).parent.glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("service", OPERATIONS)
def test_the_clients_have_the_operations_that_the_drivers_name_and_no_others(service: str) -> None:
    every = botocore.session.Session().get_service_model(service).operation_names
    attributes = {xform_name(name): name for name in every}
    named = constants() & set(attributes)
    of_others = {
        xform_name(name)
        for other, names in OPERATIONS.items()
        if other != service
        for name in names - OPERATIONS[service]
    }
    assert {attributes[each] for each in named - of_others} == OPERATIONS[service]
    session = new_session()
    session.set_credentials("key", "secret")
    client = session.create_client(service, region_name=REGION)
    assert set(client.meta.service_model.operation_names) == OPERATIONS[service]
    shapes = client.meta.service_model._shape_resolver._shape_map
    whole = botocore.session.Session().get_service_model(service)._shape_resolver._shape_map
    assert 0 < len(shapes) < len(whole)


def test_the_drivers_of_a_cloud_share_one_session_until_the_last_of_them_is_closed(world: World) -> None:
    drivers = [world.driver(cls) for cls in (AwsCluster, AwsIdentity, AwsStorage, AwsNetworking)]
    for driver in drivers:
        assert driver.list(CLOUD, deadline=world.deadline()) == ()
    assert world.sessions == 1
    for driver in drivers[:-1]:
        driver.close()
    assert drivers[-1].list(CLOUD, deadline=world.deadline()) == ()
    assert world.sessions == 1
    drivers[-1].close()
    assert world.driver(AwsCluster).list(CLOUD, deadline=world.deadline()) == ()
    assert world.sessions == 2


def test_a_role_takes_two_dozen_grants_and_more_and_says_what_of_it_is_spent(world: World) -> None:
    identity, storage = world.driver(AwsIdentity), world.driver(AwsStorage)
    identity.create(IdentitySpec(name="nodes", owner=CLOUD), token=Token("identity"), deadline=world.deadline())
    storage.create(BucketSpec(name="data"), owner=CLOUD, token=Token("bucket"), deadline=world.deadline())

    def grant(number: int) -> None:
        storage.grant(
            "data", f"clusters/clu_{number:016x}/", identity="nodes", access=Access.WRITE, owner=CLOUD,
            token=Token(f"grant-{number}"), deadline=world.deadline(),
        )  # fmt: skip

    def fill() -> None:
        for number in range(25, 60):
            grant(number)

    for number in range(25):
        grant(number)
    with pytest.raises(QuotaExceeded) as caught:
        fill()
    error = caught.value
    assert (error.metric, error.limit) == (QUOTA, 10_240)
    assert error.used is not None
    assert 10_240 - 400 < error.used <= 10_240
    grant(0)
    storage.revoke("data", f"clusters/clu_{1:016x}/", identity="nodes", owner=CLOUD, deadline=world.deadline())
    grant(60)


@pytest.mark.parametrize(
    "told",
    ["2026-11-22T13:00:05Z", "2026-11-22T13:00:05.250Z", "Sun, 22 Nov 2026 13:00:05 GMT", 1795352405, "1795352405"],
)
def test_an_instant_is_read_as_botocore_reads_it(told: Any) -> None:
    found = _instant(told)
    assert found == parse_timestamp(told)
    assert found.tzinfo is not None


def test_of_instances_nothing_is_parsed_that_no_driver_reads(world: World) -> None:
    named = constants()
    for shapes in MEMBERS.values():
        for members in shapes.values():
            assert members <= named
    session = new_session()
    session.set_credentials("key", "secret")
    model = session.create_client("ec2", region_name=REGION).meta.service_model
    for shape, members in MEMBERS["ec2"].items():
        assert set(model.shape_for(shape).members) == members
