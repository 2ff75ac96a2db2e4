"""Networks as Compute Engine has them. They take no labels: their descriptions say whose they are.

A network of ours is a VPC network with one subnetwork, a rule that lets its own machines at each other, and, when it is
private, a router through which they reach out. One that was adopted is remembered by a health check of ours, which costs
nothing and checks nothing; the customer's, in a host project perhaps, is not touched.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.networking import NetworkMode
from anyscale_core.models.owner import Owner
from anyscale_gcp.compute import Compute
from anyscale_gcp.tags import Note, parse, render, resource_name

POOL = ipaddress.ip_network("10.0.0.0/8")
PREFIX_LENGTH = 20
"""Of a range that nobody chose: 4,092 machines."""
MTU = 1460
NETWORK_PATH = re.compile(
    r"(https://[^/]+/compute/v1/)?projects/(?P<project>[a-z][-a-z0-9.:]+)/global/networks/(?P<name>[a-z][-a-z0-9]*)"
)
SUBNET_PATH = re.compile(
    r"(https://[^/]+/compute/v1/)?projects/(?P<project>[a-z][-a-z0-9.:]+)/regions/(?P<region>[a-z0-9-]+)/subnetworks/"
    r"(?P<name>[a-z][-a-z0-9]*)"
)


@attrs.frozen(kw_only=True)
class Net:
    """A network of an owner: its note, where it is, and the subnetwork that machines go to."""

    note: Note
    own_name: str
    """What carries the note: the network itself, or the health check that remembers an adopted one."""
    path: str
    subnetwork: str
    number: str = ""
    """By which the cloud tells it from one of that name before or after it."""
    adopted: bool = False

    @property
    def part_name(self) -> str:
        """What its parts are called: no other network's are, also not those of one that has its name after it."""
        return part_name(self.note)

    @property
    def region(self) -> str:
        """Where its parts are that have a place."""
        return self.note.more.get("region", "")

    @property
    def mode(self) -> NetworkMode:
        """Whether nodes may have public addresses."""
        return NetworkMode(self.note.more.get("mode", NetworkMode.PRIVATE.value))

    @property
    def cidr(self) -> str:
        """Its range; empty for an adopted one."""
        return self.note.more.get("cidr", "")


def path_of(project: str, name: str) -> str:
    """Return what Compute Engine calls a network."""
    return f"projects/{project}/global/networks/{name}"


def subnet_path(project: str, region: str, name: str) -> str:
    """Return what Compute Engine calls a subnetwork."""
    return f"projects/{project}/regions/{region}/subnetworks/{name}"


def part_name(note: Note) -> str:
    """Return what the parts of the network with that note are called."""
    return resource_name(note.owner(), f"{note.name}\0{note.token}", shown=note.name)


def network_body(name: str, note: Note) -> dict[str, Any]:
    """Return the body of a network that has the subnetworks it is given and no others."""
    return {
        "name": name, "description": render(note), "autoCreateSubnetworks": False, "mtu": MTU,
        "routingConfig": {"routingMode": "REGIONAL"},
    }  # fmt: skip


def subnet_body(name: str, note: Note, *, network: str, cidr: str) -> dict[str, Any]:
    """Return the body of a subnetwork whose machines reach Google's APIs without public addresses."""
    return {
        "name": name, "description": render(note), "network": network, "ipCidrRange": cidr,
        "privateIpGoogleAccess": True, "stackType": "IPV4_ONLY",
    }  # fmt: skip


def inside_body(name: str, note: Note, *, network: str, cidr: str) -> dict[str, Any]:
    """Return the body of the rule that lets a network's machines at each other; all else that comes in is denied."""
    return {
        "name": name, "description": render(note), "network": network, "direction": "INGRESS", "priority": 1000,
        "sourceRanges": [cidr], "allowed": [{"IPProtocol": "all"}],
    }  # fmt: skip


def router_body(name: str, note: Note, *, network: str) -> dict[str, Any]:
    """Return the body of a router with a NAT, through which machines without public addresses reach out."""
    nat = {
        "name": name, "natIpAllocateOption": "AUTO_ONLY",
        "sourceSubnetworkIpRangesToNat": "ALL_SUBNETWORKS_ALL_IP_RANGES",
    }  # fmt: skip
    return {"name": name, "description": render(note), "network": network, "nats": [nat]}


def keeper_body(name: str, note: Note) -> dict[str, Any]:
    """Return the body of the health check that remembers an adopted network."""
    return {"name": name, "description": render(note), "type": "TCP", "tcpHealthCheck": {"port": 443}}


def find(compute: Compute, name: str, *, owner: Owner, region: str, deadline: datetime) -> Net | None:
    """Return a network of the owner's plane and cloud; None when there is none."""
    for kind, read in READERS.items():
        item = compute.find(kind, resource_name(owner, name), about=name, deadline=deadline)
        net = None if item is None else read(item, project=compute.project, region=region)
        if net is not None and attrs.evolve(owner, cluster=None).owns(net.note.tags):
            return net
    return None


def every(compute: Compute, owner: Owner, *, region: str, deadline: datetime) -> Iterator[Net]:
    """Yield every network of the owner's plane and cloud, each once, whichever cluster has it."""
    whole = attrs.evolve(owner, cluster=None)
    for kind, read in READERS.items():
        for item in compute.every(kind, deadline=deadline):
            net = read(item, project=compute.project, region=region)
            if net is not None and whole.owns(net.note.tags):
                yield net


def made(item: Mapping[str, Any], *, project: str, region: str) -> Net | None:
    """Return a network that we made; None for any other."""
    note = parse(item.get("description"))
    if note is None or note.more.get("kind") != "network":
        return None
    name = str(item["name"])
    return Net(
        note=note, own_name=name, path=path_of(project, name), number=str(item.get("id", "")),
        subnetwork=subnet_path(project, note.more.get("region", region), part_name(note)),
    )  # fmt: skip


def adopted(item: Mapping[str, Any], *, project: str, region: str) -> Net | None:  # noqa: ARG001 - of the same form as ``made``
    """Return the adopted network that a health check of ours remembers; None for any other."""
    note = parse(item.get("description"))
    if note is None or note.more.get("kind") != "adopted":
        return None
    return Net(
        note=note,
        own_name=str(item["name"]),
        path=note.more["network"],
        subnetwork=note.more["subnetwork"],
        number=str(item.get("id", "")),
        adopted=True,
    )


READERS: Mapping[str, Callable[..., Net | None]] = {"networks": made, "healthChecks": adopted}
"""What carries the notes of networks, and how it is read."""


def free_range(taken: Iterable[str], *, start: str) -> str:
    """Return a range that overlaps none of these; which one is tried first depends on ``start`` alone."""
    others = [ipaddress.ip_network(each) for each in taken if each]
    candidates = 2 ** (PREFIX_LENGTH - POOL.prefixlen)
    first = int.from_bytes(hashlib.sha256(start.encode()).digest()) % candidates
    size = 2 ** (32 - PREFIX_LENGTH)
    for step in range(candidates):
        at = int(POOL.network_address) + (first + step) % candidates * size
        found = ipaddress.ip_network((at, PREFIX_LENGTH))
        if not any(found.overlaps(other) for other in others):
            return str(found)
    raise InvalidRequest(f"{POOL} has no free range left", reason="FIELD", hint="delete networks, or choose a range")


def checked_range(cidr: str) -> str:
    """Return a range as Compute Engine writes it. Raises InvalidRequest for one that a subnetwork cannot have."""
    try:
        found = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise InvalidRequest(
            f"{cidr!r} is not an IPv4 range", reason="FIELD", hint="write it as 10.0.0.0/16"
        ) from error
    if found.prefixlen > 29:
        raise InvalidRequest(f"{cidr} is too small for a subnetwork", reason="FIELD", hint="use /29 or wider")
    return str(found)
