"""What a look over a VPC finds: each thing with its outcome and its remedy. Nothing is changed.

The limits are those that the platform's own verification uses: a VPC of /24 at least and /20 better, subnets of /28 and /24, two
zones, addresses by mode, nodes that reach each other, and no way in beyond what was asked for.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws.client import Aws
from anyscale_aws.places import subnets_of
from anyscale_aws.vpcs import ANYWHERE, TAG_VPC
from anyscale_core.models.networking import Check, CheckStatus, NetworkMode

FREE_FEW = 16
USUAL = frozenset({22, 443})
"""Ports that may be open to anybody without a warning."""


@attrs.frozen(kw_only=True)
class Seen:
    """What there is of a VPC, as EC2 shows it."""

    vpc: Mapping[str, Any]
    subnets: Sequence[Mapping[str, Any]]
    tables: Sequence[Mapping[str, Any]]
    ends: Sequence[Mapping[str, Any]]
    group: Mapping[str, Any] | None
    mode: NetworkMode


def look(
    aws: Aws, vpc: str, mode: NetworkMode, tags: Mapping[str, str], adopted: bool, deadline: datetime
) -> tuple[Check, ...]:
    """Look a network over."""

    def ask(operation: str, kind: str, **wanted: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        filters = [{"Name": key.replace("_", "-"), "Values": list(values)} for key, values in wanted.items()]
        found: Sequence[Mapping[str, Any]] = aws.request("ec2", operation, deadline, resource=vpc, Filters=filters)[
            kind
        ]
        return found

    subnets = ask("describe_subnets", "Subnets", vpc_id=[vpc])
    if adopted:
        ours = set(subnets_of(tags).values())
        subnets = [each for each in subnets if each["SubnetId"] in ours]
    kinds = {"tag:anyscale-core-kind": ["nodes", "adopted"], f"tag:{TAG_VPC}": [vpc]}
    groups = ask("describe_security_groups", "SecurityGroups", **kinds)
    seen = Seen(
        vpc=ask("describe_vpcs", "Vpcs", vpc_id=[vpc])[0], subnets=subnets,
        tables=ask("describe_route_tables", "RouteTables", vpc_id=[vpc]),
        ends=ask("describe_vpc_endpoints", "VpcEndpoints", vpc_id=[vpc]), group=groups[0] if groups else None, mode=mode,
    )  # fmt: skip
    return tuple(_all(seen))


def _all(seen: Seen) -> Iterator[Check]:
    yield _range(seen)
    yield _zones(seen)
    for subnet in seen.subnets:
        yield _subnet(subnet)
        yield _way_out(subnet, seen)
        yield _addresses(subnet, seen)
    yield from _group(seen)
    yield _storage(seen)


def _range(seen: Seen) -> Check:
    size = ipaddress.ip_network(seen.vpc["CidrBlock"]).prefixlen
    detail = f"the VPC's range is {seen.vpc['CidrBlock']}"
    status = CheckStatus.FAILED if size > 24 else CheckStatus.WARNING if size > 20 else CheckStatus.PASSED
    return _told("vpc.range", status, detail, "use a VPC of /20 or larger: every node takes an address")


def _zones(seen: Seen) -> Check:
    zones = sorted({each["AvailabilityZone"] for each in seen.subnets})
    status = CheckStatus.PASSED if len(zones) > 1 else CheckStatus.WARNING if zones else CheckStatus.FAILED
    remedy = "have subnets in two availability zones or more, so that a stockout of one is not the end"
    return _told("vpc.zones", status, f"subnets in {', '.join(zones) or 'no zone'}", remedy)


def _subnet(subnet: Mapping[str, Any]) -> Check:
    size = ipaddress.ip_network(subnet["CidrBlock"]).prefixlen
    free = int(subnet.get("AvailableIpAddressCount", 0))
    detail = f"{subnet['CidrBlock']} in {subnet['AvailabilityZone']} has {free} free addresses"
    few = size > 28 or free == 0
    status = CheckStatus.FAILED if few else CheckStatus.WARNING if size > 24 or free < FREE_FEW else CheckStatus.PASSED
    return _told(f"{subnet['SubnetId']}.addresses", status, detail, "use a subnet of /24 or larger, or free addresses")


def _way_out(subnet: Mapping[str, Any], seen: Seen) -> Check:
    table = _table(subnet["SubnetId"], seen.tables)
    out = next((each for each in (table or {}).get("Routes", ()) if each.get("DestinationCidrBlock") == ANYWHERE), None)
    name = f"{subnet['SubnetId']}.egress"
    if out is None:
        remedy = "route 0.0.0.0/0 to a NAT gateway, a transit gateway or (public networks) an internet gateway"
        return _told(
            name,
            CheckStatus.WARNING,
            "no route leads out of the VPC: nodes cannot reach the control plane by it",
            remedy,
        )
    through = out.get("GatewayId") or out.get("NatGatewayId") or out.get("TransitGatewayId") or "another gateway"
    if out.get("State") == "blackhole":
        return _told(
            name,
            CheckStatus.FAILED,
            f"the route out leads to {through}, which is gone",
            "route 0.0.0.0/0 to a gateway that exists",
        )
    return _told(name, CheckStatus.PASSED, f"0.0.0.0/0 goes through {through}", "")


def _addresses(subnet: Mapping[str, Any], seen: Seen) -> Check:
    table = _table(subnet["SubnetId"], seen.tables)
    gateway = any(str(each.get("GatewayId", "")).startswith("igw-") for each in (table or {}).get("Routes", ()))
    name = f"{subnet['SubnetId']}.mode"
    if seen.mode is NetworkMode.PUBLIC and not gateway:
        return _told(
            name,
            CheckStatus.FAILED,
            "a public network's subnet has no internet gateway",
            "route 0.0.0.0/0 to an internet gateway, or use mode private",
        )
    if seen.mode is NetworkMode.PRIVATE and subnet.get("MapPublicIpOnLaunch"):
        return _told(
            name,
            CheckStatus.WARNING,
            "a private network's subnet gives out public addresses",
            "turn auto-assign of public addresses off, or use mode public",
        )
    return _told(name, CheckStatus.PASSED, f"the subnet fits mode {seen.mode.value}", "")


def _group(seen: Seen) -> Iterator[Check]:
    group = seen.group
    if group is None:
        yield _told(
            "nodes.group",
            CheckStatus.FAILED,
            "the security group of the nodes is missing",
            "create the network again with its token",
        )
        return
    own = group["GroupId"]

    def whole(rules: Sequence[Mapping[str, Any]]) -> bool:
        return any(
            rule["IpProtocol"] == "-1" and any(pair.get("GroupId") == own for pair in rule["UserIdGroupPairs"])
            for rule in rules
        )

    inside = whole(group["IpPermissions"])
    yield _told(
        "nodes.inside", CheckStatus.PASSED if inside else CheckStatus.FAILED,
        "nodes reach each other" if inside else "nodes do not reach each other",
        f"let {own} in from itself, all protocols",
    )  # fmt: skip
    anywhere = any(
        rule["IpProtocol"] == "-1" and any(each["CidrIp"] == ANYWHERE for each in rule["IpRanges"])
        for rule in group["IpPermissionsEgress"]
    )
    out = anywhere or whole(group["IpPermissionsEgress"])
    yield _told(
        "nodes.outbound", CheckStatus.PASSED if out else CheckStatus.WARNING,
        "nodes may send" if out else "nodes may not send to each other", f"let {own} out to itself, all protocols",
    )  # fmt: skip
    wide = sorted(
        {
            int(rule.get("FromPort", -1))
            for rule in group["IpPermissions"]
            if any(each["CidrIp"] == ANYWHERE for each in rule["IpRanges"])
        }
    )
    unusual = [port for port in wide if port not in USUAL]
    yield _told(
        "nodes.inbound", CheckStatus.WARNING if unusual else CheckStatus.PASSED,
        f"open to anybody: {', '.join(map(str, wide)) or 'nothing'}", "close what clients do not need",
    )  # fmt: skip


def _storage(seen: Seen) -> Check:
    there = any(each["ServiceName"].endswith(".s3") and each["State"].lower() != "deleted" for each in seen.ends)
    detail = "S3 is reached without leaving the VPC" if there else "S3 is reached through the way out of the VPC"
    return _told(
        "vpc.s3",
        CheckStatus.PASSED if there else CheckStatus.WARNING,
        detail,
        "add a gateway endpoint of S3: it costs nothing",
    )


def _table(subnet: str, tables: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the route table of a subnet: its own, or the VPC's main one."""
    own = [t for t in tables if any(each.get("SubnetId") == subnet for each in t["Associations"])]
    main = [t for t in tables if any(each.get("Main") for each in t["Associations"])]
    return next(iter([*own, *main]), None)


def _told(id: str, status: CheckStatus, detail: str, remedy: str) -> Check:
    return Check(id=id, status=status, detail=detail, remedy="" if status is CheckStatus.PASSED else remedy)
