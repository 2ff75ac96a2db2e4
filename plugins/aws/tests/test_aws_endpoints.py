"""Ways in: who may come, and where a newer order leads."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_aws.client import new_session
from anyscale_aws.networking import AwsNetworking
from anyscale_conformance.simulators.aws import Account, AwsSimulator

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Conflict
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.testing.clock import ManualClock

CLOUD = Owner(plane=PlaneId("pln_1"), cloud=CloudName("aws"))
WAY = EndpointSpec(
    name="head", owner=attrs.evolve(CLOUD, cluster=ClusterId("clu_1")), network="net", target_address="10.0.0.9",
    target_port=8443,
)  # fmt: skip
Rule = tuple[int, str]
"""A port, and who may come: a range of addresses, or the name of a security group."""


class World:
    """A public network in a simulated account."""

    def __init__(self, simulator: AwsSimulator, home: Path) -> None:
        self.clock = ManualClock()
        self.account: Account = simulator.account("123456789012", clock=self.clock)
        self.key = simulator.issue(self.account.administrator())
        self.home, self.url = home, simulator.url
        driver = self.driver()
        spec = NetworkSpec(name="net", mode=NetworkMode.PUBLIC)
        driver.create(spec, owner=CLOUD, token=Token("net"), deadline=self.clock.now() + timedelta(minutes=2))

    def driver(self, **settings: Any) -> AwsNetworking:
        """Return another driver of the cloud."""
        chosen = {"endpoint_url": self.url, "endpoint": "nlb", **settings}
        config = DriverConfig(owner=CLOUD, home=self.home, clock=self.clock, region="us-west-2", settings=chosen)
        return AwsNetworking(config, self._session)

    def expose(self, driver: AwsNetworking, spec: EndpointSpec, token: str) -> None:
        """Expose a head."""
        driver.expose(spec, token=Token(token), deadline=self.clock.now() + timedelta(minutes=2))

    def rules(self) -> set[Rule]:
        """Return what is open for clients, and for load balancers."""
        groups = [group for groups in self.account.ec2.groups.values() for group in groups.values()]
        names = {group.id: group.name for group in groups}
        return {
            (rule.from_port, rule.ip_range.get("CidrIp") or names[rule.source_group["GroupId"]])
            for group in groups
            for rule in group.ingress_rules
            if rule.from_port is not None
        }

    def _session(self) -> Any:
        session = new_session()
        session.set_credentials(self.key.id, self.key.secret)
        return session


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    simulator = AwsSimulator()
    yield World(simulator, tmp_path)
    simulator.close()


def test_a_way_in_is_open_to_exactly_whom_the_settings_name_also_when_they_change(world: World) -> None:
    world.expose(world.driver(allow_from=["192.0.2.0/24", "198.51.100.0/24"]), WAY, "first")
    assert {range for port, range in world.rules() if port == 443} == {"192.0.2.0/24", "198.51.100.0/24"}
    world.expose(world.driver(allow_from=["198.51.100.0/24", "203.0.113.0/24"]), WAY, "first")
    assert {range for port, range in world.rules() if port == 443} == {"198.51.100.0/24", "203.0.113.0/24"}


@pytest.mark.parametrize("port", [8443, 9443])
def test_the_nodes_are_open_to_the_load_balancer_alone_on_the_port_of_the_last_order(world: World, port: int) -> None:
    driver = world.driver(allow_from=["192.0.2.0/24"])
    world.expose(driver, WAY, "first")
    ((_, balancer),) = {rule for rule in world.rules() if rule[0] == 8443}
    world.expose(driver, attrs.evolve(WAY, target_address="10.0.0.10", target_port=port), "second")
    assert world.rules() == {(443, "192.0.2.0/24"), (port, balancer)}


def test_a_newer_order_for_the_same_target_keeps_its_token_to_itself(world: World) -> None:
    driver = world.driver()
    world.expose(driver, WAY, "first")
    world.expose(driver, WAY, "second")
    with pytest.raises(Conflict, match="TOKEN_MISMATCH"):
        world.expose(driver, attrs.evolve(WAY, target_port=9443), "second")
    before = world.rules()
    world.expose(driver, attrs.evolve(WAY, target_port=9443), "first")
    assert world.rules() == before
