"""Network load balancers in front of heads: what one is made of, whether it leads to its target, and how it goes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from anyscale_aws.client import Aws
from anyscale_aws.places import Network
from anyscale_aws.tags import TAG_TOKEN, digest, owner_of, pairs, tagged
from anyscale_aws.ways import PORT, Record
from anyscale_core.errors import NotFound
from anyscale_core.models.networking import NetworkMode

Balancer = Mapping[str, Any]


class Balancers:
    """The load balancers of one cloud."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def all(self, deadline: datetime) -> dict[str, Balancer]:
        """Return the load balancers of the region, by name."""
        pages = self._aws.pages("elbv2", "describe_load_balancers", deadline, next=("NextMarker", "Marker"))
        return {each["LoadBalancerName"]: each for page in pages for each in page["LoadBalancers"]}

    def host(self, record: Record, balancer: Balancer | None, deadline: datetime) -> str:
        """Return where a load balancer that is active and finds its target healthy is reached; empty otherwise."""
        if balancer is None or balancer["State"]["Code"] != "active":
            return ""
        group = self._target_group(record, deadline)
        if group is None:
            return ""
        health = self._elb("describe_target_health", deadline, TargetGroupArn=group["TargetGroupArn"])
        healthy = any(
            (each["Target"]["Id"], each["Target"]["Port"]) == (record.address, record.port)
            and each["TargetHealth"]["State"] == "healthy"
            for each in health["TargetHealthDescriptions"]
        )
        return f"{balancer['DNSName']}:{PORT}" if healthy else ""

    def make(self, record: Record, network: Network, deadline: datetime) -> Balancer:
        """Make what a way in has not got yet; return its load balancer."""
        token, owner = record.tags[TAG_TOKEN], owner_of(record.tags)

        def tags(part: str) -> list[dict[str, str]]:
            return pairs(tagged({}, owner, record.name, token=digest(token, part)))

        balancer = self.all(deadline).get(record.balancer)
        if balancer is None:
            scheme = "internet-facing" if network.mode is NetworkMode.PUBLIC else "internal"
            made: Balancer = self._elb(
                "create_load_balancer", deadline, Name=record.balancer, Type="network", Scheme=scheme, Tags=tags("balancer"),
                Subnets=list(network.subnets.values()), SecurityGroups=[record.group],
            )["LoadBalancers"][0]  # fmt: skip
            balancer = made
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
        health = self._elb("describe_target_health", deadline, TargetGroupArn=group["TargetGroupArn"])
        there = [(each["Target"]["Id"], each["Target"]["Port"]) for each in health["TargetHealthDescriptions"]]
        if (record.address, record.port) not in there:
            self._elb("register_targets", deadline, TargetGroupArn=group["TargetGroupArn"], Targets=[_target(record)])
        return balancer

    def let_go(self, record: Record, deadline: datetime) -> None:
        """Take the target of a way in away."""
        group = self._target_group(record, deadline)
        if group is not None:
            self._elb("deregister_targets", deadline, TargetGroupArn=group["TargetGroupArn"], Targets=[_target(record)])

    def remove(self, record: Record, deadline: datetime) -> None:
        """Begin to take a load balancer down with what belongs to it."""
        balancer = self.all(deadline).get(record.balancer)
        if balancer is not None:
            self._elb("delete_load_balancer", deadline, LoadBalancerArn=balancer["LoadBalancerArn"])
        group = self._target_group(record, deadline)
        if group is not None:
            self._elb("delete_target_group", deadline, TargetGroupArn=group["TargetGroupArn"])

    def _target_group(self, record: Record, deadline: datetime) -> Mapping[str, Any] | None:
        try:
            found = self._elb("describe_target_groups", deadline, Names=[record.balancer])["TargetGroups"]
        except NotFound:
            return None
        return found[0] if found else None

    def _elb(self, operation: str, deadline: datetime, **fields: Any) -> Any:
        return self._aws.request("elbv2", operation, deadline, **fields)


def _target(record: Record) -> dict[str, Any]:
    return {"Id": record.address, "Port": record.port}
