"""Microsoft.Network: virtual networks and their subnets, security groups, routes and NAT gateways."""

import ipaddress
from collections.abc import Iterable
from typing import Any, ClassVar

from anyscale_conformance.simulators.azure.errors import ArmError, bad_reference, invalid
from anyscale_conformance.simulators.azure.kinds import Kind, references, shown
from anyscale_conformance.simulators.azure.lifecycle import remove
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

SUBNETS = "Microsoft.Network/virtualNetworks/subnets"
RULES = "Microsoft.Network/networkSecurityGroups/securityRules"
RESERVED = 5
"""How many addresses of a subnet Azure keeps for itself."""
REFERENCES = {
    "subnet": "Microsoft.Network/virtualNetworks/subnets/join/action",
    "networkSecurityGroup": "Microsoft.Network/networkSecurityGroups/join/action",
    "publicIPAddress": "Microsoft.Network/publicIPAddresses/join/action",
    "publicIpAddresses": "Microsoft.Network/publicIPAddresses/join/action",
    "natGateway": "Microsoft.Network/natGateways/join/action",
    "routeTable": "Microsoft.Network/routeTables/join/action",
    "loadBalancerBackendAddressPools": "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
}
"""What bodies of this namespace refer to, and the action that is needed on it."""

DEFAULT_RULES = (
    ("AllowVnetInBound", 65000, "Inbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
    ("AllowAzureLoadBalancerInBound", 65001, "Inbound", "Allow", "AzureLoadBalancer", "*"),
    ("DenyAllInBound", 65500, "Inbound", "Deny", "*", "*"),
    ("AllowVnetOutBound", 65000, "Outbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
    ("AllowInternetOutBound", 65001, "Outbound", "Allow", "*", "Internet"),
    ("DenyAllOutBound", 65500, "Outbound", "Deny", "*", "*"),
)


class NetworkKind(Kind):
    """What every type of this namespace does: what it refers to must be there, and in the same region."""

    patch = "network.TagsObject"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        for id, _ in self.links(body):
            self.check_link(at, request, body, id)

    def check_link(self, at: Subscription, request: Request, body: Body, id: str) -> None:
        """Refuse a reference into nothing or into another region. Raises ArmError."""
        found = at.find(id)
        if found is None and id.lower().startswith(f"{request.target.path.lower()}/"):
            return  # to a part of itself
        if found is None and has_part(at, id):
            return
        if found is None or found.state == "Deleting":
            raise bad_reference(id, request.target.path)
        where = found if found.type != SUBNETS else at.find(id.rsplit("/", 2)[0])
        location = str(body.get("location", "")).replace(" ", "").lower()
        if where is not None and location and where.location != location:
            raise bad_reference(id, request.target.path)
        if any(one is not None and one.state in ("Creating", "Updating") for one in (found, where)):
            raise ArmError(
                409, "ReferencedResourceNotProvisioned",
                f"Cannot proceed with operation because resource {id} used by resource {request.target.path} is not in Succeeded "
                "state. Resource is in Updating state and the last operation that updated/is updating the resource is "
                "PutOperation.",
            )  # fmt: skip

    def links(self, body: Body) -> Iterable[tuple[str, str]]:
        for key, action in REFERENCES.items():
            for id in references(body, key):
                yield id, action

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        resource.properties.setdefault("resourceGuid", resource.made_at.strftime("00000000-0000-0000-0000-%f%f")[:36])


def has_part(at: Subscription, id: str) -> bool:
    """Tell whether an id names a part of a resource's own body: ``{load balancer}/backendAddressPools/{name}``."""
    above, word, name = id.rsplit("/", 2)
    owner = at.find(above)
    parts = [] if owner is None else owner.properties.get(word) or []
    return any(str(part.get("name", "")).lower() == name.lower() for part in parts)


@register
class VirtualNetwork(NetworkKind):
    """A network. Its subnets are resources of their own, which a put of the network replaces."""

    type = "Microsoft.Network/virtualNetworks"
    shape = "network.VirtualNetwork"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        prefixes = body.get("properties", {}).get("addressSpace", {}).get("addressPrefixes") or []
        if not prefixes:
            raise invalid(f"Virtual network {request.target.name} has no address space.", code="NoAddressSpace")
        space = [_range(prefix, request.target.path) for prefix in prefixes]
        wanted = body["properties"].get("subnets")
        taken: list[tuple[str, ipaddress.IPv4Network]] = []
        for subnet in wanted or ():
            if not subnet.get("name"):
                raise invalid("A subnet needs a name.", code="InvalidRequestFormat")
            _check_subnet(subnet["name"], prefix_of(subnet), space, taken)
        if old is None or wanted is None:
            return
        keep = {subnet["name"].lower() for subnet in wanted}
        for subnet in at.all(SUBNETS, below=f"{old.id}/"):
            if subnet.name.lower() not in keep:
                check_subnet_unused(at, subnet)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        super().put(at, resource, old)
        wanted = resource.properties.pop("subnets", None)
        if wanted is None:
            return
        keep = {subnet["name"].lower() for subnet in wanted}
        for subnet in tuple(at.all(SUBNETS, below=f"{resource.id}/")):
            if subnet.name.lower() not in keep:
                remove(at, subnet)
        for subnet in wanted:
            id = f"{resource.id}/subnets/{subnet['name']}"
            body = {"properties": dict(subnet.get("properties") or {})}
            if (found := at.find(id)) is not None:
                found.body = body
            else:
                at.make(id, SUBNETS, body)

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for subnet in at.all(SUBNETS, below=f"{resource.id}/"):
            check_subnet_unused(at, subnet)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        subnets = at.all(SUBNETS, below=f"{resource.id}/")
        body["properties"] |= {
            "subnets": [subnet_view(at, subnet) for subnet in subnets],
            "virtualNetworkPeerings": [], "enableDdosProtection": False,
        }  # fmt: skip
        return body


@register
class Subnet(NetworkKind):
    """A part of a network."""

    type = SUBNETS
    shape = "network.Subnet"
    patch = ""
    has_location = False

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        network_id = request.target.path.rsplit("/", 2)[0]
        network = at.find(network_id)
        assert network is not None
        space = [_range(prefix, network_id) for prefix in network.properties["addressSpace"]["addressPrefixes"]]
        others = [
            (other.name, _range(prefix_of(other.body), other.id))
            for other in at.all(SUBNETS, below=f"{network_id}/")
            if other is not old
        ]
        _check_subnet(request.target.name, prefix_of(body), space, others)
        if old is not None and prefix_of(body) != prefix_of(old.body) and list(users_of_subnet(at, old)):
            raise invalid(f"Subnet {old.name} is in use and cannot be updated.", code="InUsePrefixCannotBeDeleted")

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        resource.properties.setdefault("privateEndpointNetworkPolicies", "Disabled")
        resource.properties.setdefault("privateLinkServiceNetworkPolicies", "Enabled")

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        check_subnet_unused(at, resource)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        return subnet_view(at, resource)


@register
class SecurityGroup(NetworkKind):
    """A security group. Its rules are resources of their own, which a put of the group replaces."""

    type = "Microsoft.Network/networkSecurityGroups"
    shape = "network.NetworkSecurityGroup"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        seen: list[tuple[str, Body]] = []
        for rule in (body.get("properties") or {}).get("securityRules") or ():
            if not rule.get("name"):
                raise invalid("A security rule needs a name.", code="InvalidRequestFormat")
            check_rule(str(rule["name"]), rule.get("properties") or {}, seen)
            seen.append((rule["name"], rule["properties"]))

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        super().put(at, resource, old)
        wanted = resource.properties.pop("securityRules", None)
        if wanted is None and old is not None:
            wanted = []
        for rule in tuple(at.all(RULES, below=f"{resource.id}/")):
            at.drop(rule)
        for rule in wanted or ():
            at.make(f"{resource.id}/securityRules/{rule['name']}", RULES, {"properties": dict(rule["properties"])})

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for type in (SUBNETS, "Microsoft.Network/networkInterfaces"):
            for user in at.users(resource.id, type, "networkSecurityGroup"):
                raise ArmError(
                    400, "InUseNetworkSecurityGroupCannotBeDeleted",
                    f"Network security group {resource.id} cannot be deleted because it is in use by the following resources: "
                    f"{user.id}. In order to delete the Network security group, remove the association with the resource(s).",
                )  # fmt: skip

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        defaults = [
            {
                "id": f"{resource.id}/defaultSecurityRules/{name}", "name": name, "properties": {
                    "priority": priority, "direction": direction, "access": access, "protocol": "*",
                    "sourceAddressPrefix": source, "destinationAddressPrefix": destination, "sourcePortRange": "*",
                    "destinationPortRange": "*", "provisioningState": "Succeeded",
                },
            }
            for name, priority, direction, access, source, destination in DEFAULT_RULES
        ]  # fmt: skip
        rules = [shown(rule) for rule in at.all(RULES, below=f"{resource.id}/")]
        body["properties"] |= {"securityRules": rules, "defaultSecurityRules": defaults}
        return body


@register
class SecurityRule(NetworkKind):
    """One rule of a security group."""

    type = RULES
    shape = "network.SecurityRule"
    patch = ""
    has_location = False

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        group = request.target.path.rsplit("/", 2)[0]
        others = [(rule.name, rule.properties) for rule in at.all(RULES, below=f"{group}/") if rule is not old]
        check_rule(request.target.name, body.get("properties") or {}, others)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        pass


@register
class RouteTable(NetworkKind):
    """A table of routes."""

    type = "Microsoft.Network/routeTables"
    shape = "network.RouteTable"
    used_as: ClassVar[str] = "routeTable"
    in_use: ClassVar[str] = "InUseRouteTableCannotBeDeleted"

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for user in at.users(resource.id, SUBNETS, self.used_as):
            raise ArmError(400, self.in_use, f"{resource.id} cannot be deleted because it is in use by {user.id}.")


@register
class NatGateway(RouteTable):
    """A gateway for traffic that goes out."""

    type = "Microsoft.Network/natGateways"
    shape = "network.NatGateway"
    used_as = "natGateway"
    in_use = "InUseNatGatewayCannotBeDeleted"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        if str((body.get("sku") or {}).get("name", "")).lower() not in ("standard", "standardv2"):
            raise invalid(f"NAT gateway {request.target.path} needs the sku Standard.", code="InvalidNatGatewaySku")

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        body["properties"]["subnets"] = [{"id": user.id} for user in at.users(resource.id, SUBNETS, "natGateway")]
        return body


def check_rule(name: str, rule: Body, others: Iterable[tuple[str, Body]]) -> None:
    """Refuse a rule that is none, or has the place of another. Raises ArmError."""
    for field in ("protocol", "access", "direction", "priority"):
        if rule.get(field) in (None, ""):
            raise invalid(
                f"Security rule {name} has no {field}.",
                code="SecurityRuleParameterContainsUnsupportedValue",
                target=field,
            )
    if not isinstance(rule["priority"], int) or not 100 <= rule["priority"] <= 4096:
        raise invalid(
            f"Security rule has invalid Priority. Value provided: {rule['priority']} Allowed range 100-4096.",
            code="SecurityRuleInvalidPriority",
        )
    for end in ("source", "destination"):
        if not any(
            rule.get(f"{end}{word}") for word in ("AddressPrefix", "AddressPrefixes", "ApplicationSecurityGroups")
        ):
            raise invalid(
                f"Security rule {name} has no {end} address prefix.",
                code="SecurityRuleMissingAddressPrefix",
                target=name,
            )
        if not any(rule.get(f"{end}{word}") for word in ("PortRange", "PortRanges")):
            raise invalid(
                f"Security rule {name} has no {end} port range.", code="SecurityRuleInvalidPortRange", target=name
            )
    if name in (default for default, *_ in DEFAULT_RULES):
        raise invalid(
            f"Security rule {name} conflicts with rule {name}. Rules cannot have the same name as a default rule.",
            code="SecurityRuleConflict",
        )
    for other, known in others:
        if (known.get("priority"), known.get("direction")) == (rule["priority"], rule["direction"]):
            raise invalid(
                f"Security rule {name} conflicts with rule {other}. Rules cannot have the same Priority and Direction.",
                code="SecurityRuleConflict",
            )


def prefix_of(subnet: Body) -> str:
    """Return the range of a subnet's body."""
    properties: dict[str, Any] = subnet.get("properties") or {}
    several = properties.get("addressPrefixes") or [""]
    return str(properties.get("addressPrefix") or several[0])


def subnet_view(at: Subscription, subnet: Resource) -> Body:
    """Return what a GET shows of a subnet, with what is in it."""
    body = shown(subnet)
    used = [{"id": id} for id in users_of_subnet(at, subnet)]
    if used:
        body["properties"]["ipConfigurations"] = used
    return body


def users_of_subnet(at: Subscription, subnet: Resource) -> Iterable[str]:
    """Yield the ids of the address configurations in a subnet."""
    for type, word in (
        ("Microsoft.Network/networkInterfaces", "ipConfigurations"),
        ("Microsoft.Network/loadBalancers", "frontendIPConfigurations"),
    ):
        for user in at.users(subnet.id, type, "subnet"):
            for part in user.properties.get(word) or ():
                if subnet.id.lower() in (id.lower() for id in references(part, "subnet")):
                    yield f"{user.id}/{word}/{part['name']}"


def check_subnet_unused(at: Subscription, subnet: Resource) -> None:
    """Refuse to delete a subnet that something is in. Raises ArmError."""
    for user in users_of_subnet(at, subnet):
        raise ArmError(
            400, "InUseSubnetCannotBeDeleted",
            f"Subnet {subnet.name} is in use by {user} and cannot be deleted. In order to delete the subnet, delete all the "
            "resources within the subnet. See aka.ms/deletesubnet.",
        )  # fmt: skip


def _range(text: str, of: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        raise invalid(
            f"Address prefix string {text} for resource {of} is not correctly formatted. It should follow CIDR notation, for "
            "example 10.0.0.0/24.", code="InvalidCIDRNotation",
        )  # fmt: skip


def _check_subnet(
    name: str, prefix: str, space: list[ipaddress.IPv4Network], others: list[tuple[str, ipaddress.IPv4Network]]
) -> None:
    wanted = _range(prefix, name)
    if not any(wanted.subnet_of(whole) for whole in space):
        raise invalid(f"Subnet '{name}' is not valid in virtual network.", code="NetcfgSubnetRangeOutsideVnet")
    for other, taken in others:
        if wanted.overlaps(taken):
            raise invalid(
                f"Subnet '{name}' is not valid because its IP address range overlaps with that of an existing subnet "
                f"'{other}'.", code="NetcfgSubnetRangesOverlap",
            )  # fmt: skip
    if wanted.prefixlen > 29:
        raise invalid(f"Subnet '{name}' with range {prefix} is too small.", code="InvalidSubnetSize")
    others.append((name, wanted))
