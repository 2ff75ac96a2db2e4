"""The simulated Azure: what ARM does for every type: pages, groups, paths, versions, throttling, subscriptions apart."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

from tests.conformance.azure import World


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as azure:
        yield azure


@pytest.fixture
def world(azure: AzureSimulator) -> Iterator[World]:
    with World(azure) as world:
        yield world


@pytest.fixture
def compute(world: World) -> Any:
    return world.client(ComputeManagementClient)


def the_code(failure: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str]:
    error = failure.value
    return error.status_code, str(error.error.code) if error.error else ""


def test_lists_come_in_pages_and_past_their_lag(world: World, compute: Any) -> None:
    world.at.page_size = 2
    for number in range(5):
        world.machine(f"vm{number}")
    before = len(world.at.journal)
    assert len(list(compute.virtual_machines.list("rg"))) == 5
    assert len(world.at.journal) - before == 3
    world.at.lag = timedelta(minutes=5)
    assert list(compute.virtual_machines.list("rg")) == []
    world.wait(timedelta(minutes=5))
    world.at.hands.kill("vm0")
    assert len(list(compute.virtual_machines.list("rg"))) == 5
    world.at.lag = timedelta()
    assert len(list(compute.virtual_machines.list("rg"))) == 4


def test_a_group_takes_everything_in_it_along(world: World) -> None:
    resources = world.client(ResourceManagementClient)
    assert resources.resource_groups.check_existence("rg")
    assert not resources.resource_groups.check_existence("other")
    world.machine()
    world.wait()
    assert {one.type for one in resources.resources.list(filter="tagName eq 'o' and tagValue eq 'x'")} == {
        "Microsoft.Compute/virtualMachines", "Microsoft.Compute/disks", "Microsoft.Network/networkInterfaces",
        "Microsoft.Network/publicIPAddresses",
    }  # fmt: skip
    poller = resources.resource_groups.begin_delete("rg")
    answer = world.machine("late")
    assert (answer.status, answer.code) == (409, "ResourceGroupBeingDeleted")
    world.wait()
    poller.result()
    assert world.at.inventory() == ()
    assert world.machine("later").code == "ResourceGroupNotFound"


def test_a_group_is_made_as_arm_makes_one(world: World) -> None:
    resources = world.client(ResourceManagementClient)
    made = resources.resource_groups.create_or_update("other", {"location": "West US 2", "tags": {"a": "b"}})
    assert (made.location, made.properties.provisioning_state) == ("westus2", "Succeeded")
    assert [group.name for group in resources.resource_groups.list(filter="tagName eq 'a' and tagValue eq 'b'")] == [
        "other"
    ]
    with pytest.raises(ResourceExistsError) as failure:
        resources.resource_groups.create_or_update("other", {"location": "eastus"})
    assert the_code(failure) == (409, "InvalidResourceGroupLocation")
    provider = resources.providers.get("Microsoft.Compute")
    assert provider.registration_state == "Registered"


def test_paths_mean_the_same_in_any_case_and_ids_come_back_as_they_were_made(world: World) -> None:
    world.machine()
    shouted = world.send("GET", world.below("MICROSOFT.COMPUTE/VIRTUALMACHINES/VM").upper().replace("/SUBS", "/subs"))
    assert shouted.body["id"] == world.below("Microsoft.Compute/virtualMachines/vm")


@pytest.mark.parametrize(
    ("query", "code"),
    [({"api-version": ""}, "MissingApiVersionParameter"), ({"api-version": "1"}, "InvalidApiVersionParameter")],
)
def test_an_api_version_is_demanded(world: World, query: dict[str, str], code: str) -> None:
    answer = world.send("GET", "/resourceGroups", **query)
    assert (answer.status, answer.code) == (400, code)


def test_an_unknown_type_and_an_unknown_namespace_are_told_apart(world: World) -> None:
    assert world.get("Microsoft.Compute/toasters/x").code == "InvalidResourceType"
    assert world.get("Contoso.Compute/toasters/x").code == "InvalidResourceNamespace"


def test_throttling_tells_when_to_come_back(world: World, compute: Any) -> None:
    world.at.throttle(1, action="virtualMachines.get", retry_after=7)
    with pytest.raises(HttpResponseError) as failure:
        list(compute.virtual_machines.list("rg"))
    assert the_code(failure) == (429, "TooManyRequests")
    assert failure.value.response is not None
    assert failure.value.response.headers["Retry-After"] == "7"
    assert list(compute.virtual_machines.list("rg")) == []
    left = world.send("GET", "/resourceGroups").headers["x-ms-ratelimit-remaining-subscription-reads"]
    assert int(left) < 12000


def test_subscriptions_do_not_see_each_other(azure: AzureSimulator, world: World) -> None:
    world.machine()
    with World(azure) as other:
        assert other.things() == {}
        answer = other.send("GET", f"{world.group}/resources")
        assert (answer.status, answer.code) == (401, "InvalidAuthenticationTokenTenant")


def test_a_hundred_machines_at_once_arrive_over_many_connections(azure: AzureSimulator, world: World) -> None:
    world.network()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: world.machine(f"vm{number}").status, range(100)))
    assert answers == [201] * 100
    world.wait()
    nics = [thing for thing in world.at.inventory() if thing.type.endswith("networkInterfaces")]
    addresses = {nic.body["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"] for nic in nics}
    assert len(addresses) == 100


def test_a_quicker_pace_shortens_everything_alike(world: World, compute: Any) -> None:
    world.network()
    world.at.pace = 0.1
    world.machine()
    world.wait(timedelta(seconds=4))
    assert compute.virtual_machines.get("rg", "vm").provisioning_state == "Succeeded"
    compute.virtual_machines.begin_delete("rg", "vm")
    world.wait(timedelta(seconds=5))
    assert world.things() == {}
