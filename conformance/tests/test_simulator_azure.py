"""The simulated Azure, driven by the real SDKs: machines, and every shape of a long-running operation."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator
from anyscale_conformance.simulators.azure.kinds import Flow
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient

from tests.conformance.azure import World, a_machine

VM = "microsoft.compute/virtualmachines"


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


def test_a_machine_comes_with_its_parts_and_takes_them_along(world: World, compute: Any) -> None:
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    assert poller.status() == "InProgress"
    world.wait()
    made = poller.result()
    assert made.provisioning_state == "Succeeded"
    assert made.os_profile.custom_data is None
    assert made.os_profile.admin_password is None
    things = world.things()
    assert things["virtualMachines"].state == "running"
    tagged = {type for type, thing in things.items() if thing.tags == {"o": "x"}}
    assert tagged == {"virtualMachines", "disks", "networkInterfaces", "publicIPAddresses"}
    gone = compute.virtual_machines.begin_delete("rg", "vm")
    world.wait()
    gone.result()
    world.wait()
    assert world.things() == {}


def test_what_is_not_marked_for_it_stays_when_its_machine_goes(world: World, compute: Any) -> None:
    body = a_machine(world.network())
    nic = body["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]
    nic["properties"]["deleteOption"] = "Detach"
    del body["properties"]["storageProfile"]["osDisk"]["deleteOption"]
    compute.virtual_machines.begin_create_or_update("rg", "vm", body)
    world.wait()
    compute.virtual_machines.begin_delete("rg", "vm")
    world.wait(timedelta(minutes=2))
    assert set(world.things()) == {"disks", "networkInterfaces", "publicIPAddresses"}
    disk = world.things()["disks"]
    assert disk.body["properties"]["diskState"] == "Unattached"


@pytest.mark.parametrize("flow", [Flow.BODY, Flow.ASYNC_OPERATION, Flow.LOCATION, Flow.BOTH])
def test_the_sdk_follows_every_shape_of_a_create(world: World, compute: Any, flow: Flow) -> None:
    world.at.flows["put", VM] = flow
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    assert not poller.done()
    world.wait()
    assert poller.result().provisioning_state == "Succeeded"


def test_a_sync_create_is_one_request(world: World, compute: Any) -> None:
    body = a_machine(world.network())
    world.at.flows["put", VM] = Flow.SYNC
    before = len(world.at.journal)
    assert compute.virtual_machines.begin_create_or_update("rg", "vm", body).result().provisioning_state == "Succeeded"
    assert [seen.action for seen in world.at.journal[before:]] == ["Microsoft.Compute/virtualMachines.put"]


@pytest.mark.parametrize("flow", [Flow.ASYNC_OPERATION, Flow.LOCATION, Flow.BOTH])
def test_the_sdk_follows_every_shape_of_a_delete(world: World, compute: Any, flow: Flow) -> None:
    world.machine()
    world.wait()
    world.at.flows["delete", VM] = flow
    poller = compute.virtual_machines.begin_delete("rg", "vm")
    assert not poller.done()
    world.wait()
    poller.result()
    with pytest.raises(ResourceNotFoundError) as failure:
        compute.virtual_machines.get("rg", "vm")
    assert the_code(failure) == (404, "ResourceNotFound")


def test_a_crash_in_the_middle_is_resumed_by_another_client(world: World, compute: Any) -> None:
    token = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network())).continuation_token()
    world.wait()
    again = world.client(ComputeManagementClient).virtual_machines
    resumed = again.begin_create_or_update("rg", "vm", {}, continuation_token=token)
    assert resumed.result().provisioning_state == "Succeeded"


def test_a_stockout_is_seen_late_and_leaves_a_failed_machine(world: World, compute: Any) -> None:
    world.at.hands.sell_out("Standard_D2s_v5", "1")
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    world.wait()
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert the_code(failure) == (200, "ZonalAllocationFailed")
    seen = compute.virtual_machines.get("rg", "vm", expand="instanceView")
    assert seen.provisioning_state == "Failed"
    assert [status.code for status in seen.instance_view.statuses] == ["ProvisioningState/failed/ZonalAllocationFailed"]
    world.at.hands.restock()
    compute.virtual_machines.begin_create_or_update("rg", "vm2", a_machine(world.network(), "vm2"))
    world.wait()
    assert compute.virtual_machines.instance_view("rg", "vm2").statuses[1].code == "PowerState/running"


def test_a_failure_that_only_the_body_tells_has_no_error_of_its_own(world: World, compute: Any) -> None:
    world.at.flows["put", VM] = Flow.BODY
    world.at.hands.sell_out("Standard_D2s_v5")
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    world.wait()
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert failure.value.error is None


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"hardwareProfile": {"vmSize": "Standard_Z9"}}, "InvalidParameter", 400),
        ({"priority": "Cheap"}, "InvalidParameter", 400),
        ({"evictionPolicy": "Delete"}, "InvalidParameter", 400),
        ({"networkProfile": {}}, "InvalidParameter", 400),
        ({"osProfile": None}, "InvalidParameter", 400),
        ({"osProfile": {"computerName": "x", "adminUsername": "root", "adminPassword": "x"}}, "InvalidParameter", 400),
        ({"osProfile": {"computerName": "x", "adminUsername": "ray", "adminPassword": "x", "customData": "#!"}},
         "InvalidParameter", 400),
        ({"storageProfile": {"osDisk": {"createOption": "FromImage"}}}, "InvalidParameter", 400),
        ({"hardware_profile": {"vm_size": "Standard_D2s_v5"}}, "InvalidRequestContent", 400),
        ({"HardwareProfile": {"vmSize": "Standard_D2s_v5"}}, "InvalidRequestContent", 400),
        ({"networkProfile": {"networkInterfaces": [{"id": "/subscriptions/x/resourceGroups/y/providers/a/b/c"}]}},
         "InvalidResourceReference", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_made(
    world: World, change: dict[str, Any], code: str, status: int
) -> None:
    answer = world.machine(**change)
    assert (answer.status, answer.code) == (status, code)
    assert world.things() == {}


def test_a_marketplace_image_that_is_not_there_is_named(world: World) -> None:
    image = {"publisher": "Canonical", "offer": "ubuntu", "sku": "7.04", "version": "latest"}
    answer = world.machine(storageProfile={"imageReference": image, "osDisk": {"createOption": "FromImage"}})
    assert (answer.status, answer.code) == (404, "PlatformImageNotFound")


def test_a_size_that_the_subscription_may_not_have_is_refused_and_listed_so(world: World, compute: Any) -> None:
    world.at.hands.restrict("Standard_D2s_v5", "1")
    with pytest.raises(ResourceExistsError) as failure:
        compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    assert the_code(failure) == (409, "SkuNotAvailable")
    sizes = {sku.name: sku for sku in compute.resource_skus.list(filter="location eq 'eastus'")}
    (restriction,) = sizes["Standard_D2s_v5"].restrictions
    assert (restriction.type, restriction.reason_code) == ("Zone", "NotAvailableForSubscription")
    assert restriction.restriction_info.zones == ["1"]


@pytest.mark.parametrize(
    ("limit", "properties", "text"),
    [
        ("standardDSv5Family", {}, "standardDSv5Family Cores quota"),
        ("cores", {}, "Total Regional Cores quota"),
        ("lowPriorityCores", {"priority": "Spot"}, "LowPriorityCores quota"),
    ],
)
def test_a_quota_is_told_from_others_by_its_text(
    world: World, limit: str, properties: dict[str, Any], text: str
) -> None:
    world.at.hands.limit(limit, 3)
    assert world.machine("one", **properties).status == 201
    answer = world.machine("two", **properties)
    assert (answer.status, answer.code) == (409, "OperationNotAllowed")
    assert text in answer.body["error"]["message"]
    assert "Current Limit: 3, Current Usage: 2, Additional Required: 2" in answer.body["error"]["message"]


def test_cores_in_use_are_told_by_region_family_and_market(world: World, compute: Any) -> None:
    world.machine("one")
    world.machine("two", priority="Spot")
    used = {usage.name.value: usage.current_value for usage in compute.usage.list("eastus")}
    wanted = ("cores", "standardDSv5Family", "lowPriorityCores", "virtualMachines")
    assert [used[name] for name in wanted] == [2, 2, 2, 2]
    world.wait()
    compute.virtual_machines.begin_deallocate("rg", "one")
    world.wait()
    used = {usage.name.value: usage.current_value for usage in compute.usage.list("eastus")}
    assert [used[name] for name in wanted] == [0, 0, 2, 2]


def test_power_is_turned_off_and_on(world: World, compute: Any) -> None:
    world.machine()
    world.wait()

    def power() -> str:
        return str(compute.virtual_machines.instance_view("rg", "vm").statuses[-1].code)

    for begin, middle, end in (
        ("begin_power_off", "PowerState/stopping", "PowerState/stopped"),
        ("begin_start", "PowerState/starting", "PowerState/running"),
        ("begin_deallocate", "PowerState/deallocating", "PowerState/deallocated"),
        ("begin_restart", "PowerState/starting", "PowerState/running"),
    ):
        poller = getattr(compute.virtual_machines, begin)("rg", "vm")
        assert power() == middle
        world.wait()
        poller.result()
        assert power() == end


def test_a_spot_machine_is_announced_and_evicted_as_its_policy_says(world: World, compute: Any) -> None:
    world.machine("stays", priority="Spot", evictionPolicy="Deallocate")
    world.machine("goes", priority="Spot", evictionPolicy="Delete")
    world.machine("paid")
    world.wait()
    for name in ("stays", "goes"):
        compute.virtual_machines.simulate_eviction("rg", name)
    with pytest.raises(ResourceExistsError):
        compute.virtual_machines.simulate_eviction("rg", "paid")
    world.wait(timedelta(minutes=5))
    seen = {vm.name: vm for vm in compute.virtual_machines.list_all(status_only="true")}
    assert {name: vm.instance_view.statuses[-1].code for name, vm in seen.items()} == {
        "stays": "PowerState/deallocated", "paid": "PowerState/running",
    }  # fmt: skip


def test_a_put_again_is_an_update_that_changes_what_may_change(world: World, compute: Any) -> None:
    subnet = world.network()
    body = a_machine(subnet)
    assert world.put("Microsoft.Compute/virtualMachines/vm", body).status == 201
    world.wait()
    before = compute.virtual_machines.get("rg", "vm")
    body["tags"] = {"o": "y"}
    assert world.put("Microsoft.Compute/virtualMachines/vm", body).status == 200
    world.wait()
    after = compute.virtual_machines.get("rg", "vm")
    assert (after.vm_id, after.tags) == (before.vm_id, {"o": "y"})
    assert len(list(compute.disks.list_by_resource_group("rg"))) == 1
    body["properties"]["osProfile"]["customData"] = "aGkh"
    answer = world.put("Microsoft.Compute/virtualMachines/vm", body)
    assert (answer.status, answer.code) == (409, "PropertyChangeNotAllowed")


def test_a_create_can_be_made_conditional(world: World, compute: Any) -> None:
    body = a_machine(world.network())
    create = compute.virtual_machines.begin_create_or_update
    create("rg", "vm", body, match_condition=MatchConditions.IfMissing)
    with pytest.raises(HttpResponseError) as failure:
        create("rg", "vm", body, match_condition=MatchConditions.IfMissing)
    assert the_code(failure) == (412, "PreconditionFailed")
    etag = compute.virtual_machines.get("rg", "vm").etag
    create("rg", "vm", body, etag=etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(HttpResponseError) as failure:
        create("rg", "vm", body, etag=etag, match_condition=MatchConditions.IfNotModified)
    assert the_code(failure) == (412, "PreconditionFailed")


def test_a_machine_that_is_going_takes_no_more_writes_and_joins_a_second_delete(world: World) -> None:
    world.machine()
    world.wait()
    machine = "Microsoft.Compute/virtualMachines/vm"
    first, second = world.delete(machine), world.delete(machine)
    assert (first.status, second.status) == (202, 202)
    assert first.headers["Azure-AsyncOperation"] == second.headers["Azure-AsyncOperation"]
    answer = world.machine()
    assert (answer.status, answer.code) == (409, "OperationNotAllowed")
    assert "marked for deletion" in answer.body["error"]["message"]
    world.wait()
    assert world.delete(machine).status == 204


def test_a_delete_preempts_the_create_that_is_under_way(world: World, compute: Any) -> None:
    poller = compute.virtual_machines.begin_create_or_update("rg", "vm", a_machine(world.network()))
    compute.virtual_machines.begin_delete("rg", "vm")
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert the_code(failure)[1] == "OperationPreempted"
    world.wait(timedelta(minutes=2))
    assert world.things() == {}


def test_azure_chooses_a_zone_that_has_some_left(world: World) -> None:
    world.at.hands.sell_out("Standard_D2s_v5", "1")
    body = a_machine(world.network())
    del body["zones"]
    body["placement"] = {"zonePlacementPolicy": "Any", "excludeZones": ["2"]}
    answer = world.put("Microsoft.Compute/virtualMachines/vm", body)
    assert (answer.status, answer.body["zones"]) == (201, ["3"])


def test_data_disks_are_attached_and_detached_and_belong_to_one_machine(world: World, compute: Any) -> None:
    poller = compute.disks.begin_create_or_update(
        "rg", "data", {"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 8}}
    )
    world.wait()
    disk = poller.result()
    attached = {"lun": 0, "createOption": "Attach", "managedDisk": {"id": disk.id}}
    for name in ("one", "two"):
        world.machine(name)
    world.wait()

    def change(name: str, disks: list[Any]) -> Any:
        return compute.virtual_machines.begin_update(
            "rg", name, {"properties": {"storageProfile": {"dataDisks": disks}}}
        )

    change("one", [attached])
    assert compute.disks.get("rg", "data").managed_by.endswith("/one")
    with pytest.raises(ResourceExistsError) as failure:
        change("two", [attached])
    assert the_code(failure) == (409, "ConflictingUserInput")
    change("one", [])
    assert compute.disks.get("rg", "data").disk_state == "Unattached"
    change("two", [attached])
    compute.virtual_machines.begin_delete("rg", "two")
    world.wait(timedelta(minutes=2))
    assert compute.disks.get("rg", "data").managed_by is None


def test_hands_reach_behind_everybodys_back(world: World, compute: Any) -> None:
    world.machine()
    world.wait()
    twin = world.at.hands.double("vm")
    assert {machine.name for machine in compute.virtual_machines.list("rg")} == {"vm", twin.name}
    assert compute.virtual_machines.get("rg", twin.name).tags == {"o": "x"}
    world.at.hands.stop("vm")
    assert compute.virtual_machines.instance_view("rg", "vm").statuses[-1].code == "PowerState/stopped"
    world.at.hands.fill(world.below("Microsoft.Network/virtualNetworks/v/subnets/a"))
    assert world.machine("late").code == "SubnetIsFull"
    world.at.hands.lock(world.below("Microsoft.Compute/virtualMachines/vm"))
    with pytest.raises(ResourceExistsError) as failure:
        compute.virtual_machines.begin_delete("rg", "vm")
    assert the_code(failure) == (409, "ScopeLocked")
    world.at.hands.unlock(world.below("Microsoft.Compute/virtualMachines/vm"))
    for name in ("vm", twin.name):
        world.at.hands.kill(name)
    world.wait()
    assert world.things() == {}


def test_what_comes_along_may_be_called_otherwise_than_it_was_asked_for(world: World) -> None:
    world.at.name_part = "{}-1f2e3d4c".format
    made = world.machine().body
    (nic,) = made["properties"]["networkProfile"]["networkInterfaces"]
    assert nic["id"].endswith("/vm-nic-1f2e3d4c")


def test_a_namespace_that_is_not_registered_makes_nothing(world: World) -> None:
    world.at.unregistered.add("microsoft.network")
    answer = world.put("Microsoft.Network/networkSecurityGroups/nsg", {"location": "eastus"})
    assert (answer.status, answer.code) == (409, "MissingSubscriptionRegistration")
    assert world.send("POST", "/providers/Microsoft.Network/register").body["registrationState"] == "Registered"
    assert world.put("Microsoft.Network/networkSecurityGroups/nsg", {"location": "eastus"}).status == 201


def test_a_second_put_neither_hurries_nor_ends_the_create_that_is_under_way(world: World, compute: Any) -> None:
    world.machine()
    world.wait(timedelta(seconds=10))
    world.machine()
    world.wait(timedelta(seconds=10))
    assert compute.virtual_machines.get("rg", "vm").provisioning_state == "Creating"
    compute.virtual_machines.begin_delete("rg", "vm")
    world.wait(timedelta(seconds=25))
    assert compute.virtual_machines.get("rg", "vm").provisioning_state == "Deleting"
    world.wait(timedelta(minutes=2))
    assert world.things() == {}


def test_a_machine_that_failed_is_tried_again_by_another_put(world: World, compute: Any) -> None:
    world.at.hands.sell_out("Standard_D2s_v5")
    world.machine()
    world.wait()
    world.at.hands.restock()
    assert world.machine().status == 200
    world.wait()
    assert compute.virtual_machines.instance_view("rg", "vm").statuses[-1].code == "PowerState/running"
