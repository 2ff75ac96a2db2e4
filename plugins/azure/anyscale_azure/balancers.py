"""A way in as ARM wants and shows it: a Standard Load Balancer with the head behind it, by its address.

In a public network its front is an address of its own and a rule lets clients in; in a private one it is an address of the
subnet, and the network's own default lets in who is inside.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anyscale_azure import networks
from anyscale_azure import tags as tagging
from anyscale_azure.config import Settings
from anyscale_azure.networks import NSG, TAG_ENDPOINT
from anyscale_azure.tags import Stamp
from anyscale_core.errors import Conflict
from anyscale_core.models.networking import Endpoint, EndpointSpec, EndpointState, NetworkMode
from anyscale_core.models.owner import TAG_NAME, Owner

LB = "Microsoft.Network/loadBalancers"
PIP = "Microsoft.Network/publicIPAddresses"
PRIORITIES = range(200, 4000)
"""Numbers of our rules in a security group: each is there once, and others may stand before and after ours."""
TAG_GOING = f"{tagging.PREFIX}going"
TAG_PAST = f"{tagging.PREFIX}past"
PAST_MAX = 14
"""So many tokens fit in a tag."""


def path_of(spec: EndpointSpec, settings: Settings) -> str:
    """Return the path of a way in."""
    return settings.resource(LB, tagging.named(spec.name, spec.owner))


def address_path(spec: EndpointSpec, settings: Settings) -> str:
    """Return the path of a public way in's address."""
    return settings.resource(PIP, tagging.named(spec.name, spec.owner))


def rule_name(name: str, owner: Owner) -> str:
    """Return the name of the rule that lets clients in to a way in."""
    return tagging.named(name, owner)


def render(
    spec: EndpointSpec, stamp: Stamp, record: Mapping[str, Any], settings: Settings, *, before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the body of a way in to a head: one front, one head behind, one port."""
    path = path_of(spec, settings)
    is_open = networks.mode_of(record) is NetworkMode.PUBLIC
    subnet = networks.subnets_of(record, settings)[0]
    front: dict[str, Any] = (
        {"publicIPAddress": {"id": address_path(spec, settings)}}
        if is_open
        else {"subnet": {"id": subnet}, "privateIPAllocationMethod": "Dynamic"}
    )
    port = spec.target_port
    behind = {"ipAddress": spec.target_address, "virtualNetwork": {"id": networks.vnet_path(record, settings)}}
    return {
        "location": settings.location,
        "tags": _tags(spec, stamp, record, before),
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "frontendIPConfigurations": [{"name": "front", "properties": front}],
            "backendAddressPools": [
                {"name": "head", "properties": {"loadBalancerBackendAddresses": [{"name": "head", "properties": behind}]}}
            ],
            "probes": [{"name": "alive", "properties": {"protocol": "Tcp", "port": port, "intervalInSeconds": 5}}],
            "loadBalancingRules": [
                {
                    "name": "in",
                    "properties": {
                        "protocol": "Tcp", "frontendPort": port, "backendPort": port, "idleTimeoutInMinutes": 30,
                        "enableTcpReset": True,
                        # The head calls out by the subnet's own way.
                        "disableOutboundSnat": True,
                        "frontendIPConfiguration": {"id": f"{path}/frontendIPConfigurations/front"},
                        "backendAddressPool": {"id": f"{path}/backendAddressPools/head"},
                        "probe": {"id": f"{path}/probes/alive"},
                    },
                }
            ],
        },
    }  # fmt: skip


def address_of(spec: EndpointSpec, settings: Settings) -> dict[str, Any]:
    """Return the body of a public address. Its tags are the same for every order of its way in, and so is it."""
    tags = {**spec.owner.tags(), TAG_NAME: spec.name, TAG_ENDPOINT: spec.network}
    return {
        "location": settings.location,
        "tags": tags,
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
    }


def let_go(way: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a way in that has no front any more, and says that it goes."""
    return {
        "location": way["location"],
        "tags": {**(way.get("tags") or {}), TAG_GOING: "yes"},
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "frontendIPConfigurations": [],
            "backendAddressPools": [],
            "probes": [],
            "loadBalancingRules": [],
        },
    }


def rule_of(spec: EndpointSpec, group: Mapping[str, Any], settings: Settings) -> dict[str, Any] | None:
    """Return the body of the rule that lets clients in; None when it stands. Raises Conflict when no number is free."""
    name = rule_name(spec.name, spec.owner)
    rules = {
        str(rule["name"]): rule.get("properties", {}) for rule in group.get("properties", {}).get("securityRules") or ()
    }
    wanted: dict[str, Any] = {
        "access": "Allow", "direction": "Inbound", "protocol": "Tcp",
        "sourceAddressPrefix": settings.inbound_from, "sourcePortRange": "*",
        "destinationAddressPrefix": spec.target_address, "destinationPortRange": str(spec.target_port),
    }  # fmt: skip
    mine = rules.get(name)
    if mine is not None and all(str(mine.get(key)) == value for key, value in wanted.items()):
        return None
    taken = {
        rule.get("priority") for other, rule in rules.items() if other != name and rule.get("direction") == "Inbound"
    }
    start = int(tagging.digest(name), 16) % len(PRIORITIES)
    order = (*PRIORITIES[start:], *PRIORITIES[:start])
    number = mine.get("priority") if mine else next((number for number in order if number not in taken), None)
    if number is None:
        raise Conflict("the security group has no number left for a rule", reason="IN_USE", hint="withdraw endpoints")
    return {"properties": {**wanted, "priority": number}}


def rule_path(thing: Mapping[str, Any], settings: Settings) -> str:
    """Return the path of the rule that belongs to a way in or to its address."""
    tags = tagging.shown(thing.get("tags"))
    owner = tagging.owner_of(tags)
    group = settings.resource(NSG, tagging.named(_network(thing), owner))
    return f"{group}/securityRules/{rule_name(tags.get(TAG_NAME, ''), owner)}"


def is_public(way: Mapping[str, Any]) -> bool:
    """Tell whether a way in has, or has had, an address of its own."""
    fronts = way.get("properties", {}).get("frontendIPConfigurations") or ()
    return not fronts or "publicIPAddress" in fronts[0].get("properties", {})


def is_going(way: Mapping[str, Any]) -> bool:
    """Tell whether a way in is being taken down."""
    state = str(way.get("properties", {}).get("provisioningState", "")).lower()
    return state == "deleting" or TAG_GOING in (way.get("tags") or {})


def network_key(thing: Mapping[str, Any], settings: Settings) -> str:
    """Return the path, in small letters, of the record of the network that a way in is in; empty for what is none."""
    network = _network(thing)
    owner = tagging.owner_of(tagging.shown(thing.get("tags")))
    return settings.resource(NSG, tagging.named(network, owner)).lower() if network else ""


def view(thing: Mapping[str, Any], addresses: Mapping[str, Mapping[str, Any]]) -> Endpoint:
    """Return a way in as the core knows it. An address whose load balancer is gone already is one that goes."""
    tags = tagging.shown(thing.get("tags"))
    name, owner = tags.get(TAG_NAME, ""), tagging.owner_of(tags)
    properties = thing.get("properties", {})
    fronts: Sequence[Any] = properties.get("frontendIPConfigurations") or ()
    if is_going(thing) or not fronts:
        return Endpoint(name=name, owner=owner, state=EndpointState.DELETING)
    front = fronts[0].get("properties", {})
    rules: Sequence[Any] = properties.get("loadBalancingRules") or ()
    public = addresses.get(str((front.get("publicIPAddress") or {}).get("id", "")).lower(), {})
    host = front.get("privateIPAddress") or public.get("properties", {}).get("ipAddress") or ""
    is_there = str(properties.get("provisioningState", "")).lower() == "succeeded" and host and rules
    if not is_there:
        return Endpoint(name=name, owner=owner, state=EndpointState.PENDING)
    port = rules[0]["properties"]["frontendPort"]
    return Endpoint(name=name, owner=owner, state=EndpointState.READY, url=f"https://{host}:{port}")


def past(way: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens of a way in's orders that newer ones have taken the place of, as far back as a tag holds."""
    return tuple(str((way.get("tags") or {}).get(TAG_PAST, "")).split())


def _tags(
    spec: EndpointSpec, stamp: Stamp, record: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, str]:
    tags = tagging.written(spec.name, spec.owner, stamp, {})
    tags[TAG_ENDPOINT] = tagging.shown(record.get("tags")).get(TAG_NAME, spec.network)
    if before is not None:
        tokens = (tagging.stamped(before.get("tags")).token, *past(before))
        tags[TAG_PAST] = " ".join(tokens[:PAST_MAX])
    return tags


def _network(thing: Mapping[str, Any]) -> str:
    tags: Mapping[str, str] = thing.get("tags") or {}
    return {key.lower(): value for key, value in tags.items()}.get(TAG_ENDPOINT, "")
