"""A look over a network: each thing that has to be so, how it is, and what to do about it."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from anyscale_azure import networks
from anyscale_azure.config import Settings
from anyscale_core.models.networking import Check, CheckStatus

RESERVED = 5
"""Azure keeps so many addresses of every subnet."""
LEAST, GOOD = 28, 24
"""A subnet smaller than /28 is refused work, one smaller than /24 is warned of."""
WORLD = frozenset({"*", "internet", "0.0.0.0/0", "any"})


def look_over(record: Mapping[str, Any], vnet: Mapping[str, Any] | None, settings: Settings) -> tuple[Check, ...]:
    """Return each thing looked at, with its remedy. ``vnet`` is None when it is not there."""
    path = networks.vnet_path(record, settings)
    if vnet is None:
        remedy = "make the network again, or adopt another one"
        return (Check(id="network.exists", status=CheckStatus.FAILED, detail=f"{path} is not there", remedy=remedy),)
    found = [Check(id="network.exists", status=CheckStatus.PASSED, detail=f"{path} is there")]
    found.append(_location(vnet, settings))
    found.append(_inbound(record))
    wanted = {each.lower() for each in networks.subnets_of(record, settings)}
    subnets = {str(s["id"]).lower(): s for s in vnet.get("properties", {}).get("subnets") or ()}
    for key in sorted(wanted):
        found += _subnet(key, subnets.get(key))
    return tuple(found)


def _location(vnet: Mapping[str, Any], settings: Settings) -> Check:
    where = str(vnet.get("location", "")).replace(" ", "").lower()
    if where == settings.location.replace(" ", "").lower():
        return Check(id="network.location", status=CheckStatus.PASSED, detail=f"it is in {where}")
    detail = f"it is in {where}, and machines are made in {settings.location}"
    remedy = f"adopt a network of {settings.location}"
    return Check(id="network.location", status=CheckStatus.FAILED, detail=detail, remedy=remedy)


def _inbound(record: Mapping[str, Any]) -> Check:
    """Look for rules that let anybody in everywhere; a way in has one for its own port alone."""
    rules = record.get("properties", {}).get("securityRules") or ()
    wide = [str(rule["name"]) for rule in rules if _is_wide(rule.get("properties", {}))]
    if not wide:
        return Check(
            id="network.inbound", status=CheckStatus.PASSED, detail="inbound is denied unless a way in asks for it"
        )
    detail = f"anybody is let in by {', '.join(wide)}"
    remedy = f"delete these rules of {record['name']}"
    return Check(id="network.inbound", status=CheckStatus.FAILED, detail=detail, remedy=remedy)


def _is_wide(rule: Mapping[str, Any]) -> bool:
    is_in = (rule.get("access"), rule.get("direction")) == ("Allow", "Inbound")
    source = str(rule.get("sourceAddressPrefix", "")).lower()
    target, port = str(rule.get("destinationAddressPrefix", "")), str(rule.get("destinationPortRange", ""))
    return is_in and source in WORLD and ("*" in (target, port) or "-" in port)


def _subnet(key: str, subnet: Mapping[str, Any] | None) -> Iterator[Check]:
    name = key.rpartition("/")[2]
    id = f"network.subnet.{name}"
    if subnet is None:
        yield Check(id=id, status=CheckStatus.FAILED, detail=f"the subnet {name} is not there", remedy="make it again")
        return
    properties = subnet.get("properties", {})
    yield _size(id, name, properties)
    yield _outbound(name, properties)


def _size(id: str, name: str, properties: Mapping[str, Any]) -> Check:
    prefixes = properties.get("addressPrefixes") or [properties.get("addressPrefix") or "0.0.0.0/32"]
    ranges = [ipaddress.ip_network(prefix) for prefix in prefixes]
    length = min(each.prefixlen for each in ranges if each.version == 4)
    room = max(sum(each.num_addresses for each in ranges) - RESERVED, 0)
    used = len(properties.get("ipConfigurations") or ())
    detail = f"{name} has {', '.join(prefixes)}; {used} of {room} addresses are taken"
    if length > LEAST or used >= room:
        return Check(id=id, status=CheckStatus.FAILED, detail=detail, remedy="use a larger subnet: /24, better /20")
    if length > GOOD:
        return Check(id=id, status=CheckStatus.WARNING, detail=detail, remedy="use a larger subnet: /24, better /20")
    return Check(id=id, status=CheckStatus.PASSED, detail=detail)


def _outbound(name: str, properties: Mapping[str, Any]) -> Check:
    id = f"network.outbound.{name}"
    ways = [what for what in ("natGateway", "routeTable") if properties.get(what)]
    if properties.get("defaultOutboundAccess", True):
        ways.append("Azure's default")
    if ways:
        return Check(id=id, status=CheckStatus.PASSED, detail=f"nodes in {name} call out by {', '.join(ways)}")
    detail = f"nodes in {name} cannot reach the control plane"
    remedy = "give the subnet a NAT gateway or a route to your firewall"
    return Check(id=id, status=CheckStatus.FAILED, detail=detail, remedy=remedy)
