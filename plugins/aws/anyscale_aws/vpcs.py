"""VPCs part by part: what a network is made of, in which order it is made and removed, and what of it is there.

Every part carries the VPC's id as a tag, so what a call left half done is found again. Sources: VPC User Guide ("Delete your
VPC", "Gateway endpoints").
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws.client import Aws
from anyscale_aws.places import ADOPTED, NODES
from anyscale_aws.tags import digest, mapping, pairs, tagged
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.networking import NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner

TAG_ZONES = "anyscale-core-zones"
TAG_VPC = "anyscale-core-vpc"
"""On every part of a VPC of ours: its id."""
ZONES = 3
RANGE = ipaddress.IPv4Network("10.0.0.0/8")
VPC_BITS, SUBNET_BITS = 16, 4
"""A VPC is a /16 unless the spec says otherwise; a subnet a sixteenth of it."""
VPC_BITS_MAX = 24
"""So that its subnets are no smaller than the /28 that a subnet may be."""
ANYWHERE = "0.0.0.0/0"
SUBNETS_MAX = 7
"""Subnets whose ids fit into one tag."""


@attrs.frozen(kw_only=True)
class Plan:
    """A network that is wanted, with the marks of the call that wants it."""

    spec: NetworkSpec
    owner: Owner
    token: str
    print: str

    @classmethod
    def of(cls, spec: NetworkSpec, owner: Owner, token: str, print: str) -> "Plan":
        """Return the plan of a spec. Raises InvalidRequest for a range that is none."""
        if spec.cidr:
            try:
                ipaddress.IPv4Network(spec.cidr)
            except ValueError:
                raise _no_range(spec) from None
        if spec.subnets and spec.adopt is None:
            raise InvalidRequest(
                "subnets are those of a VPC that is adopted",
                reason="COMBINATION",
                resource=spec.name,
                hint="leave them out",
            )
        return cls(spec=spec, owner=owner, token=token, print=print)

    def tags(self, part: str, **own: str) -> dict[str, str]:
        """Return the tags of a part: it has a token of its own."""
        return tagged(self.spec.tags, self.owner, self.spec.name, token=digest(self.token, part), **own)


@attrs.define(kw_only=True)
class Parts:
    """What there is of a VPC. ``routes``: its main route table, once it has been asked for."""

    subnets: dict[str, str] = attrs.field(factory=dict)
    """By zone."""
    gateway: str = ""
    attached: bool = False
    storage: str = ""
    """The gateway endpoint of S3."""
    group: str = ""
    inside: bool = False
    """Whether nodes reach each other."""
    routes: str = ""
    routed: bool = False
    """Whether the main route table leads out through the gateway."""


def first_zones(aws: Aws, deadline: datetime) -> tuple[str, ...]:
    """Return the first zones of the region."""
    found = aws.request(
        "ec2", "describe_availability_zones", deadline, Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}]
    )
    return tuple(sorted(each["ZoneName"] for each in found["AvailabilityZones"]))[:ZONES]


def range_of(plan: Plan, taken: Sequence[str]) -> str:
    """Return the range of a new VPC.

    Raises Conflict(IN_USE) for one that overlaps another of ours, InvalidRequest for one of a size that VPCs do not have.
    """
    others = [ipaddress.IPv4Network(each) for each in taken]
    if plan.spec.cidr:
        wanted = ipaddress.IPv4Network(plan.spec.cidr)
        for other in others:
            if wanted.overlaps(other):
                raise Conflict(
                    f"{wanted} overlaps {other} of another network of this cloud", reason="IN_USE", resource=plan.spec.name,
                    hint="choose another range",
                )  # fmt: skip
        if not VPC_BITS <= wanted.prefixlen <= VPC_BITS_MAX:
            raise _no_range(plan.spec)
        return str(wanted)
    choices = list(RANGE.subnets(new_prefix=VPC_BITS))
    first = int(digest(plan.owner.plane, plan.owner.cloud, plan.spec.name), 16) % len(choices)
    for at in range(len(choices)):
        choice = choices[(first + at) % len(choices)]
        if not any(choice.overlaps(other) for other in others):
            return str(choice)
    raise Conflict(
        f"all of {RANGE} is taken by networks of this cloud", reason="IN_USE", hint="give the network a range"
    )


def _no_range(spec: NetworkSpec) -> InvalidRequest:
    return InvalidRequest(
        f"{spec.cidr!r} is not a range for a VPC", reason="FIELD", resource=spec.name,
        hint="give an IPv4 range from /16 to /24, such as 10.0.0.0/16",
    )  # fmt: skip


def add(aws: Aws, plan: Plan, cidr: str, zones: Sequence[str], deadline: datetime) -> tuple[str, dict[str, str]]:
    """Make a VPC; return its id and its tags."""
    tags = tagged(
        plan.spec.tags, plan.owner, plan.spec.name, token=plan.token, spec=plan.print, kind="network",
        mode=plan.spec.mode.value, zones=" ".join(zones),
    )  # fmt: skip
    found = aws.request(
        "ec2", "create_vpc", deadline, resource=plan.spec.name, CidrBlock=cidr,
        TagSpecifications=[{"ResourceType": "vpc", "Tags": pairs(tags)}],
    )  # fmt: skip
    return found["Vpc"]["VpcId"], tags


def complete(aws: Aws, plan: Plan, vpc: str, cidr: str, zones: Sequence[str], parts: Parts, deadline: datetime) -> None:
    """Make what a VPC has not got yet, the group of its nodes last."""
    _Builder(aws, plan, vpc, deadline).complete(cidr, zones, parts)


class _Builder:
    """Makes the parts of one VPC."""

    def __init__(self, aws: Aws, plan: Plan, vpc: str, deadline: datetime) -> None:
        self._aws, self._plan, self._vpc, self._deadline = aws, plan, vpc, deadline

    def complete(self, cidr: str, zones: Sequence[str], parts: Parts) -> None:
        ranges = list(ipaddress.ip_network(cidr).subnets(prefixlen_diff=SUBNET_BITS))
        for number, zone in enumerate(zones):
            if zone not in parts.subnets:
                parts.subnets[zone] = self._subnet(zone, str(ranges[number]))
        if not parts.routes and not (parts.routed and parts.storage):
            parts.routes = main_routes(self._aws, self._vpc, self._deadline)
        if self._plan.spec.mode is NetworkMode.PUBLIC:
            self._open(parts)
        if not parts.storage:
            self._ask("create_vpc_endpoint", "vpc-endpoint", "storage", VpcId=self._vpc, VpcEndpointType="Gateway",
                      ServiceName=f"com.amazonaws.{self._aws.region}.s3", RouteTableIds=[parts.routes],
                      ClientToken=digest(self._plan.token, "s3"))  # fmt: skip
        if not parts.group:
            where = " ".join(f"{zone}={subnet}" for zone, subnet in parts.subnets.items())
            parts.group = add_group(self._aws, self._plan, self._vpc, NODES, where, self._deadline)
        if not parts.inside:
            let_inside(self._aws, self._plan, parts.group, self._deadline)

    def _open(self, parts: Parts) -> None:
        if not parts.gateway:
            made = self._ask("create_internet_gateway", "internet-gateway", "gateway")
            parts.gateway = made["InternetGateway"]["InternetGatewayId"]
        if not parts.attached:
            self._request("attach_internet_gateway", InternetGatewayId=parts.gateway, VpcId=self._vpc)
        if not parts.routed:
            self._request(
                "create_route", RouteTableId=parts.routes, DestinationCidrBlock=ANYWHERE, GatewayId=parts.gateway
            )

    def _subnet(self, zone: str, cidr: str) -> str:
        made = self._ask(
            "create_subnet", "subnet", f"subnet {zone}", VpcId=self._vpc, AvailabilityZone=zone, CidrBlock=cidr
        )
        return str(made["Subnet"]["SubnetId"])

    def _ask(self, operation: str, kind: str, part: str, **fields: Any) -> Any:
        tags = self._plan.tags(part, vpc=self._vpc)
        return self._request(operation, TagSpecifications=[{"ResourceType": kind, "Tags": pairs(tags)}], **fields)

    def _request(self, operation: str, **fields: Any) -> Any:
        return self._aws.request("ec2", operation, self._deadline, resource=self._plan.spec.name, **fields)


def add_group(aws: Aws, plan: Plan, vpc: str, kind: str, subnets: str, deadline: datetime) -> str:
    """Make the group of a network's nodes; return its id. It lets nothing in yet."""
    own = {"kind": kind, "mode": plan.spec.mode.value, "subnets": subnets, "vpc": vpc}
    if kind == ADOPTED:
        tags = tagged(plan.spec.tags, plan.owner, plan.spec.name, token=plan.token, spec=plan.print, **own)
    else:
        tags = plan.tags("nodes", **own)
    made = aws.request(
        "ec2", "create_security_group", deadline, resource=plan.spec.name, VpcId=vpc,
        GroupName=f"ac-{plan.spec.name}-{plan.token[:8]}", Description=f"Nodes of {plan.owner.cloud}",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": pairs(tags)}],
    )  # fmt: skip
    return str(made["GroupId"])


def let_inside(aws: Aws, plan: Plan, group: str, deadline: datetime) -> None:
    """Let the nodes of a network reach each other. One that is there already is a success."""
    try:
        aws.request(
            "ec2", "authorize_security_group_ingress", deadline, resource=plan.spec.name, GroupId=group,
            IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}],
            TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": pairs(plan.tags("inside"))}],
        )  # fmt: skip
    except AlreadyExists:
        return


def adopt(aws: Aws, plan: Plan, deadline: datetime) -> dict[str, str]:
    """Make our group in the customer's VPC; return its tags. Raises NotFound(REFERENCE), and InvalidRequest for its subnets."""
    vpc = plan.spec.adopt or ""
    wanted = [{"Name": "vpc-id", "Values": [vpc]}]
    try:
        there = aws.request("ec2", "describe_vpcs", deadline, resource=vpc, VpcIds=[vpc])["Vpcs"]
    except NotFound as error:
        raise NotFound(f"there is no VPC {vpc}", reason="REFERENCE", resource=vpc, vendor=error.vendor) from error
    if not there:
        raise NotFound(f"there is no VPC {vpc}", reason="REFERENCE", resource=vpc)
    found = aws.request("ec2", "describe_subnets", deadline, resource=vpc, Filters=wanted)["Subnets"]
    by_id = {each["SubnetId"]: each["AvailabilityZone"] for each in found}
    missing = [subnet for subnet in plan.spec.subnets if subnet not in by_id]
    if missing or not by_id:
        raise InvalidRequest(
            f"the VPC {vpc} has no subnet{'' if not missing else ' ' + ', '.join(missing)}", reason="FIELD", resource=vpc,
            hint=f"its subnets are {', '.join(sorted(by_id)) or 'none: make one'}",
        )  # fmt: skip
    zones: dict[str, str] = {}
    for subnet in plan.spec.subnets or sorted(by_id):
        zones.setdefault(by_id[subnet], subnet)
    where = " ".join(f"{zone}={subnet}" for zone, subnet in sorted(zones.items())[:SUBNETS_MAX])
    group = add_group(aws, plan, vpc, ADOPTED, where, deadline)
    let_inside(aws, plan, group, deadline)
    return tagged(
        plan.spec.tags, plan.owner, plan.spec.name, token=plan.token, spec=plan.print, kind=ADOPTED,
        mode=plan.spec.mode.value, subnets=where, vpc=vpc,
    )  # fmt: skip


def read_parts(aws: Aws, vpc: str, deadline: datetime) -> Parts:
    """Return what there is of a VPC of ours."""
    mine = [{"Name": f"tag:{TAG_VPC}", "Values": [vpc]}]

    def ask(operation: str, kind: str, wanted: Any) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = aws.request("ec2", operation, deadline, resource=vpc, Filters=wanted)[kind]
        return found

    parts = Parts()
    for subnet in ask("describe_subnets", "Subnets", mine):
        parts.subnets[subnet["AvailabilityZone"]] = subnet["SubnetId"]
    for gateway in ask("describe_internet_gateways", "InternetGateways", mine):
        parts.gateway = gateway["InternetGatewayId"]
        parts.attached = any(each["VpcId"] == vpc for each in gateway.get("Attachments", ()))
    for end in ask("describe_vpc_endpoints", "VpcEndpoints", [{"Name": "vpc-id", "Values": [vpc]}]):
        if end["State"].lower() not in ("deleting", "deleted"):
            parts.storage = end["VpcEndpointId"]
    for group in ask(
        "describe_security_groups", "SecurityGroups", [*mine, {"Name": "tag:anyscale-core-kind", "Values": [NODES]}]
    ):
        parts.group = group["GroupId"]
        parts.inside = any(
            pair.get("GroupId") == group["GroupId"]
            for rule in group["IpPermissions"]
            for pair in rule["UserIdGroupPairs"]
        )
    for table in ask("describe_route_tables", "RouteTables", [{"Name": "vpc-id", "Values": [vpc]}]):
        if any(each.get("Main") for each in table["Associations"]):
            parts.routes = table["RouteTableId"]
            parts.routed = any(each.get("DestinationCidrBlock") == ANYWHERE for each in table["Routes"])
    return parts


def main_routes(aws: Aws, vpc: str, deadline: datetime) -> str:
    """Return the main route table of a VPC: made along with it."""
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "association.main", "Values": ["true"]}]
    found = aws.request("ec2", "describe_route_tables", deadline, resource=vpc, Filters=wanted)["RouteTables"]
    if not found:
        raise Conflict(f"the VPC {vpc} has no route table yet", reason="BUSY", resource=vpc)
    return str(found[0]["RouteTableId"])


def delete(aws: Aws, vpc: str, name: str, deadline: datetime) -> None:
    """Remove a VPC of ours in the order of its dependencies. Raises Conflict: IN_USE by instances, BUSY while parts still go."""
    interfaces = aws.request(
        "ec2", "describe_network_interfaces", deadline, resource=name, Filters=[{"Name": "vpc-id", "Values": [vpc]}]
    )["NetworkInterfaces"]
    if interfaces:
        raise Conflict(
            f"{name} is used by {len(interfaces)} network interfaces, such as {interfaces[0]['NetworkInterfaceId']}",
            reason="IN_USE", resource=name, hint="delete its instances first; theirs go when they have gone",
        )  # fmt: skip
    parts = read_parts(aws, vpc, deadline)

    def gone(operation: str, **fields: Any) -> None:
        try:
            aws.request("ec2", operation, deadline, resource=name, **fields)
        except NotFound:
            return

    steps: Iterable[Callable[[], None]] = (
        lambda: gone("delete_vpc_endpoints", VpcEndpointIds=[parts.storage]) if parts.storage else None,
        lambda: gone("delete_security_group", GroupId=parts.group) if parts.group else None,
        lambda: gone("detach_internet_gateway", InternetGatewayId=parts.gateway, VpcId=vpc) if parts.attached else None,
        lambda: gone("delete_internet_gateway", InternetGatewayId=parts.gateway) if parts.gateway else None,
        *((lambda subnet=subnet: gone("delete_subnet", SubnetId=subnet)) for subnet in parts.subnets.values()),
        lambda: gone("delete_vpc", VpcId=vpc),
    )
    try:
        for step in steps:
            step()
    except Conflict as error:
        if error.reason != "IN_USE":
            raise
        # Nothing of ours uses it any more: what AWS still takes down by itself does.
        raise Conflict(error.message, reason="BUSY", resource=name, vendor=error.vendor) from error


def delete_group(aws: Aws, vpc: str, tags: Mapping[str, str], deadline: datetime) -> None:
    """Let go of a VPC of the customer's: remove our group from it. Raises Conflict(IN_USE) while instances are in it."""
    wanted = [
        {"Name": "vpc-id", "Values": [vpc]},
        {"Name": "tag:anyscale-core-token", "Values": [tags["anyscale-core-token"]]},
    ]
    for group in aws.request("ec2", "describe_security_groups", deadline, Filters=wanted)["SecurityGroups"]:
        if mapping(group.get("Tags")).get("anyscale-core-kind") == ADOPTED:
            aws.request("ec2", "delete_security_group", deadline, GroupId=group["GroupId"])
