"""Ways in to heads. Each is a security group of its own, whose tags are its record; what it opens depends on the setting.

``address``: the group lets clients reach the head's port and is put on the head's interface. ``nlb``: the group is on a network
load balancer, which alone may reach the head's port through the group of the nodes.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws.balancers import Balancers
from anyscale_aws.client import Aws
from anyscale_aws.config import Settings
from anyscale_aws.config import Way as Kind
from anyscale_aws.places import TAG_MODE, TAG_SPENT, WAY, Network, read_network
from anyscale_aws.tags import (
    TAG_KIND,
    TAG_NAME,
    TAG_SPEC,
    TAG_TOKEN,
    digest,
    filters,
    fingerprint,
    owner_of,
    pairs,
    tagged,
)
from anyscale_aws.ways import (
    DELETING,
    PORT,
    SPENT_DIGITS,
    SPENT_MAX,
    TAG_NETWORK,
    TAG_STATE,
    TAG_TARGET,
    Record,
    Way,
    record_of,
    spent_with,
)
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Endpoint, EndpointSpec, EndpointState, NetworkMode
from anyscale_core.models.owner import Owner

PAGE = 1000
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""Private addresses (RFC 1918)."""


class Endpoints:
    """The ways in of one cloud."""

    def __init__(self, aws: Aws, settings: Settings) -> None:
        self._aws, self._settings = aws, settings
        self._nlbs = Balancers(aws)

    def of(self, owner: Owner, network: str, deadline: datetime) -> tuple[Way, ...]:
        """Return the ways in to a network."""
        groups = self._groups(filters(owner), deadline, network=network)
        return self.shown(groups, deadline)

    def shown(self, groups: Sequence[Mapping[str, Any]], deadline: datetime) -> tuple[Way, ...]:
        """Return ways in as they stand."""
        records = [record_of(group) for group in groups]
        balancers = self._nlbs.all(deadline) if any(record.way is Kind.NLB for record in records) else {}
        return tuple(
            Way(
                endpoint=self._show(record, balancers.get(record.balancer), deadline),
                network=record.tags.get(TAG_NETWORK, ""),
            )
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
            network = attrs.evolve(network, rules=())  # of which some may be closed now
        return self._show(record, self._open(record, network, deadline), deadline)

    def withdraw(self, name: str, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to take a way in down."""
        found = [record_of(group) for group in self._groups(filters(owner), deadline, name=name)]
        if not found:
            return Deletion.ALREADY_ABSENT
        return max((self._remove(record, deadline) for record in found), key=lambda each: each is Deletion.GOING)

    # What is there --------------------------------------------------------------------------------------------------

    def _groups(
        self, wanted: list[dict[str, Any]], deadline: datetime, *, name: str = "", network: str = ""
    ) -> list[Mapping[str, Any]]:
        narrower = {TAG_NAME: name, TAG_NETWORK: network}
        asked = [*wanted, {"Name": f"tag:{TAG_KIND}", "Values": [WAY]}]
        asked += [{"Name": f"tag:{key}", "Values": [value]} for key, value in narrower.items() if value]
        pages = self._aws.pages(
            "ec2", "describe_security_groups", deadline, next=("NextToken", "NextToken"), Filters=asked, MaxResults=PAGE
        )
        return [group for page in pages for group in page["SecurityGroups"]]

    def _there(self, spec: EndpointSpec, token: str, print: str, deadline: datetime) -> Record | None:
        """Return the way in of that name, if any. Raises AlreadyExists for another cluster's, Conflict for a used token."""
        cloud = attrs.evolve(spec.owner, cluster=None)
        found = None
        for record in map(record_of, self._groups(filters(cloud), deadline)):
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

    def _show(self, record: Record, balancer: Mapping[str, Any] | None, deadline: datetime) -> Endpoint:
        owner = owner_of(record.tags)
        if record.tags.get(TAG_STATE) == DELETING:
            return Endpoint(name=record.name, owner=owner, state=EndpointState.DELETING)
        by_nlb = record.way is Kind.NLB
        host = self._nlbs.host(record, balancer, deadline) if by_nlb else self._direct(record, deadline)
        state = EndpointState.READY if host else EndpointState.PENDING
        return Endpoint(name=record.name, owner=owner, state=state, url=f"https://{host}" if host else "")

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

    # What is made ---------------------------------------------------------------------------------------------------

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
            self._close_nodes(record, deadline)
            self._nlbs.let_go(record, deadline)
        elif moves:
            self._take_off(record, deadline)
            self._close(record.group, record.port, self._ranges(record), deadline)
        changed = {TAG_TOKEN: token, TAG_SPEC: print, TAG_TARGET: _target(spec), TAG_SPENT: spent_with(record)}
        self._ec2("create_tags", deadline, Resources=[record.group], Tags=pairs(changed))
        return attrs.evolve(record, tags={**record.tags, **changed}, rules=())

    def _open(self, record: Record, network: Network, deadline: datetime) -> Mapping[str, Any] | None:
        """Make what a way in has not got yet; return its load balancer, if it has one."""
        if record.way is Kind.NLB:
            self._let_in(record, record.group, PORT, deadline, there=record.rules, ranges=self._ranges(record))
            self._let_in(record, network.group, record.port, deadline, there=network.rules, source=record.group)
            return self._nlbs.make(record, network, deadline)
        self._let_in(record, record.group, record.port, deadline, there=record.rules, ranges=self._ranges(record))
        self._put_on(record, deadline)
        return None

    def _ranges(self, record: Record) -> Sequence[str]:
        """Return who may come: anybody that the settings let to a public network, private addresses to a private one."""
        is_public = record.tags.get(TAG_MODE) == NetworkMode.PUBLIC.value
        return self._settings.allow_from if is_public else PRIVATE

    def _let_in(
        self, record: Record, group: str, port: int, deadline: datetime, *, there: Sequence[Mapping[str, Any]],
        ranges: Sequence[str] = (), source: str = "",
    ) -> None:  # fmt: skip
        """Open a port of a group to exactly these ranges, or to another group, beside the rules that are ``there``."""
        rules = [rule for rule in there if (rule.get("FromPort"), rule.get("ToPort")) == (port, port)]
        open_to = {each["CidrIp"] for rule in rules for each in rule["IpRanges"]}
        missing = [each for each in ranges if each not in open_to]
        if ranges and (others := sorted(open_to.difference(ranges))):
            self._close(group, port, others, deadline)
        is_open = any(pair.get("GroupId") == source for rule in rules for pair in rule["UserIdGroupPairs"])
        if is_open if source else not missing:
            return
        tags = tagged({}, owner_of(record.tags), record.name, token=digest(record.tags[TAG_TOKEN], group, port))
        try:
            self._ec2(
                "authorize_security_group_ingress", deadline, GroupId=group, IpPermissions=[_rule(port, missing, source)],
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
        spent = " ".join([*network.spent, *spent_with(record).split()][-SPENT_MAX:])
        self._ec2("create_tags", deadline, Resources=[network.group], Tags=pairs({TAG_SPENT: spent}))

    def _remove(self, record: Record, deadline: datetime) -> Deletion:
        if record.tags.get(TAG_STATE) != DELETING:
            self._spend(record, deadline)
            self._ec2("create_tags", deadline, Resources=[record.group], Tags=pairs({TAG_STATE: DELETING}))
        if record.way is Kind.NLB:
            self._close_nodes(record, deadline)
            self._nlbs.remove(record, deadline)
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
