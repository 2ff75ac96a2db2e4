"""A cloud on the simulated Azure for tests: one server for all of them, a subscription for each. Of tests alone."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription

from anyscale_azure.client import Azure
from anyscale_azure.cluster import AzureCluster
from anyscale_azure.config import Settings, read_settings
from anyscale_azure.identity import AzureIdentity
from anyscale_azure.networking import AzureNetworking
from anyscale_azure.storage import AzureStorage
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.instance import InstanceSpec
from anyscale_core.models.owner import Owner
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec
from anyscale_core.testing.clock import ManualClock

OWNER = Owner(plane=PlaneId("pln_test"), cloud=CloudName("azure"), cluster=ClusterId("clu_test"))
GROUP, SIZE = "rg", "Standard_DS1_v2"


@attrs.define(kw_only=True)
class World:
    """One subscription, its clock, and drivers on it."""

    simulator: AzureSimulator
    at: Subscription
    clock: ManualClock
    home: Path
    more: dict[str, Any] = attrs.field(factory=dict)
    serial: int = 0

    def config(self) -> DriverConfig:
        network = f"{self.at.path}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/customers"
        settings = {
            "subscription_id": self.at.id, "tenant_id": self.at.tenant_id, "resource_group": GROUP,
            "endpoint": self.simulator.url, "authority": self.simulator.url, "ca_file": str(self.simulator.ca_path),
            "subnet_id": f"{network}/subnets/default", "storage_account": f"test{self.at.id.replace('-', '')[:18]}",
            "oidc_issuer": "https://oidc.invalid/aks/", **self.more,
        }  # fmt: skip
        return DriverConfig(owner=OWNER, home=self.home, clock=self.clock, region="eastus", settings=settings)

    @property
    def settings(self) -> Settings:
        return read_settings(self.config())

    def azure(self) -> Azure:
        return Azure(self.settings, self.clock, credential=self.at.credential())

    @property
    def cluster(self) -> AzureCluster:
        return AzureCluster(self.config(), self.azure())

    @property
    def identity(self) -> AzureIdentity:
        return AzureIdentity(self.config(), self.azure())

    @property
    def networking(self) -> AzureNetworking:
        return AzureNetworking(self.config(), self.azure())

    @property
    def storage(self) -> AzureStorage:
        self.more.setdefault("blob_endpoint", f"{self.simulator.blobs.service.url}/{{account}}")
        return AzureStorage(self.config(), self.azure())

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(minutes=2)

    def token(self) -> Token:
        self.serial += 1
        return Token(f"token-{self.serial}")

    def spec(self, name: str = "node-1", **fields: Any) -> InstanceSpec:
        return an_instance_spec(name=name, owner=OWNER, instance_type=SIZE, bootstrap=a_bootstrap(), **fields)

    def sent(self) -> list[tuple[str, str]]:
        """Return the requests so far: method and the last type in the path."""
        return [(seen.method, seen.action) for seen in self.at.journal]


@cache
def simulator() -> AzureSimulator:
    return AzureSimulator()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = ManualClock()
    at = simulator().subscription(clock)
    at.group(GROUP)
    where = f"/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/customers"
    space = {"addressSpace": {"addressPrefixes": ["10.250.0.0/16"]}, "subnets": []}
    at.hands.put(where, {"location": "eastus", "properties": space})
    at.hands.put(f"{where}/subnets/default", {"properties": {"addressPrefix": "10.250.0.0/16"}})
    yield World(simulator=simulator(), at=at, clock=clock, home=tmp_path)
    simulator().forget(at)
