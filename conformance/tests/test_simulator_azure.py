"""The simulated Azure, driven by the real SDKs."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute import ComputeManagementClient

from anyscale_core.testing.clock import ManualClock

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as azure:
        yield azure


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def at(azure: AzureSimulator, clock: ManualClock) -> Iterator[Subscription]:
    at = azure.subscription(clock)
    at.group("rg")
    yield at
    azure.forget(at)


@pytest.fixture
def compute(azure: AzureSimulator, at: Subscription) -> Any:
    return ComputeManagementClient(
        at.credential(), at.id, base_url=azure.url, connection_verify=str(azure.ca_path), polling_interval=0.02,
        credential_scopes=["https://management.azure.com/.default"], retry_total=0,
    )  # fmt: skip


def a_machine(at: Subscription, **properties: Any) -> dict[str, Any]:
    network = f"{at.path}/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v"
    if at.find(network) is None:
        body: dict[str, Any] = {
            "location": "eastus",
            "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}},
        }
        at.hands.put(network.removeprefix(at.path), body)
        subnet = {"properties": {"addressPrefix": "10.0.1.0/24"}}
        at.hands.put(f"{network.removeprefix(at.path)}/subnets/a", subnet)
    image = {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
    address = {"name": "pip", "sku": {"name": "Standard"}, "properties": {"deleteOption": "Delete"}}
    part = {"subnet": {"id": f"{network}/subnets/a"}, "publicIPAddressConfiguration": address}
    nic = {
        "name": "nic", "tags": {"o": "x"},
        "properties": {"deleteOption": "Delete", "ipConfigurations": [{"name": "ip", "properties": part}]},
    }  # fmt: skip
    return {
        "location": "eastus", "zones": ["1"], "tags": {"o": "x"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {
                "imageReference": image, "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"},
            },
            "osProfile": {
                "computerName": "vm", "adminUsername": "ray", "adminPassword": "Xx12345678!x",
                "customData": base64.b64encode(b"#!/bin/sh").decode(),
            },
            "networkProfile": {"networkApiVersion": "2022-11-01", "networkInterfaceConfigurations": [nic]},
            **properties,
        },
    }  # fmt: skip


def test_a_machine_comes_with_its_parts_and_takes_them_along(
    at: Subscription, compute: Any, clock: ManualClock
) -> None:
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(at))
    assert poller.status() == "InProgress"
    clock.advance(MINUTE)
    assert poller.result().provisioning_state == "Succeeded"
    made = {thing.type.rpartition("/")[2]: thing for thing in at.inventory()}
    assert made["virtualMachines"].state == "running"
    assert all(made[type].tags == {"o": "x"} for type in ("virtualMachines", "disks", "networkInterfaces"))
    gone = compute.virtual_machines.begin_delete("rg", "vm")
    clock.advance(MINUTE)
    gone.result()
    clock.advance(MINUTE)
    assert {thing.type.rpartition("/")[2] for thing in at.inventory()} == {
        "resourceGroups",
        "virtualNetworks",
        "subnets",
    }


def test_a_stockout_is_seen_late_and_leaves_a_failed_machine(
    at: Subscription, compute: Any, clock: ManualClock
) -> None:
    at.hands.sell_out("Standard_D2s_v5", "1")
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(at))
    clock.advance(MINUTE)
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert (failure.value.status_code, failure.value.error.code) == (200, "ZonalAllocationFailed")
    seen = compute.virtual_machines.get("rg", "vm", expand="instanceView")
    assert seen.provisioning_state == "Failed"
    assert [status.code for status in seen.instance_view.statuses] == ["ProvisioningState/failed/ZonalAllocationFailed"]
