"""Ways in to heads. Each is a security group of its own, whose tags are its record; what it opens depends on the setting.

``address``: the group lets clients reach the head's port and is put on the head's interface. ``nlb``: the group is on a network
load balancer, which alone may reach the head's port through the group of the nodes.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws.client import Aws
from anyscale_aws.config import Settings
from anyscale_aws.config import Way as Kind
from anyscale_aws.places import TAG_SPENT, WAY, Network, read_network
from anyscale_aws.tags import (
    TAG_NAME,
    TAG_SPEC,
    TAG_TOKEN,
    digest,
    filters,
    fingerprint,
    mapping,
    owner_of,
    pairs,
    tagged,
)
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Endpoint, EndpointSpec, EndpointState, NetworkMode
from anyscale_core.models.owner import Owner

TAG_NETWORK = "anyscale-core-network"
TAG_TARGET = "anyscale-core-target"
"""``address:port``."""
TAG_STATE = "anyscale-core-state"
TAG_WAY = "anyscale-core-way"
SPENT_MAX = 19
"""Digests of tokens that fit into one tag."""
SPENT_DIGITS = 12
DELETING = "deleting"
PORT = 443
"""What a load balancer listens on."""
PAGE = 1000


@attrs.frozen(kw_only=True)
class Way:
    """A way in with the network that it is in."""

    endpoint: Endpoint
    network: str


@attrs.frozen(kw_only=True)
class Record:
    """A way in as its group tells."""

    group: str
    vpc: str
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.tags.get(TAG_NAME, "")

    @property
    def address(self) -> str:
        """Where it leads."""
        return self.tags.get(TAG_TARGET, "").rpartition(":")[0]

    @property
    def port(self) -> int:
        """On which port."""
        return int(self.tags.get(TAG_TARGET, ":0").rpartition(":")[2])

    @property
    def way(self) -> Kind:
        """By which means; what it was made with, whatever the settings say now."""
        return Kind(self.tags.get(TAG_WAY, Kind.ADDRESS.value))

    @property
    def spent(self) -> tuple[str, ...]:
        """Digests of the tokens that led it elsewhere before."""
        return tuple(self.tags.get(TAG_SPENT, "").split())

    @property
    def balancer(self) -> str:
        """What its load balancer and its target group are called: at most 32 characters."""
        owner = owner_of(self.tags)
        return f"ac-{digest(owner.plane, owner.cloud, self.name)}"


class Endpoints:
    """The ways in of one cloud."""

    def __init__(self, aws: Aws, settings: Settings) -> None:
        self._aws, self._settings = aws, settings

    def of(self, owner: Owner, network: str, deadline: datetime) -> tuple[Way, ...]:
        """Return the ways in to a network."""
        groups = self._groups(filters(owner), deadline, network=network)
        return self.shown(groups, deadline)

    def shown(self, groups: Sequence[Mapping[str, Any]], deadline: datetime) -> tuple[Way, ...]:
        """Return ways in as they stand."""
        records = [_record(group) for group in groups]
        balanced = [record for record in records if record.way is Kind.NLB]
        balancers = self._balancers(deadline) if balanced else {}
        return tuple(
            Way(endpoint=self._show(record, balancers, deadline), network=record.tags.get(TAG_NETWORK, ""))
            for record in records
        )

    def expose(self, spec: EndpointSpec, token: str, deadline: datetime) -> Endpoint:
        """Make a way in, or move it to a new target."""
        _check(spec)
        cloud = attrs.evolve(spec.owner, cluster=None)
        network = read_network(self._aws, cloud, spec.network, deadline)
        print = fingerprint(spec)
        record = self._there(spec, token, print, deadline)
        if record is None:
            if token[:SPENT_DIGITS] in network.spent:
                raise Conflict(
                    f"what this token made, {spec.name}, has been withdrawn", reason="TOKEN_SPENT", resource=spec.name
                )
            record = self._add(spec, token, print, network, deadline)
        elif record.tags.get(TAG_TOKEN) != token and token[:SPENT_DIGITS] not in record.spent:
            record = self._ordered(record, spec, token, print, deadline)
        self._open(record, network, deadline)
        balancers = self._balancers(deadline) if record.way is Kind.NLB else {}
        return self._show(record, balancers, deadline)

    def withdraw(self, name: str, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to take a way in down."""
        found = [_record(group) for group in self._groups(filters(owner), deadline, name=name)]
        if not found:
            return Deletion.ALREADY_ABSENT
        return max((self._remove(record, deadline) for record in found), key=lambda each: each is Deletion.GOING)

    # What is there --------------------------------------------------------------------------------------------------

    def _groups(
        self, wanted: list[dict[str, Any]], deadline: datetime, *, name: str = "", network: str = ""
    ) -> list[Mapping[str, Any]]:
        narrower = {TAG_NAME: name, TAG_NETWORK: network}
        asked = [*wanted, {"Name": "tag:anyscale-core-kind", "Values": [WAY]}]
        asked += [{"Name": f"tag:{key}", "Values": [value]} for key, value in narrower.items() if value]
        pages = self._aws.pages(
            "ec2", "describe_security_groups", deadline, next=("NextToken", "NextToken"), Filters=asked, MaxResults=PAGE
        )
        return [group for page in pages for group in page["SecurityGroups"]]

    def _there(self, spec: EndpointSpec, token: str, print: str, deadline: datetime) -> Record | None:
        """Return the way in of that name, if any. Raises AlreadyExists for another cluster's, Conflict for a used token."""
        cloud = attrs.evolve(spec.owner, cluster=None)
        found = None
        for record in map(_record, self._groups(filters(cloud), deadline)):
            same = record.name == spec.name and record.tags.get(TAG_SPEC) == print
            if record.tags.get(TAG_TOKEN) == token and not same:
                raise Conflict(
                    f"the token has made the endpoint {record.name} otherwise",
                    reason="TOKEN_MISMATCH",
                    resource=spec.name,
                )
            if record.name == spec.name:
                found = record
        if found is not None and not spec.owner.owns(found.tags):
            raise AlreadyExists(
                f"there is an endpoint {spec.name}", reason="OWNED", resource=spec.name, hint="choose another name"
            )
        if found is not None and found.tags.get(TAG_STATE) == DELETING:
            raise Conflict(f"the endpoint {spec.name} is being taken down", reason="BEING_DELETED", resource=spec.name)
        return found

    def _balancers(self, deadline: datetime) -> dict[str, Mapping[str, Any]]:
        """Return the network load balancers of the region, by name."""
        pages = self._aws.pages("elbv2", "describe_load_balancers", deadline, next=("NextMarker", "Marker"))
        return {each["LoadBalancerName"]: each for page in pages for each in page["LoadBalancers"]}

    def _show(self, record: Record, balancers: Mapping[str, Mapping[str, Any]], deadline: datetime) -> Endpoint:
        owner = owner_of(record.tags)
        if record.tags.get(TAG_STATE) == DELETING:
            return Endpoint(name=record.name, owner=owner, state=EndpointState.DELETING)
        host = self._balanced(record, balancers, deadline) if record.way is Kind.NLB else self._direct(record, deadline)
        state = EndpointState.READY if host else EndpointState.PENDING
        return Endpoint(name=record.name, owner=owner, state=state, url=f"https://{host}" if host else "")

    def _balanced(self, record: Record, balancers: Mapping[str, Mapping[str, Any]], deadline: datetime) -> str:
        """Return the name of a load balancer that is active and finds its target healthy; empty otherwise."""
        balancer = balancers.get(record.balancer)
        if balancer is None or balancer["State"]["Code"] != "active":
            return ""
        group = self._target_group(record, deadline)
        if group is None:
            return ""
        found = self._elb("describe_target_health", deadline, TargetGroupArn=group["TargetGroupArn"])[
            "TargetHealthDescriptions"
        ]
        healthy = any(
            (each["Target"]["Id"], each["Target"]["Port"]) == (record.address, record.port)
            and each["TargetHealth"]["State"] == "healthy"
            for each in found
        )
        return f"{balancer['DNSName']}:{PORT}" if healthy else ""

    def _direct(self, record: Record, deadline: datetime) -> str:
        """Return where a head that runs and is open is reached; empty otherwise."""
        for instance in self._heads(record, deadline):
            mine = any(each["GroupId"] == record.group for each in instance.get("SecurityGroups", ()))
            if mine and instance["State"]["Name"] == "running":
                return f"{instance.get('PublicIpAddress') or record.address}:{record.port}"
        return ""

    def _heads(self, record: Record, deadline: datetime) -> Iterator[Mapping[str, Any]]:
        wanted = {"private-ip-address": record.address, "vpc-id": record.vpc}
        found = self._aws.request(
            "ec2",
            "describe_instances",
            deadline,
            Filters=[{"Name": key, "Values": [value]} for key, value in wanted.items()],
        )
        for reservation in found["Reservations"]:
            yield from reservation["Instances"]

    def _target_group(self, record: Record, deadline: datetime) -> Mapping[str, Any] | None:
        try:
            found = self._elb("describe_target_groups", deadline, Names=[record.balancer])["TargetGroups"]
        except NotFound:
            return None
        return found[0] if found else None

    # What is made ---------------------------------------------------------------------------------------------------

    def _elb(self, operation: str, deadline: datetime, **fields: Any) -> Any:
        return self._aws.request("elbv2", operation, deadline, **fields)

    def _ec2(self, operation: str, deadline: datetime, **fields: Any) -> Any:
        return self._aws.request("ec2", operation, deadline, **fields)

    def _add(self, spec: EndpointSpec, token: str, print: str, network: Network, deadline: datetime) -> Record:
        tags = tagged(
            {}, spec.owner, spec.name, token=token, spec=print, kind=WAY, network=spec.network,
            target=_target(spec), way=self._settings.endpoint.value, mode=network.mode.value,
        )  # fmt: skip
        made = self._ec2(
            "create_security_group", deadline, VpcId=network.vpc, GroupName=f"ac-{spec.name}-{token[:8]}",
            Description=f"A way in to {spec.owner.cloud}",
            TagSpecifications=[{"ResourceType": "security-group", "Tags": pairs(tags)}],
        )  # fmt: skip
        return Record(group=made["GroupId"], vpc=network.vpc, tags=tags)

    def _ordered(self, record: Record, spec: EndpointSpec, token: str, print: str, deadline: datetime) -> Record:
        """Let a newer order count: what led to another target than its own goes first, and then the record says so."""
        moves = record.tags.get(TAG_SPEC) != print
        if moves and record.way is Kind.NLB:
            self._unbalance(record, deadline)
        elif moves:
            self._take_off(record, deadline)
            self._close(record.group, record.port, self._ranges(record), deadline)
        changed = {TAG_TOKEN: token, TAG_SPEC: print, TAG_TARGET: _target(spec), TAG_SPENT: _spent(record)}
        self._ec2("create_tags", deadline, Resources=[record.group], Tags=pairs(changed))
        return attrs.evolve(record, tags={**record.tags, **changed})

    def _open(self, record: Record, network: Network, deadline: datetime) -> None:
        """Make what a way in has not got yet."""
        if record.way is Kind.NLB:
            self._let_in(record, record.group, PORT, self._ranges(record), deadline)
            self._let_in(record, network.group, record.port, [], deadline, source=record.group)
            self._balance(record, network, deadline)
            return
        self._let_in(record, record.group, record.port, self._ranges(record), deadline)
        self._put_on(record, deadline)

    def _ranges(self, record: Record) -> list[str]:
        """Return who may come: anybody that the settings let to a public network, private addresses to a private one."""
        if record.tags.get("anyscale-core-mode") == NetworkMode.PUBLIC.value:
            return list(self._settings.allow_from)
        return ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]

    def _let_in(
        self, record: Record, group: str, port: int, ranges: Sequence[str], deadline: datetime, *, source: str = ""
    ) -> None:
        there = self._ec2("describe_security_groups", deadline, GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
        rule = _rule(port, ranges, source)
        for each in there:
            if each.get("FromPort") == port and each.get("ToPort") == port and (
                {r["CidrIp"] for r in each.get("IpRanges", ())} >= set(ranges)
                and (not source or any(pair.get("GroupId") == source for pair in each["UserIdGroupPairs"]))
            ):  # fmt: skip
                return
        tags = tagged({}, owner_of(record.tags), record.name, token=digest(record.tags[TAG_TOKEN], group, port))
        try:
            self._ec2(
                "authorize_security_group_ingress", deadline, GroupId=group, IpPermissions=[rule],
                TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": pairs(tags)}],
            )  # fmt: skip
        except AlreadyExists:
            return

    def _close(self, group: str, port: int, ranges: Sequence[str], deadline: datetime, *, source: str = "") -> None:
        try:
            self._ec2(
                "revoke_security_group_ingress", deadline, GroupId=group, IpPermissions=[_rule(port, ranges, source)]
            )
        except NotFound:
            return

    def _put_on(self, record: Record, deadline: datetime) -> None:
        """Put the group on the head's interface."""
        for interface, groups in self._interfaces(record, deadline):
            if record.group not in groups:
                self._ec2(
                    "modify_network_interface_attribute",
                    deadline,
                    NetworkInterfaceId=interface,
                    Groups=[*groups, record.group],
                )

    def _take_off(self, record: Record, deadline: datetime) -> None:
        for interface, groups in self._interfaces(record, deadline):
            if record.group in groups:
                left = [group for group in groups if group != record.group]
                self._ec2("modify_network_interface_attribute", deadline, NetworkInterfaceId=interface, Groups=left)

    def _interfaces(self, record: Record, deadline: datetime) -> list[tuple[str, list[str]]]:
        found = []
        for instance in self._heads(record, deadline):
            if instance["State"]["Name"] in ("pending", "running"):
                groups = [each["GroupId"] for each in instance.get("SecurityGroups", ())]
                found += [(each["NetworkInterfaceId"], groups) for each in instance.get("NetworkInterfaces", ())[:1]]
        return found

    def _balance(self, record: Record, network: Network, deadline: datetime) -> None:
        token, owner = record.tags[TAG_TOKEN], owner_of(record.tags)

        def tags(part: str) -> list[dict[str, str]]:
            return pairs(tagged({}, owner, record.name, token=digest(token, part)))

        balancer = self._balancers(deadline).get(record.balancer)
        if balancer is None:
            scheme = "internet-facing" if network.mode is NetworkMode.PUBLIC else "internal"
            balancer = self._elb(
                "create_load_balancer", deadline, Name=record.balancer, Type="network", Scheme=scheme, Tags=tags("balancer"),
                Subnets=list(network.subnets.values()), SecurityGroups=[record.group],
            )["LoadBalancers"][0]  # fmt: skip
        group = self._target_group(record, deadline)
        if group is None:
            group = self._elb(
                "create_target_group", deadline, Name=record.balancer, Protocol="TCP", Port=record.port, VpcId=network.vpc,
                TargetType="ip", HealthCheckProtocol="TCP", Tags=tags("targets"),
            )["TargetGroups"][0]  # fmt: skip
        arn = balancer["LoadBalancerArn"]
        if not self._elb("describe_listeners", deadline, LoadBalancerArn=arn)["Listeners"]:
            forward = [{"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}]
            self._elb(
                "create_listener", deadline, LoadBalancerArn=arn, Protocol="TCP", Port=PORT, DefaultActions=forward,
                Tags=tags("listener"),
            )  # fmt: skip
        target = {"Id": record.address, "Port": record.port}
        health = self._elb("describe_target_health", deadline, TargetGroupArn=group["TargetGroupArn"])
        there = [(each["Target"]["Id"], each["Target"]["Port"]) for each in health["TargetHealthDescriptions"]]
        if (record.address, record.port) not in there:
            self._elb("register_targets", deadline, TargetGroupArn=group["TargetGroupArn"], Targets=[target])

    def _unbalance(self, record: Record, deadline: datetime) -> None:
        """Take the target of a way in away, with the rule that let the balancer reach it."""
        self._close_nodes(record, deadline)
        group = self._target_group(record, deadline)
        if group is not None:
            target = {"Id": record.address, "Port": record.port}
            self._elb("deregister_targets", deadline, TargetGroupArn=group["TargetGroupArn"], Targets=[target])

    def _close_nodes(self, record: Record, deadline: datetime) -> None:
        wanted = [{"Name": "ip-permission.group-id", "Values": [record.group]}]
        for group in self._ec2("describe_security_groups", deadline, Filters=wanted)["SecurityGroups"]:
            self._close(group["GroupId"], record.port, [], deadline, source=record.group)

    def _spend(self, record: Record, deadline: datetime) -> None:
        """Remember the tokens of an endpoint on its network's group, so that none of them makes it again."""
        cloud = attrs.evolve(owner_of(record.tags), cluster=None)
        try:
            network = read_network(self._aws, cloud, record.tags.get(TAG_NETWORK, ""), deadline)
        except NotFound:
            return  # and nobody can make an endpoint in it again
        spent = " ".join([*network.spent, *_spent(record).split()][-SPENT_MAX:])
        self._ec2("create_tags", deadline, Resources=[network.group], Tags=pairs({TAG_SPENT: spent}))

    def _remove(self, record: Record, deadline: datetime) -> Deletion:
        if record.tags.get(TAG_STATE) != DELETING:
            self._spend(record, deadline)
            self._ec2("create_tags", deadline, Resources=[record.group], Tags=pairs({TAG_STATE: DELETING}))
        if record.way is Kind.NLB:
            self._close_nodes(record, deadline)
            balancer = self._balancers(deadline).get(record.balancer)
            if balancer is not None:
                self._elb("delete_load_balancer", deadline, LoadBalancerArn=balancer["LoadBalancerArn"])
            group = self._target_group(record, deadline)
            if group is not None:
                self._elb("delete_target_group", deadline, TargetGroupArn=group["TargetGroupArn"])
        else:
            self._take_off(record, deadline)
        try:
            self._ec2("delete_security_group", deadline, GroupId=record.group)
        except NotFound:
            return Deletion.GONE
        except Conflict as error:
            if error.reason != "IN_USE":
                raise
            return Deletion.GOING  # AWS takes a load balancer's interfaces down by itself, and they hold the group
        return Deletion.GONE


def _record(group: Mapping[str, Any]) -> Record:
    return Record(group=group["GroupId"], vpc=group["VpcId"], tags=mapping(group.get("Tags")))


def _spent(record: Record) -> str:
    return " ".join([*record.spent, record.tags.get(TAG_TOKEN, "")[:SPENT_DIGITS]][-SPENT_MAX:])


def _target(spec: EndpointSpec) -> str:
    return f"{spec.target_address}:{spec.target_port}"


def _rule(port: int, ranges: Sequence[str], source: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if source:
        return rule | {"UserIdGroupPairs": [{"GroupId": source}]}
    return rule | {"IpRanges": [{"CidrIp": each} for each in ranges]}


def _check(spec: EndpointSpec) -> None:
    try:
        ipaddress.IPv4Address(spec.target_address)
    except ValueError:
        raise InvalidRequest(
            f"{spec.target_address!r} is not an address",
            reason="FIELD",
            resource=spec.name,
            hint="give the head's IPv4 address",
        ) from None
    if not 0 < spec.target_port < 65536:
        raise InvalidRequest(
            f"{spec.target_port} is not a port", reason="FIELD", resource=spec.name, hint="give 1 to 65535"
        )
