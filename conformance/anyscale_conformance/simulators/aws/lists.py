"""The lists that drivers read most, page by page: moto gives them whole, and works them out at length.

What there is and what filters match is moto's to say. Sources: the API references of EC2 (``MaxResults``, ``NextToken``), IAM
(``MaxItems``, ``Marker``, ``IsTruncated``) and Elastic Load Balancing (``PageSize``, ``Marker``, ``NextMarker``). A service may
give fewer things than it was asked for.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import (
    Answer,
    ec2_answer,
    fields,
    items,
    members,
    node,
    query_answer,
    text,
)

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

ELB = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"
IAM = "https://iam.amazonaws.com/doc/2010-05-08/"


def describe_vpcs(exchange: "Exchange") -> Answer:
    """Answer DescribeVpcs."""
    account, params = exchange.account, exchange.params
    wanted = params.many("VpcId")
    _refuse_unknown("InvalidVpcID.NotFound", "vpc ID", wanted, account.ec2.vpcs)
    found = account.ec2.describe_vpcs(vpc_ids=wanted, filters=params.filters())
    page, token = _page_of_ec2(exchange, found)
    return ec2_answer("DescribeVpcs", items("vpcSet", (_vpc(account, each) for each in page)), fields(nextToken=token))


def describe_groups(exchange: "Exchange") -> Answer:
    """Answer DescribeSecurityGroups."""
    account, params = exchange.account, exchange.params
    wanted = params.many("GroupId")
    known = {group.id for groups in account.ec2.groups.values() for group in groups.values()}
    _refuse_unknown("InvalidGroup.NotFound", "security group", wanted, known)
    names = params.many("GroupName")
    found = account.ec2.describe_security_groups(group_ids=wanted, groupnames=names, filters=params.filters())
    page, token = _page_of_ec2(exchange, found)
    shown = items("securityGroupInfo", (_group(account, each) for each in page))
    return ec2_answer("DescribeSecurityGroups", shown, fields(nextToken=token))


def describe_balancers(exchange: "Exchange") -> Answer:
    """Answer DescribeLoadBalancers."""
    account, params = exchange.account, exchange.params
    wanted = [*params.many("Names"), *params.many("LoadBalancerArns")]
    found = _named(account.elb.load_balancers.values(), wanted, "LoadBalancerNotFound", "load balancers")
    page, token = _page_of_elb(exchange, found)
    shown = node("LoadBalancers", *(node("member", _balancer(each)) for each in page))
    return query_answer("DescribeLoadBalancers", ELB, shown + fields(NextMarker=token))


def describe_target_groups(exchange: "Exchange") -> Answer:
    """Answer DescribeTargetGroups."""
    account, params = exchange.account, exchange.params
    wanted = [*params.many("Names"), *params.many("TargetGroupArns")]
    found = _named(account.elb.target_groups.values(), wanted, "TargetGroupNotFound", "target groups")
    if balancer := params.one("LoadBalancerArn"):
        found = [each for each in found if balancer in each.load_balancer_arns]
    page, token = _page_of_elb(exchange, found)
    shown = node("TargetGroups", *(node("member", _target_group(each)) for each in page))
    return query_answer("DescribeTargetGroups", ELB, shown + fields(NextMarker=token))


def list_profiles(exchange: "Exchange") -> Answer:
    """Answer ListInstanceProfiles: those below a path."""
    prefix = exchange.params.one("PathPrefix", "/")
    found = [each for each in exchange.account.iam.instance_profiles.values() if each.path.startswith(prefix)]
    page, token = _page_of_iam(exchange, found)
    shown = node("InstanceProfiles", *(node("member", _profile(each)) for each in page))
    return query_answer("ListInstanceProfiles", IAM, shown + fields(IsTruncated=bool(token), Marker=token))


def get_profile(exchange: "Exchange") -> Answer:
    """Answer GetInstanceProfile."""
    name = exchange.params.one("InstanceProfileName")
    for each in exchange.account.iam.instance_profiles.values():
        if each.name == name:
            return query_answer("GetInstanceProfile", IAM, node("InstanceProfile", _profile(each)))
    raise Refusal("NoSuchEntity", f"Instance Profile {name} cannot be found.", status=404)


def list_role_policies(exchange: "Exchange") -> Answer:
    """Answer ListRolePolicies."""
    name, account = exchange.params.one("RoleName"), exchange.account
    role = next((each for each in account.iam.roles.values() if each.name == name), None)
    if role is None:
        raise Refusal("NoSuchEntity", f"The role with name {name} cannot be found.", status=404)
    page, token = _page_of_iam(exchange, role.policies, key=str)
    shown = members("PolicyNames", page)
    return query_answer("ListRolePolicies", IAM, shown + fields(IsTruncated=bool(token), Marker=token))


# Pages --------------------------------------------------------------------------------------------------------------


def _page_of_ec2(exchange: "Exchange", found: Iterable[Any]) -> tuple[list[Any], str]:
    account, params = exchange.account, exchange.params
    size = int(params.one("MaxResults", "1000"))
    if not 5 <= size <= 1000:
        raise Refusal("InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid.")
    return account.page(found, size=size, token=params.one("NextToken"), key=attrgetter("id"))


def _page_of_elb(exchange: "Exchange", found: Iterable[Any]) -> tuple[list[Any], str]:
    account, params = exchange.account, exchange.params
    size = int(params.one("PageSize", "400"))
    return account.page(found, size=size, token=params.one("Marker"), key=attrgetter("arn"))


def _page_of_iam(exchange: "Exchange", found: Iterable[Any], key: Any = attrgetter("name")) -> tuple[list[Any], str]:
    account, params = exchange.account, exchange.params
    size = int(params.one("MaxItems", "100"))
    return account.page(found, size=size, token=params.one("Marker"), key=key)


def _refuse_unknown(code: str, what: str, wanted: Iterable[str], known: Any) -> None:
    for id in wanted:
        if id not in known:
            raise Refusal(code, f"The {what} '{id}' does not exist")


def _named(found: Iterable[Any], wanted: list[str], code: str, what: str) -> list[Any]:
    """Return the things of these names and ARNs; all where none is named."""
    things = list(found)
    for name in wanted:
        if not any(name in (each.name, each.arn) for each in things):
            raise Refusal(code, f"One or more {what} not found")
    return [each for each in things if not wanted or {each.name, each.arn} & set(wanted)]


# What is shown ------------------------------------------------------------------------------------------------------


def _tags(account: Account, id: str) -> str:
    tags = account.ec2.tags.get(id, {})
    return items("tagSet", (fields("" if value else "<value/>", key=key, value=value) for key, value in tags.items()))


def _vpc(account: Account, vpc: Any) -> str:
    ranges = [
        fields(
            node("cidrBlockState", state="associated"),
            associationId=each["association_id"], cidrBlock=each["cidr_block"],
        )
        for each in vpc.cidr_block_association_set
    ]  # fmt: skip
    return fields(
        items("cidrBlockAssociationSet", ranges), _tags(account, vpc.id), vpcId=vpc.id, ownerId=account.id,
        state=vpc.state, cidrBlock=vpc.cidr_block, dhcpOptionsId=vpc.dhcp_options_id,
        instanceTenancy=vpc.instance_tenancy, isDefault=bool(vpc.is_default),
    )  # fmt: skip


def _group(account: Account, group: Any) -> str:
    return fields(
        items("ipPermissions", _permissions(account, group.ingress_rules)),
        items("ipPermissionsEgress", _permissions(account, group.egress_rules)),
        _tags(account, group.id), ownerId=account.id, groupId=group.id, groupName=group.name,
        groupDescription=group.description, vpcId=group.vpc_id,
    )  # fmt: skip


def _permissions(account: Account, rules: Iterable[Any]) -> list[str]:
    """Return rules as EC2 shows them: those of one protocol and ports together."""
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for rule in rules:
        alike.setdefault((rule.ip_protocol, rule.from_port, rule.to_port), []).append(rule)
    shown = []
    for (protocol, first, last), several in alike.items():
        groups = [rule.source_group for rule in several if rule.source_group]
        ranges = [rule.ip_range for rule in several if rule.ip_range]
        lists = [rule.prefix_list_id for rule in several if rule.prefix_list_id]
        pairs = (fields(userId=g.get("OwnerId") or account.id, groupId=g.get("GroupId")) for g in groups)
        v4 = (fields(cidrIp=r["CidrIp"], description=r.get("Description")) for r in ranges if r.get("CidrIp"))
        v6 = (fields(cidrIpv6=r["CidrIpv6"], description=r.get("Description")) for r in ranges if r.get("CidrIpv6"))
        shown.append(
            fields(
                items("groups", pairs), items("ipRanges", v4), items("ipv6Ranges", v6),
                items("prefixListIds", (fields(prefixListId=each) for each in lists)),
                ipProtocol=protocol, fromPort=first, toPort=last,
            )
        )  # fmt: skip
    return shown


def _balancer(balancer: Any) -> str:
    zones = (node("member", ZoneName=each.availability_zone, SubnetId=each.id) for each in balancer.subnets)
    return fields(
        node("State", Code=balancer.state), node("AvailabilityZones", *zones),
        members("SecurityGroups", balancer.security_groups or ()), LoadBalancerArn=balancer.arn,
        LoadBalancerName=balancer.name, DNSName=balancer.dns_name, CreatedTime=balancer.created_time,
        CanonicalHostedZoneId=balancer.canonical_hosted_zone_id, Scheme=balancer.scheme, VpcId=balancer.vpc_id,
        Type=balancer.type, IpAddressType=balancer.ip_address_type,
    )  # fmt: skip


def _target_group(group: Any) -> str:
    return fields(
        members("LoadBalancerArns", group.load_balancer_arns), TargetGroupArn=group.arn, TargetGroupName=group.name,
        Protocol=group.protocol, Port=group.port, VpcId=group.vpc_id, TargetType=group.target_type,
        HealthCheckProtocol=group.health_check_protocol, HealthCheckPort=group.health_check_port,
        HealthCheckEnabled=group.health_check_enabled, HealthCheckIntervalSeconds=group.health_check_interval_seconds,
        HealthCheckTimeoutSeconds=group.health_check_timeout_seconds,
        HealthyThresholdCount=group.healthy_threshold_count, UnhealthyThresholdCount=group.unhealthy_threshold_count,
        IpAddressType=group.ip_address_type,
    )  # fmt: skip


def _profile(profile: Any) -> str:
    roles = (
        node(
            "member", Path=role.path, RoleName=role.name, RoleId=role.id, Arn=role.arn, CreateDate=role.create_date,
            AssumeRolePolicyDocument=quote(text(role.assume_role_policy_document)),
        )
        for role in profile.roles
    )  # fmt: skip
    return fields(
        node("Roles", *roles), Path=profile.path, InstanceProfileName=profile.name, InstanceProfileId=profile.id,
        Arn=profile.arn, CreateDate=profile.create_date,
    )  # fmt: skip


HANDLERS = {
    ("ec2", "DescribeVpcs"): describe_vpcs,
    ("ec2", "DescribeSecurityGroups"): describe_groups,
    ("elasticloadbalancing", "DescribeLoadBalancers"): describe_balancers,
    ("elasticloadbalancing", "DescribeTargetGroups"): describe_target_groups,
    ("iam", "GetInstanceProfile"): get_profile,
    ("iam", "ListInstanceProfiles"): list_profiles,
    ("iam", "ListRolePolicies"): list_role_policies,
}
