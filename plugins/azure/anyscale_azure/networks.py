"""A network as ARM wants and shows it. Its record is a network security group of ours: for an adopted one, too.

The group lies on the interfaces of our machines, not on the subnets: rules are exact, the customer's subnets stay as they
are, and a network can be taken down in one go.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure
from anyscale_azure.config import Settings
from anyscale_azure.machines import Place
from anyscale_azure.tags import Stamp
from anyscale_core.errors import Conflict, InvalidRequest, NotFound
from anyscale_core.models.networking import Endpoint, Network, NetworkMode, NetworkSpec
from anyscale_core.models.owner import TAG_NAME, Owner

VERSION = "2024-05-01"
"""The version of Microsoft.Network that requests are written for."""
NIC = "Microsoft.Network/networkInterfaces"
NSG = "Microsoft.Network/networkSecurityGroups"
VNET = "Microsoft.Network/virtualNetworks"
SUBNET = "nodes"
TAGS_VERSION = "2021-04-01"
"""The version of Microsoft.Resources that tags are merged by."""
TAG_MODE = f"{tagging.PREFIX}mode"
TAG_ADOPTS = f"{tagging.PREFIX}adopts"
"""On an adopted network's record: the path of each subnet, in parts that fit a tag: -0-0, -0-1, -1-0."""
TAG_ENDPOINT = f"{tagging.PREFIX}endpoint"
"""On what is a way in and no network of its own."""
PART = 250


def place_of(azure: Azure, network: str | None, owner: Owner, deadline: datetime) -> Place:
    """Return where the machines of a network go; without one, the subnet of the settings. Raises NotFound(REFERENCE)."""
    settings = azure.settings
    if network is None:
        if not settings.subnet_id:
            hint = "give the cloud a network, or set subnet_id"
            raise InvalidRequest("there is no network to put the instance in", reason="FIELD", hint=hint)
        return Place(subnet_id=settings.subnet_id)
    record = find(azure, network, owner, deadline)
    if record is None:
        raise NotFound(f"no network {network!r}", reason="REFERENCE", resource=network)
    return Place(
        subnet_id=subnets_of(record, settings)[0],
        security_group_id=str(record["id"]),
        has_address=mode_of(record) is NetworkMode.PUBLIC,
    )


def find(azure: Azure, name: str, owner: Owner, deadline: datetime) -> dict[str, Any] | None:
    """Return the record of a network of this plane and cloud, whichever of its clusters it belongs to."""
    if not tagging.is_name(name):
        return None
    path = azure.settings.resource(NSG, tagging.named(name, owner))
    try:
        record = dict(azure.send("GET", path, VERSION, deadline=deadline).body)
    except NotFound as error:
        if error.vendor is not None and error.vendor.code == "ResourceGroupNotFound":
            raise
        return None
    found = tagging.owner_of(tagging.shown(record.get("tags")))
    return record if tagging.is_same_cloud(found, owner) else None


def record_of(
    spec: NetworkSpec, owner: Owner, stamp: Stamp, settings: Settings, subnets: Iterable[str]
) -> dict[str, Any]:
    """Return the body of a network's record: a security group without a rule of its own, which lets nobody in."""
    tags = tagging.written(spec.name, owner, stamp, spec.tags)
    tags[TAG_MODE] = spec.mode.value
    for number, path in enumerate(subnets):
        for place in range(0, len(path), PART):
            tags[f"{TAG_ADOPTS}-{number}-{place // PART}"] = path[place : place + PART]
    return {"location": spec.region or settings.location, "tags": tags, "properties": {"securityRules": []}}


def vnet_of(spec: NetworkSpec, owner: Owner, stamp: Stamp, settings: Settings, cidr: str) -> dict[str, Any]:
    """Return the body of a virtual network with one subnet for the nodes, which may call out."""
    # New subnets cannot reach anything outside unless it is said; nodes have to reach the control plane.
    subnet = {"name": SUBNET, "properties": {"addressPrefix": cidr, "defaultOutboundAccess": True}}
    return {
        "location": spec.region or settings.location,
        "tags": tagging.written(spec.name, owner, stamp, spec.tags),
        "properties": {"addressSpace": {"addressPrefixes": [cidr]}, "subnets": [subnet]},
    }


def adopted_subnets(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of the subnets that a record adopts, in order; empty for a network that we made."""
    parts: dict[tuple[int, int], str] = {}
    for key, value in (record.get("tags") or {}).items():
        if key.lower().startswith(f"{TAG_ADOPTS}-"):
            number, place = key[len(TAG_ADOPTS) + 1 :].split("-")
            parts[int(number), int(place)] = value
    numbers = sorted({number for number, _ in parts})
    return tuple("".join(parts[key] for key in sorted(parts) if key[0] == number) for number in numbers)


def subnets_of(record: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    """Return the paths of a network's subnets."""
    return adopted_subnets(record) or (settings.resource(f"{VNET}/subnets", str(record["name"]), SUBNET),)


def vnet_path(record: Mapping[str, Any], settings: Settings) -> str:
    """Return the path of the virtual network that a record stands for."""
    return subnets_of(record, settings)[0].rpartition("/subnets/")[0]


def mode_of(record: Mapping[str, Any]) -> NetworkMode:
    """Return a network's mode."""
    found = {key.lower(): value for key, value in (record.get("tags") or {}).items()}
    return NetworkMode(found.get(TAG_MODE, NetworkMode.PRIVATE.value))


def view(record: Mapping[str, Any], settings: Settings, endpoints: Iterable[Endpoint] = ()) -> Network:
    """Return a network as the core knows it."""
    tags = tagging.shown(record.get("tags"))
    return Network(
        name=tags.get(TAG_NAME, ""),
        owner=tagging.owner_of(tags),
        id=vnet_path(record, settings),
        mode=mode_of(record),
        adopted=bool(adopted_subnets(record)),
        zones=settings.zones,
        endpoints=tuple(endpoints),
    )


def free_range(wanted: str, taken: Iterable[str]) -> str:
    """Return the range of a new network: the one that is asked for when nobody has it, else the first free one.

    Raises InvalidRequest(FIELD) for what is no range, Conflict(IN_USE) for one that overlaps another in the resource group.
    """
    others = [ipaddress.ip_network(cidr) for cidr in taken]
    if not wanted:
        candidates = (ipaddress.ip_network(f"10.{number}.0.0/16") for number in range(1, 256))
        free = next((c for c in candidates if not any(_overlap(c, other) for other in others)), None)
        if free is None:
            hint = "give the network a cidr, or delete networks"
            raise Conflict("no range of 10.0.0.0/8 is free", reason="IN_USE", hint=hint)
        return str(free)
    try:
        network = ipaddress.IPv4Network(wanted)
    except ValueError as error:
        hint = "write it like 10.0.0.0/16"
        raise InvalidRequest(f"{wanted!r} is not a range: {error}", reason="FIELD", hint=hint) from error
    overlap = next((other for other in others if _overlap(network, other)), None)
    if overlap is not None:
        raise Conflict(f"{network} overlaps {overlap}", reason="IN_USE", hint="use a free range")
    return str(network)


def ranges_of(vnets: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the ranges of virtual networks."""
    spaces = (vnet.get("properties", {}).get("addressSpace", {}).get("addressPrefixes") or () for vnet in vnets)
    return tuple(cidr for space in spaces for cidr in space)


@attrs.frozen(kw_only=True)
class Adopted:
    """A virtual network of the customer's, as it was found."""

    vnet: Mapping[str, Any]
    subnets: tuple[str, ...]


def adopt(azure: Azure, spec: NetworkSpec, deadline: datetime) -> Adopted:
    """Look at what is to be adopted. Raises InvalidRequest for what is no path of a network, NotFound for what is not there."""
    path = (spec.adopt or "").rstrip("/")
    words = path.lower().split("/")
    if len(words) != 9 or words[6:8] != ["microsoft.network", "virtualnetworks"] or words[1] != "subscriptions":
        hint = "give /subscriptions/.../resourceGroups/.../providers/Microsoft.Network/virtualNetworks/NAME"
        raise InvalidRequest(f"{spec.adopt!r} is no virtual network", reason="FIELD", hint=hint)
    vnet = azure.send("GET", path, VERSION, deadline=deadline).body
    have = {str(s["name"]).lower(): str(s["id"]) for s in vnet.get("properties", {}).get("subnets") or ()}
    wanted = spec.subnets or tuple(have)
    names = [subnet.rstrip("/").rpartition("/")[2].lower() for subnet in wanted]
    missing = [subnet for subnet, name in zip(wanted, names, strict=True) if name not in have]
    if missing or not wanted:
        hint = f"one of {', '.join(sorted(have)) or 'none: make a subnet first'}"
        raise NotFound(f"{path} has no subnet {', '.join(missing)}", reason="REFERENCE", resource=path, hint=hint)
    return Adopted(vnet=vnet, subnets=tuple(have[name] for name in names))


def _overlap(one: Any, other: Any) -> bool:
    return one.version == other.version and bool(one.overlaps(other))
