"""The simulated Azure: storage with Azurite behind it, scale sets, AKS, fields that no model has, machines that boot."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import obstore
import pytest
import requests
from anyscale_conformance.simulators.azure import AzureSimulator, derive, shapes
from anyscale_conformance.simulators.boot import Machines
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.storage import StorageManagementClient
from joserfc.jwk import KeySet, RSAKey
from obstore.store import AzureStore

from anyscale_core.clock import SystemClock
from tests.conformance.azure import World, a_machine

ACCOUNT = {
    "location": "eastus",
    "sku": {"name": "Standard_LRS"},
    "kind": "StorageV2",
    "properties": {"isHnsEnabled": True},
}
STORAGE = "https://storage.azure.com/.default"


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as azure:
        yield azure


@pytest.fixture
def world(azure: AzureSimulator) -> Iterator[World]:
    with World(azure) as world:
        yield world


@pytest.fixture
def storage(world: World) -> Any:
    return world.client(StorageManagementClient)


def test_an_account_is_made_in_time_and_its_name_is_one_in_all_of_azure(
    azure: AzureSimulator, world: World, storage: Any
) -> None:
    poller = storage.storage_accounts.begin_create("rg", "rayaccount1", ACCOUNT)
    assert poller.status() == "InProgress"
    with pytest.raises(ResourceExistsError) as failure:
        storage.storage_accounts.begin_create("rg", "rayaccount1", ACCOUNT)
    assert failure.value.error is not None
    assert failure.value.error.code == "StorageAccountOperationInProgress"
    world.wait()
    assert poller.result().is_hns_enabled
    wanted = {"name": "rayaccount1", "type": "Microsoft.Storage/storageAccounts"}
    with World(azure) as other:
        theirs = other.client(StorageManagementClient)
        assert theirs.storage_accounts.check_name_availability(wanted).reason == "AlreadyExists"
        with pytest.raises(ResourceExistsError) as failure:
            theirs.storage_accounts.begin_create("rg", "rayaccount1", ACCOUNT)
        assert failure.value.error is not None
        assert failure.value.error.code == "StorageAccountAlreadyTaken"
    storage.storage_accounts.delete("rg", "rayaccount1")
    assert storage.storage_accounts.check_name_availability(wanted).name_available


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("Ray-Account", {}, "AccountNameInvalid"),
        ("rayaccount", {"kind": "BlobStorage"}, "AccessTierRequired"),
        ("rayaccount", {"is_hns_enabled": True}, "InvalidRequestContent"),
        ("rayaccount", {"sku": {}}, "InvalidRequestContent"),
    ],
)
def test_an_account_that_cannot_be_is_refused(world: World, storage: Any, name: str, change: Any, code: str) -> None:
    with pytest.raises(HttpResponseError) as failure:
        storage.storage_accounts.begin_create("rg", name, ACCOUNT | change)
    assert failure.value.error is not None
    assert failure.value.error.code == code


def test_objects_travel_with_keys_with_tokens_and_with_signed_urls(world: World, storage: Any) -> None:
    account = world.at.hands.storage_account("rg")
    storage.blob_containers.create("rg", account.name, "box", {})
    options: dict[str, Any] = {"client_options": {"allow_invalid_certificates": True}}
    endpoint = account.properties["primaryEndpoints"]["blob"].rstrip("/")
    keys = storage.storage_accounts.list_keys("rg", account.name).keys_property
    by_key = AzureStore("box", account_name=account.name, account_key=keys[0].value, endpoint=endpoint, **options)
    by_key.put("a/b", b"hello")
    token = world.at.credential().get_token(STORAGE).token
    by_token = AzureStore("box", account_name=account.name, bearer_token=token, endpoint=endpoint, **options)
    assert bytes(by_token.get("a/b").bytes()) == b"hello"
    url = obstore.sign(by_token, "GET", "a/b", timedelta(minutes=5))
    ca = str(world.azure.ca_path)
    assert requests.get(url, verify=ca, timeout=10).content == b"hello"
    assert requests.get(url.replace("a/b", "a/c"), verify=ca, timeout=10).status_code == 403
    anybody = f"{endpoint}/box/a/b"
    assert requests.get(anybody, verify=ca, timeout=10).status_code in (401, 403, 404)


def test_containers_are_the_same_through_arm_and_through_the_data_plane(world: World, storage: Any) -> None:
    account = world.at.hands.storage_account("rg")
    world.at.blobs.call(world.at, "PUT", f"{account.name}/made?restype=container", {"x-ms-meta-owner": "me"})
    (seen,) = storage.blob_containers.list("rg", account.name)
    assert (seen.name, seen.metadata) == ("made", {"owner": "me"})
    storage.blob_containers.delete("rg", account.name, "made")
    assert b"<Name>made" not in world.at.blobs.call(world.at, "GET", f"{account.name}?comp=list")


def test_what_azure_would_let_an_identity_do_is_told_by_roles_and_conditions(world: World) -> None:
    account = world.at.hands.storage_account("rg")
    who = world.at.directory.application().principal
    scope = f"{account.id}/blobServices/default/containers/box"
    path = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path"
    world.at.hands.assign(who, "Storage Blob Data Reader", scope, f"@Resource[{path}] StringStartsWith 'mine/'")
    asked = (("mine/a", "read"), ("theirs/a", "read"), ("mine/a", "write"))

    def allowed() -> list[bool]:
        return [world.at.hands.may_blob(who, account.name, "box", *one) for one in asked]

    assert allowed() == [False, False, False]
    world.wait()
    assert allowed() == [True, False, False]


def test_a_lifecycle_is_kept_by_rules_with_names(world: World, storage: Any) -> None:
    account = world.at.hands.storage_account("rg")
    action = {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 7}}}
    rule = {
        "name": "tmp", "type": "Lifecycle", "enabled": True,
        "definition": {"actions": action, "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["box/tmp"]}},
    }  # fmt: skip
    made = storage.management_policies.create_or_update(
        "rg", account.name, "default", {"properties": {"policy": {"rules": [rule]}}}
    )
    assert made.policy.rules[0].definition.filters.prefix_match == ["box/tmp"]
    with pytest.raises(HttpResponseError):
        storage.management_policies.create_or_update(
            "rg", account.name, "default", {"properties": {"policy": {"rules": [rule, rule]}}}
        )


def test_a_flexible_scale_set_makes_grows_and_shrinks_machines(world: World) -> None:
    compute = world.client(ComputeManagementClient)
    profile = a_machine(world.network())["properties"]
    del profile["hardwareProfile"]
    profile["osProfile"] = {**profile["osProfile"], "computerNamePrefix": "ray"}
    del profile["osProfile"]["computerName"]
    body = {
        "location": "eastus", "tags": {"o": "x"}, "zones": ["1", "2"], "sku": {"name": "Standard_D2s_v5", "capacity": 3},
        "properties": {
            "orchestrationMode": "Flexible", "platformFaultDomainCount": 1, "virtualMachineProfile": profile,
        },
    }  # fmt: skip
    poller = compute.virtual_machine_scale_sets.begin_create_or_update("rg", "set", body)
    world.wait()
    made = poller.result()
    wanted = f"'virtualMachineScaleSet/id' eq '{made.id}'"
    machines = list(compute.virtual_machines.list("rg", filter=wanted))
    assert [machine.zones for machine in machines] == [["1"], ["2"], ["1"]]
    assert {machine.provisioning_state for machine in machines} == {"Succeeded"}
    assert all(machine.tags == {"o": "x"} for machine in machines)
    compute.virtual_machine_scale_sets.begin_delete_instances("rg", "set", {"instanceIds": [machines[0].name]})
    world.wait()
    left = [one.instance_id for one in compute.virtual_machine_scale_set_vms.list("rg", "set")]
    assert left == [machine.name for machine in machines[1:]]
    compute.virtual_machine_scale_sets.begin_update("rg", "set", {"sku": {"name": "Standard_D2s_v5", "capacity": 4}})
    world.wait()
    assert len(list(compute.virtual_machines.list("rg", filter=wanted))) == 4
    world.at.hands.limit("cores", 10)
    with pytest.raises(ResourceExistsError) as failure:
        compute.virtual_machine_scale_sets.begin_update(
            "rg", "set", {"sku": {"name": "Standard_D2s_v5", "capacity": 9}}
        )
    assert failure.value.error is not None
    assert failure.value.error.code == "OperationNotAllowed"
    world.at.hands.fill(world.below("Microsoft.Network/virtualNetworks/v/subnets/a"))
    before = len(world.at.inventory())
    grown = {"sku": {"name": "Standard_D2s_v5", "capacity": 5}}
    answer = world.send("PATCH", world.below("Microsoft.Compute/virtualMachineScaleSets/set"), grown)
    assert (answer.code, len(world.at.inventory())) == ("SubnetIsFull", before)
    fewer = {"sku": {"name": "Standard_D2s_v5", "capacity": 1}}
    assert world.send("PATCH", world.below("Microsoft.Compute/virtualMachineScaleSets/set"), fewer).status == 200
    compute.virtual_machine_scale_sets.begin_delete("rg", "set")
    world.wait()
    world.wait()
    assert world.things() == {}


def test_a_set_of_the_uniform_mode_is_refused(world: World) -> None:
    answer = world.put(
        "Microsoft.Compute/virtualMachineScaleSets/set",
        {"location": "eastus", "properties": {"platformFaultDomainCount": 1}},
    )
    assert (answer.status, answer.code) == (400, "InvalidParameter")


def test_an_aks_cluster_and_its_pools_come_and_go(world: World) -> None:
    client = world.client(ContainerServiceClient)
    body = {
        "location": "eastus", "identity": {"type": "SystemAssigned"},
        "properties": {
            "dnsPrefix": "ray", "oidcIssuerProfile": {"enabled": True},
            "agentPoolProfiles": [{"name": "system", "mode": "System", "count": 1, "vmSize": "Standard_D2s_v5"}],
        },
    }  # fmt: skip
    poller = client.managed_clusters.begin_create_or_update("rg", "aks", body)
    pool = {"properties": {"count": 3, "vmSize": "Standard_D8s_v5"}}
    with pytest.raises(ResourceExistsError):
        client.agent_pools.begin_create_or_update("rg", "aks", "gpu", pool)
    world.wait(timedelta(minutes=5))
    cluster = poller.result()
    assert cluster.provisioning_state == "Succeeded"
    assert cluster.oidc_issuer_profile.issuer_url.startswith("https://eastus.oic.prod-aks.azure.com/")
    made = client.agent_pools.begin_create_or_update("rg", "aks", "gpu", pool)
    world.wait(timedelta(minutes=5))
    made.result()
    assert [one.name for one in client.agent_pools.list("rg", "aks")] == ["system", "gpu"]
    names = [machine.name for machine in client.machines.list("rg", "aks", "gpu")]
    client.agent_pools.begin_delete_machines("rg", "aks", "gpu", {"machineNames": names[:1]})
    assert [machine.name for machine in client.machines.list("rg", "aks", "gpu")] == names[1:]
    with pytest.raises(HttpResponseError):
        client.agent_pools.begin_delete("rg", "aks", "system")
    found = client.managed_clusters.list_cluster_user_credentials("rg", "aks").kubeconfigs[0]
    assert json.loads(found.value)["current-context"] == "aks"
    keys = KeySet([RSAKey.generate_key(2048)]).as_dict(private=False)
    issuer = world.at.hands.serve_cluster("aks", kubeconfig="real: yes", keys=keys)
    assert issuer == cluster.oidc_issuer_profile.issuer_url
    assert client.managed_clusters.list_cluster_user_credentials("rg", "aks").kubeconfigs[0].value == b"real: yes"
    gone = client.managed_clusters.begin_delete("rg", "aks")
    world.wait(timedelta(minutes=5))
    gone.result()
    assert world.things() == {}


def test_a_machine_that_boots_runs_its_custom_data_at_its_own_address(azure: AzureSimulator) -> None:
    machines = Machines()
    at = azure.subscription(SystemClock(), machines=machines)
    at.boot = timedelta(milliseconds=1)
    group = at.group("rg")
    network = f"{group.id.removeprefix(at.path)}/providers/Microsoft.Network/virtualNetworks/v"
    at.hands.put(network, {"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}})
    subnet = at.hands.put(f"{network}/subnets/a", {"properties": {"addressPrefix": "10.0.1.0/24"}})
    body = a_machine(subnet.id)
    script = b"#!/bin/sh\necho $ANYSCALE_CORE_ADDRESS $AZURE_POD_IDENTITY_AUTHORITY_HOST\nexec sleep 60\n"
    body["properties"]["osProfile"]["customData"] = base64.b64encode(script).decode()
    compute = ComputeManagementClient(
        at.credential(), at.id, base_url=azure.url, connection_verify=str(azure.ca_path), polling_interval=0.02,
        credential_scopes=["https://management.azure.com/.default"],
    )  # fmt: skip
    try:
        made = compute.virtual_machines.begin_create_or_update("rg", "vm", body).result()
        id, end = made.id.lower(), time.monotonic() + 20
        while not (said := machines.console(id).split()) and time.monotonic() < end:
            time.sleep(0.02)
        nic = next(thing for thing in at.inventory() if thing.type.endswith("networkInterfaces"))
        address = nic.body["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"]
        assert said == [address, at.hands.metadata_url("vm")]
        at.hands.stop("vm")
        assert not machines.is_alive(id)
    finally:
        azure.forget(at)
        machines.close()


def test_every_field_of_the_table_is_one_of_the_sdks() -> None:
    """A newer SDK may know more: `python -m anyscale_conformance.simulators.azure.derive --write` takes it over."""
    derived = derive.derive()
    kept = {
        (model, field) for model, fields in shapes.shapes().items() for field in fields if model not in shapes.EXTRA
    }
    assert kept <= {(model, field) for model, fields in derived.items() for field in fields}
    assert len(kept) > 1000


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"location": "eastus", "propertys": {}}, "propertys"),
        ({"location": "eastus", "properties": {"hardwareprofile": {}}}, "properties.hardwareprofile"),
        ({"location": "eastus", "properties": {"storageProfile": {"dataDisks": [{"lun": 0}]}}},
         "properties.storageProfile.dataDisks[0].createOption"),
        ({"location": "eastus", "tags": ["a"]}, "tags"),
        ({"location": 7}, "location"),
        ({}, "location"),
    ],
)  # fmt: skip
def test_a_body_that_a_model_does_not_know_is_refused_by_its_path(world: World, body: Any, path: str) -> None:
    answer = world.put("Microsoft.Compute/virtualMachines/vm", body)
    assert (answer.status, answer.code, answer.body["error"]["target"]) == (400, "InvalidRequestContent", path)
