"""Microsoft.Network: interfaces of machines and public addresses."""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import references, shown
from anyscale_conformance.simulators.azure.lifecycle import begin_delete
from anyscale_conformance.simulators.azure.network import RESERVED, SUBNETS, NetworkKind, prefix_of
from anyscale_conformance.simulators.azure.registry import KINDS, register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request, parse

INTERFACES = "Microsoft.Network/networkInterfaces"
ADDRESSES = "Microsoft.Network/publicIPAddresses"
MACHINES = "Microsoft.Compute/virtualMachines"
HELD = timedelta(seconds=180)
"""How long an interface is kept for a machine that could not be made."""


@register
class PublicAddress(NetworkKind):
    """A public address."""

    type = ADDRESSES
    shape = "network.PublicIPAddress"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        sku = (body.get("sku") or {}).get("name", "Basic")
        properties = body.get("properties") or {}
        if sku == "Basic":
            # Basic addresses were retired on 30 September 2025.
            raise invalid(
                "Cannot create more than 0 IPv4 Basic SKU public IP addresses for this subscription in this region.",
                code="IPv4BasicSkuPublicIpCountLimitReached",
            )
        if properties.get("publicIPAllocationMethod", "Dynamic") != "Static":
            raise invalid(
                f"Standard sku publicIp {request.target.path} must have AllocationMethod set to Static.",
                code="PublicIPAddressAllocationMethodNotSupportedForStandardSku",
            )  # fmt: skip
        count = sum(1 for _ in at.all(ADDRESSES))
        if old is None and count >= at.limit("PublicIPAddresses", ""):
            raise invalid(
                f"Cannot create more than {at.limit('PublicIPAddresses', '')} public IP addresses for this subscription in this "
                "region.", code="PublicIPCountLimitReached",
            )  # fmt: skip
        label = (properties.get("dnsSettings") or {}).get("domainNameLabel")
        for other in at.all(ADDRESSES) if label else ():
            if other is not old and (other.properties.get("dnsSettings") or {}).get("domainNameLabel") == label:
                raise invalid(
                    f"DNS record {label}.{body.get('location')}.cloudapp.azure.com is already used by another public IP.",
                    code="DnsRecordInUse",
                )

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        super().put(at, resource, old)
        if "ipAddress" not in resource.properties:
            resource.properties["ipAddress"] = (old or {}).get("properties", {}).get("ipAddress") or at.public_address()
        settings = resource.properties.get("dnsSettings")
        if settings and settings.get("domainNameLabel"):
            settings["fqdn"] = f"{settings['domainNameLabel']}.{resource.location}.cloudapp.azure.com"

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for user in address_users(at, resource):
            raise ArmError(
                400, "PublicIPAddressCannotBeDeleted",
                f"Public IP address {resource.id} can not be deleted since it is still allocated to resource {user}. In order "
                "to delete the public IP, disassociate/detach the Public IP address from the resource.",
            )  # fmt: skip

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        for user in address_users(at, resource):
            body["properties"]["ipConfiguration"] = {"id": user}
        return body


@register
class Interface(NetworkKind):
    """The interface of a machine, with its addresses in a subnet."""

    type = INTERFACES
    shape = "network.NetworkInterface"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        self.check_parts(at, request, body, old)
        if old is None:
            check_room(at, body)

    def check_parts(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        """Refuse what no interface can be, whether there is room for it or not. Raises ArmError."""
        super().check(at, request, body, old)
        configurations = (body.get("properties") or {}).get("ipConfigurations") or []
        if not configurations:
            raise invalid(
                f"Network Interface {request.target.path} must have one or more IP configurations.",
                code="NetworkInterfaceMustHaveIpConfiguration",
            )
        if len({part.get("name") for part in configurations}) < len(configurations):
            raise invalid("Names of IP configurations must be unique.", code="DuplicateResourceName")
        for part in configurations:
            _check_configuration(at, request, part, old)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        super().put(at, resource, old)
        before = {part["name"]: part for part in ((old or {}).get("properties") or {}).get("ipConfigurations") or ()}
        for part in resource.properties["ipConfigurations"]:
            part.setdefault("id", f"{resource.id}/ipConfigurations/{part['name']}")
            known = before.get(part["name"], {}).get("properties", {})
            properties = part["properties"]
            same = references(known, "subnet") == references(properties, "subnet")
            address = known.get("privateIPAddress") if same else None
            if "privateIPAddress" not in properties:
                properties["privateIPAddress"] = address or free_address(at, properties["subnet"]["id"])
            properties.setdefault("privateIPAllocationMethod", "Dynamic")
            properties.setdefault("primary", len(resource.properties["ipConfigurations"]) == 1)
            properties.setdefault("privateIPAddressVersion", "IPv4")
            properties["provisioningState"] = "Succeeded"

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for machine in at.users(resource.id, MACHINES, "networkInterfaces"):
            raise ArmError(
                400, "NicInUse",
                f"Network Interface {resource.id} is used by existing resource {machine.id}. In order to delete the network "
                "interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.",
            )  # fmt: skip
        held = resource.hidden.get("held")
        if held is not None and at.now() < held[1]:
            raise ArmError(
                400, "NicReservedForAnotherVm",
                f"Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide another nic(s) or "
                f"retry after 180 seconds. Reserved VM: {held[0]}",
            )  # fmt: skip

    def leave(self, at: Subscription, resource: Resource) -> None:
        for part in resource.properties["ipConfigurations"]:
            wanted = part["properties"].get("publicIPAddress") or {}
            how = (wanted.get("properties") or {}).get("deleteOption")
            address = at.find(str(wanted.get("id", "")))
            if address is not None and how == "Delete":
                begin_delete(at, KINDS[ADDRESSES.lower()], address)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        for machine in at.users(resource.id, MACHINES, "networkInterfaces"):
            body["properties"] |= {"virtualMachine": {"id": machine.id}, "primary": True}
        return body


def address_users(at: Subscription, address: Resource) -> Iterator[str]:
    """Yield the ids of what has a public address."""
    for type, word in (
        (INTERFACES, "ipConfigurations"),
        ("Microsoft.Network/loadBalancers", "frontendIPConfigurations"),
    ):
        for user in at.users(address.id, type, "publicIPAddress"):
            for part in user.properties.get(word) or ():
                if address.id.lower() in (id.lower() for id in references(part, "publicIPAddress")):
                    yield f"{user.id}/{word}/{part['name']}"
    for user in at.users(address.id, "Microsoft.Network/natGateways", "publicIpAddresses"):
        yield user.id


def free_address(at: Subscription, subnet_id: str) -> str:
    """Return the first free address of a subnet; of a simulator that boots machines, one of this machine. Raises ArmError."""
    subnet = at.find(subnet_id)
    assert subnet is not None
    if room(at, subnet) < 1:
        raise full(subnet, 1)
    if at.machines is not None:
        return at.machines.address()
    taken = taken_addresses(at, subnet)
    return next(host for host in usable(ipaddress.IPv4Network(prefix_of(subnet.body))) if host not in taken)


def room(at: Subscription, subnet: Resource) -> int:
    """Return how many addresses of a subnet are left."""
    if subnet.hidden.get("full"):
        return 0
    whole = ipaddress.IPv4Network(prefix_of(subnet.body))
    return whole.num_addresses - RESERVED - len(taken_addresses(at, subnet))


def check_room(at: Subscription, body: Any, *, count: int = 1) -> None:
    """Refuse ``count`` times the interfaces of a body that find no address in their subnets. Raises ArmError."""
    for id, each in Counter(references(body, "subnet")).items():
        subnet = at.find(id)
        if subnet is not None and room(at, subnet) < each * count:
            raise full(subnet, each * count)


def full(subnet: Resource, count: int) -> ArmError:
    """Return what a subnet without room says."""
    return invalid(
        f"Subnet {subnet.name} with address prefix {prefix_of(subnet.body)} does not have enough capacity for {count} IP "
        "addresses.", code="SubnetIsFull",
    )  # fmt: skip


def usable(whole: ipaddress.IPv4Network) -> Iterator[str]:
    """Yield the addresses of a range that Azure does not keep for itself."""
    first = int(whole.network_address)
    for number in range(first + 4, first + whole.num_addresses - 1):
        yield str(ipaddress.IPv4Address(number))


def taken_addresses(at: Subscription, subnet: Resource) -> set[str]:
    """Return the addresses of a subnet that somebody has."""
    found: set[str] = set()
    for type, word in (
        (INTERFACES, "ipConfigurations"),
        ("Microsoft.Network/loadBalancers", "frontendIPConfigurations"),
    ):
        for user in at.users(subnet.id, type, "subnet"):
            for part in user.properties.get(word) or ():
                properties = part.get("properties") or {}
                if subnet.id.lower() in (id.lower() for id in references(part, "subnet")):
                    found.add(str(properties.get("privateIPAddress", "")))
    return found - {""}


def _check_configuration(at: Subscription, request: Request, part: Body, old: Resource | None) -> None:
    properties = part.get("properties") or {}
    if not part.get("name") or not (properties.get("subnet") or {}).get("id"):
        raise invalid(
            f"IP configuration of {request.target.path} must have a name and a subnet.", code="SubnetNotProvided"
        )
    for id in references(part, "publicIPAddress"):
        address = at.find(id)
        users = [] if address is None else list(address_users(at, address))
        if any(not user.lower().startswith(f"{request.target.path.lower()}/") for user in users):
            raise invalid(
                f"Resource {request.target.path} is referencing public IP address {id} that is already allocated to resource "
                f"{users[0]}.", code="PublicIPAddressInUse",
            )  # fmt: skip
    wanted = properties.get("privateIPAddress")
    if properties.get("privateIPAllocationMethod") == "Static" and not wanted:
        raise invalid("A static allocation needs a private address.", code="PrivateIPAddressNotProvided")
    subnet = at.find(properties["subnet"]["id"])
    if subnet is None or subnet.type != SUBNETS:
        return
    mine = () if old is None else [p["properties"].get("privateIPAddress") for p in old.properties["ipConfigurations"]]
    if wanted and wanted not in mine and wanted in taken_addresses(at, subnet):
        raise invalid(
            f"IP configuration {parse(request.target.path).name}/{part['name']} is using the private IP address {wanted} which "
            "is already allocated to another resource.", code="PrivateIPAddressIsAllocated",
        )  # fmt: skip
