"""The simulated Azure: networks, interfaces, addresses and load balancers, with their rules of order and of use."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network import models as m

from tests.conformance.azure import World, a_machine, a_network, an_address, an_interface

NETWORK = "Microsoft.Network/virtualNetworks/v"
NIC = "Microsoft.Network/networkInterfaces/nic"
PIP = "Microsoft.Network/publicIPAddresses/pip"
NSG = "Microsoft.Network/networkSecurityGroups/nsg"
BALANCER = "Microsoft.Network/loadBalancers/lb"


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as azure:
        yield azure


@pytest.fixture
def world(azure: AzureSimulator) -> Iterator[World]:
    with World(azure) as world:
        yield world


def a_rule(name: str = "ssh", priority: int = 100, **properties: Any) -> dict[str, Any]:
    return {
        "name": name,
        "properties": {
            "protocol": "Tcp", "access": "Allow", "direction": "Inbound", "priority": priority,
            "sourceAddressPrefix": "10.0.0.0/8", "sourcePortRange": "*", "destinationAddressPrefix": "*",
            "destinationPortRange": "22", **properties,
        },
    }  # fmt: skip


def a_balancer(world: World, **properties: Any) -> dict[str, Any]:
    own = world.below(BALANCER)
    rule = {
        "name": "https",
        "properties": {
            "protocol": "Tcp", "frontendPort": 443, "backendPort": 8443, "probe": {"id": f"{own}/probes/alive"},
            "frontendIPConfiguration": {"id": f"{own}/frontendIPConfigurations/front"},
            "backendAddressPool": {"id": f"{own}/backendAddressPools/pool"},
        },
    }  # fmt: skip
    address = {"ipAddress": "10.0.1.4", "virtualNetwork": {"id": world.below(NETWORK)}}
    return {
        "location": "eastus", "sku": {"name": "Standard"},
        "properties": {
            "frontendIPConfigurations": [{"name": "front", "properties": {"publicIPAddress": {"id": world.below(PIP)}}}],
            "backendAddressPools": [
                {"name": "pool", "properties": {"loadBalancerBackendAddresses": [{"name": "head", "properties": address}]}}
            ],
            "probes": [{"name": "alive", "properties": {"protocol": "Tcp", "port": 8443, "intervalInSeconds": 5}}],
            "loadBalancingRules": [rule], **properties,
        },
    }  # fmt: skip


def test_the_real_network_client_makes_lists_and_deletes_what_a_cluster_needs(world: World) -> None:
    client = world.client(NetworkManagementClient)
    network = m.VirtualNetwork(
        location="eastus", address_space=m.AddressSpace(address_prefixes=["10.0.0.0/16"]),
        subnets=[m.Subnet(name="a", address_prefix="10.0.1.0/24")],
    )  # fmt: skip
    poller = client.virtual_networks.begin_create_or_update("rg", "v", network)
    world.wait()
    assert poller.result().subnets[0].name == "a"
    group = m.NetworkSecurityGroup(
        location="eastus",
        security_rules=[
            m.SecurityRule(
                name="ssh", protocol="Tcp", access="Allow", direction="Inbound", priority=100, source_address_prefix="*",
                source_port_range="*", destination_address_prefix="*", destination_port_range="22",
            )
        ],
    )  # fmt: skip
    poller = client.network_security_groups.begin_create_or_update("rg", "nsg", group)
    world.wait()
    made = poller.result()
    assert [rule.name for rule in made.security_rules] == ["ssh"]
    assert [rule.name for rule in made.default_security_rules][2] == "DenyAllInBound"
    body = m.NetworkInterface(
        location="eastus", network_security_group=m.NetworkSecurityGroup(id=made.id),
        ip_configurations=[
            m.NetworkInterfaceIPConfiguration(name="ip", subnet=m.Subnet(id=world.below(f"{NETWORK}/subnets/a")))
        ],
    )  # fmt: skip
    poller = client.network_interfaces.begin_create_or_update("rg", "nic", body)
    world.wait()
    assert poller.result().ip_configurations[0].private_ip_address == "10.0.1.4"
    gone = client.network_interfaces.begin_delete("rg", "nic")
    world.wait()
    gone.result()
    assert list(client.network_interfaces.list("rg")) == []
    limits = {usage.name.value: usage.limit for usage in client.usages.list("eastus")}
    assert limits["PublicIPAddresses"] == 1000


@pytest.mark.parametrize(
    ("prefixes", "code"),
    [
        (("10.0.1.0/33",), "InvalidCIDRNotation"),
        (("10.1.0.0/24",), "NetcfgSubnetRangeOutsideVnet"),
        (("10.0.0.0/23", "10.0.1.0/24"), "NetcfgSubnetRangesOverlap"),
    ],
)
def test_subnets_lie_in_their_network_and_apart(world: World, prefixes: tuple[str, ...], code: str) -> None:
    answer = world.put(NETWORK, a_network(*prefixes))
    assert (answer.status, answer.code) == (400, code)


def test_a_subnet_that_is_in_use_is_not_deleted_by_itself_nor_with_its_network(world: World) -> None:
    subnet = world.network()
    world.put(NIC, an_interface(subnet))
    world.wait()
    for path in (f"{NETWORK}/subnets/a", NETWORK):
        answer = world.delete(path)
        assert (answer.status, answer.code) == (400, "InUseSubnetCannotBeDeleted")
    assert world.put(NETWORK, a_network() | {"properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": []}}).code == "InUseSubnetCannotBeDeleted"  # fmt: skip
    used = world.get(f"{NETWORK}/subnets/a").body["properties"]["ipConfigurations"]
    assert used == [{"id": f"{world.below(NIC)}/ipConfigurations/ip"}]
    assert world.delete(NIC).status == 202
    world.wait()
    assert world.delete(NETWORK).status == 202
    world.wait()
    assert world.delete(NETWORK).status == 204


def test_an_interface_that_a_machine_has_stays_until_the_machine_is_gone(world: World) -> None:
    world.machine()
    world.wait()
    answer = world.delete("Microsoft.Network/networkInterfaces/vm-nic")
    assert (answer.status, answer.code) == (400, "NicInUse")
    answer = world.delete("Microsoft.Network/publicIPAddresses/vm-pip")
    assert (answer.status, answer.code) == (400, "PublicIPAddressCannotBeDeleted")
    disk = world.things()["disks"].name
    answer = world.delete(f"Microsoft.Compute/disks/{disk}")
    assert (answer.status, answer.code) == (409, "OperationNotAllowed")


def test_the_interface_of_a_machine_that_could_not_be_made_is_held_for_three_minutes(world: World) -> None:
    subnet = world.network()
    nic = {"id": world.below(NIC), "properties": {"deleteOption": "Detach"}}
    world.put(NIC, an_interface(subnet))
    world.wait()
    world.at.hands.sell_out("Standard_D2s_v5")
    body = a_machine(subnet, networkProfile={"networkInterfaces": [nic]})
    world.put("Microsoft.Compute/virtualMachines/vm", body)
    world.wait()
    world.delete("Microsoft.Compute/virtualMachines/vm")
    world.wait()
    assert world.delete(NIC).code == "NicReservedForAnotherVm"
    other = world.put("Microsoft.Compute/virtualMachines/other", body)
    assert (other.status, other.code) == (400, "NicReservedForAnotherVm")
    world.wait(timedelta(seconds=180))
    assert world.delete(NIC).status == 202


def test_a_full_subnet_says_so(world: World) -> None:
    world.put(NETWORK, a_network("10.0.1.0/29"))
    world.wait()
    subnet = world.below(f"{NETWORK}/subnets/a")
    answers = [world.put(f"Microsoft.Network/networkInterfaces/nic{n}", an_interface(subnet)) for n in range(4)]
    assert [answer.code for answer in answers] == ["", "", "", "SubnetIsFull"]
    assert world.machine().code == "SubnetIsFull"


def test_what_is_referred_to_has_to_be_there_in_the_same_region_and_finished(world: World) -> None:
    world.put(NETWORK, a_network())
    subnet = world.below(f"{NETWORK}/subnets/a")
    assert world.put(NIC, an_interface(subnet)).code == "ReferencedResourceNotProvisioned"
    world.wait()
    assert world.put(NIC, an_interface(f"{subnet}x")).code == "InvalidResourceReference"
    assert world.put(NIC, an_interface(subnet) | {"location": "westus2"}).code == "InvalidResourceReference"
    assert world.put(NIC, an_interface(subnet)).status == 201
    assert world.put(f"{NETWORK}x/subnets/a", {"properties": {"addressPrefix": "10.0.2.0/24"}}).code == (
        "ParentResourceNotFound"
    )


def test_an_address_is_had_by_one_interface_only(world: World) -> None:
    subnet, address = world.network(), {"id": world.below(PIP)}
    assert world.put(PIP, an_address()).body["properties"]["ipAddress"].startswith("20.")
    world.wait()
    assert world.put(NIC, an_interface(subnet, publicIPAddress=address)).status == 201
    answer = world.put(f"{NIC}2", an_interface(subnet, publicIPAddress=address))
    assert (answer.status, answer.code) == (400, "PublicIPAddressInUse")
    assert world.get(PIP).body["properties"]["ipConfiguration"]["id"].endswith("/nic/ipConfigurations/ip")


def test_addresses_of_the_retired_sku_and_more_than_the_limit_are_refused(world: World) -> None:
    assert world.put(PIP, an_address() | {"sku": {"name": "Basic"}}).code == "IPv4BasicSkuPublicIpCountLimitReached"
    world.at.hands.limit("PublicIPAddresses", 1)
    assert world.put(PIP, an_address()).status == 201
    assert world.put(f"{PIP}2", an_address()).code == "PublicIPCountLimitReached"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (a_rule("other"), "SecurityRuleConflict"),
        (a_rule("other", 99), "SecurityRuleInvalidPriority"),
        (a_rule("other", 200, sourceAddressPrefix=None), "SecurityRuleMissingAddressPrefix"),
        (a_rule("other", 200, direction=None), "InvalidRequestContent"),
    ],
)
def test_rules_of_a_security_group_are_whole_and_have_their_own_place(
    world: World, rule: dict[str, Any], code: str
) -> None:
    body = {"location": "eastus", "properties": {"securityRules": [a_rule(), rule]}}
    assert world.put(NSG, body).code == code


def test_one_rule_is_written_and_taken_away_without_the_others(world: World) -> None:
    world.put(NSG, {"location": "eastus", "properties": {"securityRules": [a_rule()]}})
    world.wait()
    assert world.put(f"{NSG}/securityRules/ray", {"properties": a_rule("ray", 110)["properties"]}).status == 201
    world.wait()
    assert world.delete(f"{NSG}/securityRules/ssh").status == 202
    world.wait()
    names = [rule["name"] for rule in world.get(NSG).body["properties"]["securityRules"]]
    assert names == ["ray"]


def test_a_security_group_in_use_is_not_deleted(world: World) -> None:
    world.put(NSG, {"location": "eastus"})
    world.wait()
    body = a_network()
    body["properties"]["subnets"][0]["properties"]["networkSecurityGroup"] = {"id": world.below(NSG)}
    world.put(NETWORK, body)
    world.wait()
    answer = world.delete(NSG)
    assert (answer.status, answer.code) == (400, "InUseNetworkSecurityGroupCannotBeDeleted")


@pytest.mark.parametrize(
    ("type", "key", "code", "body"),
    [
        ("natGateways", "natGateway", "InUseNatGatewayCannotBeDeleted", {"sku": {"name": "Standard"}}),
        ("routeTables", "routeTable", "InUseRouteTableCannotBeDeleted", {}),
    ],
)
def test_gateways_and_routes_in_use_are_not_deleted(world: World, type: str, key: str, code: str, body: Any) -> None:
    path = f"Microsoft.Network/{type}/one"
    assert world.put(path, {"location": "eastus", "properties": {}, **body}).status == 201
    world.wait()
    network = a_network()
    network["properties"]["subnets"][0]["properties"][key] = {"id": world.below(path)}
    world.put(NETWORK, network)
    world.wait()
    assert world.delete(path).code == code


def test_a_load_balancer_leads_to_an_address_of_the_network(world: World) -> None:
    world.network()
    world.put(PIP, an_address())
    world.wait()
    assert world.begin("PUT", BALANCER, a_balancer(world)).status() == "InProgress"
    world.wait()
    made = world.get(BALANCER).body["properties"]
    assert made["provisioningState"] == "Succeeded"
    assert made["frontendIPConfigurations"][0]["id"] == f"{world.below(BALANCER)}/frontendIPConfigurations/front"
    assert world.delete(PIP).code == "PublicIPAddressCannotBeDeleted"
    empty = a_balancer(world, frontendIPConfigurations=[], loadBalancingRules=[])
    assert world.put(BALANCER, empty).status == 200
    assert world.delete(PIP).status == 202


def test_a_private_frontend_has_an_address_of_its_subnet(world: World) -> None:
    subnet = world.network()
    front = [{"name": "front", "properties": {"subnet": {"id": subnet}}}]
    made = world.put(BALANCER, a_balancer(world, frontendIPConfigurations=front))
    assert made.body["properties"]["frontendIPConfigurations"][0]["properties"]["privateIPAddress"] == "10.0.1.4"
    assert world.delete(f"{NETWORK}/subnets/a").code == "InUseSubnetCannotBeDeleted"


def test_rules_of_a_load_balancer_refer_to_its_own_parts_and_have_their_own_port(world: World) -> None:
    world.network()
    world.put(PIP, an_address())
    world.wait()
    assert world.put(BALANCER, a_balancer(world, probes=[])).code == "InvalidResourceReference"
    rules = a_balancer(world)["properties"]["loadBalancingRules"]
    twice = [*rules, rules[0] | {"name": "again"}]
    answer = world.put(BALANCER, a_balancer(world, loadBalancingRules=twice))
    assert answer.code == "RulesUseSameFrontendPortProtocolAndIPConfig"
    assert world.put(BALANCER, a_balancer(world) | {"sku": {"name": "Basic"}}).status == 400


def test_a_write_to_what_is_going_is_refused(world: World) -> None:
    world.network()
    world.delete(NETWORK)
    answer = world.put(NETWORK, a_network())
    assert (answer.status, answer.code) == (409, "AnotherOperationInProgress")


def test_a_resource_cannot_move(world: World) -> None:
    world.network()
    answer = world.put(NETWORK, a_network() | {"location": "westus2"})
    assert (answer.status, answer.code) == (409, "InvalidResourceLocation")


def test_tags_are_changed_without_the_rest(world: World) -> None:
    world.network()
    tags = f"{world.below(NETWORK)}/providers/Microsoft.Resources/tags/default"
    for operation, given, left in (
        ("Merge", {"a": "1", "b": "2"}, {"a": "1", "b": "2"}),
        ("Delete", {"a": "1", "b": "other"}, {"b": "2"}),
        ("Replace", {"c": "3"}, {"c": "3"}),
    ):
        answer = world.send("PATCH", tags, {"operation": operation, "properties": {"tags": given}})
        assert (answer.status, answer.body["properties"]["tags"]) == (200, left)
    assert world.get(NETWORK).body["tags"] == {"c": "3"}
    patched = world.send("PATCH", world.below(NETWORK), {"tags": {"d": "4"}})
    assert patched.body["tags"] == {"c": "3", "d": "4"}


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"a/b": "c"}, "InvalidTagNameCharacters"),
        ({"a": "x" * 257}, "InvalidTagValueLength"),
        ({str(number): "" for number in range(51)}, "TooManyTags"),
    ],
)
def test_tags_keep_to_their_limits(world: World, tags: dict[str, str], code: str) -> None:
    assert world.put(NETWORK, a_network() | {"tags": tags}).code == code
