"""Microsoft.Network/loadBalancers: frontends, pools, probes and rules that fit together. They carry nothing."""

from collections.abc import Iterator

from anyscale_conformance.simulators.azure import interfaces
from anyscale_conformance.simulators.azure.errors import ArmError, bad_reference, invalid
from anyscale_conformance.simulators.azure.kinds import references, shown
from anyscale_conformance.simulators.azure.network import NetworkKind
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

PARTS = (
    "frontendIPConfigurations", "backendAddressPools", "probes", "loadBalancingRules", "inboundNatRules", "outboundRules",
    "inboundNatPools",
)  # fmt: skip
INNER = {
    "frontendIPConfiguration": "frontendIPConfigurations", "frontendIPConfigurations": "frontendIPConfigurations",
    "backendAddressPool": "backendAddressPools", "backendAddressPools": "backendAddressPools", "probe": "probes",
}  # fmt: skip
"""How rules refer to the balancer's own parts."""


@register
class LoadBalancer(NetworkKind):
    """A load balancer."""

    type = "Microsoft.Network/loadBalancers"
    shape = "network.LoadBalancer"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        super().check(at, request, body, old)
        properties: Body = body.setdefault("properties", {})
        if (body.get("sku") or {}).get("name", "Basic") == "Basic":
            # Basic load balancers were retired on 30 September 2025.
            raise invalid("Load balancers of the sku Basic can no longer be created. Use Standard.", code="BadRequest")
        for word in PARTS:
            names = [part.get("name") for part in properties.get(word) or ()]
            if None in names or len(set(names)) < len(names):
                raise invalid(f"The parts of {word} need different names.", code="DuplicateResourceName")
        for front in properties.get("frontendIPConfigurations") or ():
            _check_front(at, request, front)
        for rule in _rules(properties):
            for key, word in INNER.items():
                for id in references({key: rule.get(key)}, key):
                    names = [part["name"].lower() for part in properties.get(word) or ()]
                    start = f"{request.target.path}/{word}/".lower()
                    if not id.lower().startswith(start) or id.lower().removeprefix(start) not in names:
                        raise bad_reference(id, request.target.path)
        _check_ports(properties)
        for pool in properties.get("backendAddressPools") or ():
            _check_pool(at, request, pool)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        super().put(at, resource, old)
        properties = resource.properties
        fronts = ((old or {}).get("properties") or {}).get("frontendIPConfigurations") or ()
        before = {front["name"]: front["properties"].get("privateIPAddress") for front in fronts}
        for word in PARTS:
            for part in properties.setdefault(word, []):
                part["id"] = f"{resource.id}/{word}/{part['name']}"
                part["type"] = f"{self.type}/{word}"
                part.setdefault("properties", {})["provisioningState"] = "Succeeded"
        for front in properties["frontendIPConfigurations"]:
            inner = front["properties"]
            inner.setdefault("privateIPAllocationMethod", "Dynamic")
            if inner.get("subnet") and "privateIPAddress" not in inner:
                known = before.get(front["name"])
                inner["privateIPAddress"] = known or interfaces.free_address(at, inner["subnet"]["id"])

    def leave(self, at: Subscription, resource: Resource) -> None:
        for nic in at.all(interfaces.INTERFACES):
            for part in nic.properties["ipConfigurations"]:
                pools = part["properties"].get("loadBalancerBackendAddressPools")
                if pools:
                    part["properties"]["loadBalancerBackendAddressPools"] = [
                        pool for pool in pools if not pool["id"].lower().startswith(f"{resource.key}/")
                    ]

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for pool in resource.properties["backendAddressPools"]:
            for user in at.users(
                pool["id"], "Microsoft.Compute/virtualMachineScaleSets", "loadBalancerBackendAddressPools"
            ):
                raise ArmError(
                    400, "LoadBalancerInUseByVirtualMachineScaleSet",
                    f"Cannot delete load balancer {resource.id} since its child resources {pool['name']} are in use by virtual "
                    f"machine scale set {user.id}.",
                )  # fmt: skip

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        for pool in body["properties"]["backendAddressPools"]:
            members = [
                {"id": part["id"]}
                for nic in at.all(interfaces.INTERFACES)
                for part in nic.properties["ipConfigurations"]
                if pool["id"].lower()
                in (one["id"].lower() for one in part["properties"].get("loadBalancerBackendAddressPools") or ())
            ]
            if members:
                pool["properties"]["backendIPConfigurations"] = members
        return body


def _rules(properties: Body) -> Iterator[Body]:
    for word in ("loadBalancingRules", "inboundNatRules", "outboundRules"):
        for rule in properties.get(word) or ():
            yield rule.get("properties") or {}


def _check_front(at: Subscription, request: Request, front: Body) -> None:
    properties = front.get("properties") or {}
    if bool(properties.get("subnet")) == bool(properties.get("publicIPAddress")):
        raise invalid(
            f"Frontend IP configuration {front['name']} has to have either a subnet or a public address.",
            code="LoadBalancerFrontendIPConfigurationMustHaveSubnetOrPublicIP",
        )
    for id in references(properties, "publicIPAddress"):
        address = at.find(id)
        users = [] if address is None else list(interfaces.address_users(at, address))
        if any(not user.lower().startswith(f"{request.target.path.lower()}/") for user in users):
            raise invalid(
                f"Resource {request.target.path} is referencing public IP address {id} that is already allocated to resource "
                f"{users[0]}.", code="PublicIPAddressInUse",
            )  # fmt: skip


def _check_ports(properties: Body) -> None:
    seen: set[tuple[str, int, str]] = set()
    for rule in properties.get("loadBalancingRules") or ():
        inner = rule.get("properties") or {}
        for name, (low, high) in {"frontendPort": (0, 65534), "backendPort": (0, 65535)}.items():
            if inner.get(name) is not None and not low <= inner[name] <= high:
                raise invalid(
                    f"{name} of {rule['name']} has to be from {low} to {high}.", code="InvalidPort", target=name
                )
        front = str((inner.get("frontendIPConfiguration") or {}).get("id", "")).lower()
        if not front:
            raise invalid(
                f"Load balancing rule {rule['name']} has no frontend.", code="LoadBalancingRuleMustHaveFrontend"
            )
        place = (front, int(inner["frontendPort"]), str(inner["protocol"]).lower())
        if place in seen:
            raise invalid(
                f"Load balancing rules {rule['name']} and another use the same frontend port, protocol and frontend.",
                code="RulesUseSameFrontendPortProtocolAndIPConfig",
            )
        seen.add(place)


def _check_pool(at: Subscription, request: Request, pool: Body) -> None:
    properties = pool.get("properties") or {}
    whole = (properties.get("virtualNetwork") or {}).get("id")
    for one in properties.get("loadBalancerBackendAddresses") or ():
        inner = one.get("properties") or {}
        network = (inner.get("virtualNetwork") or {}).get("id") or whole
        if inner.get("ipAddress") and not (network or inner.get("subnet")):
            raise invalid(
                f"Backend address {one.get('name')} needs a virtual network besides its address.",
                code="LoadBalancerBackendAddressMustHaveVirtualNetwork",
            )
        if network and at.find(network) is None:
            raise bad_reference(network, request.target.path)
