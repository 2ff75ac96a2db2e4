"""What of a VPC is in use cannot be deleted (EC2 API Reference, DependencyViolation)."""

from typing import TYPE_CHECKING

from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange


def delete_subnet(exchange: "Exchange") -> Answer:
    """Answer DeleteSubnet."""
    account, id = exchange.account, exchange.params.one("SubnetId")
    if any(eni.subnet.id == id for eni in account.ec2.enis.values()) or _balanced(account, subnet=id):
        raise _in_use("subnet", id)
    return exchange.inner()


def delete_group(exchange: "Exchange") -> Answer:
    """Answer DeleteSecurityGroup."""
    account, id = exchange.account, exchange.params.one("GroupId")
    if any(group.id == id for eni in account.ec2.enis.values() for group in eni.group_set):
        raise Refusal("DependencyViolation", f"resource {id} has a dependent object")
    for groups in account.ec2.groups.values():
        for group in groups.values():
            rules = [*group.ingress_rules, *group.egress_rules]
            sources = {rule.source_group.get("GroupId") for rule in rules}
            if group.id != id and id in sources:
                raise Refusal("DependencyViolation", f"resource {id} has a dependent object")
    return exchange.inner()


def delete_vpc(exchange: "Exchange") -> Answer:
    """Answer DeleteVpc: groups of its own, gateways and endpoints keep it, too."""
    account, id = exchange.account, exchange.params.one("VpcId")
    groups = [group for group in account.ec2.groups.get(id, {}).values() if group.name != "default"]
    gateways = [each for each in account.ec2.internet_gateways.values() if each.vpc is not None and each.vpc.id == id]
    ends = [each for each in account.ec2.vpc_end_points.values() if each.vpc_id == id and each.state != "deleted"]
    if groups or gateways or ends or _balanced(account, vpc=id):
        raise _in_use("vpc", id)
    return exchange.inner()


def detach_gateway(exchange: "Exchange") -> Answer:
    """Answer DetachInternetGateway: public addresses in the VPC keep it."""
    account, vpc = exchange.account, exchange.params.one("VpcId")
    if any(eni.public_ip and eni.instance and eni.subnet.vpc_id == vpc for eni in account.ec2.enis.values()):
        raise Refusal(
            "DependencyViolation",
            f"Network {vpc} has some mapped public address(es). Please unmap those before detaching the gateway.",
        )
    return exchange.inner()


def attach_gateway(exchange: "Exchange") -> Answer:
    """Answer AttachInternetGateway: a VPC has one."""
    account, params = exchange.account, exchange.params
    gateway = account.ec2.internet_gateways.get(params.one("InternetGatewayId"))
    if gateway is not None and gateway.vpc is not None:
        raise Refusal(
            "Resource.AlreadyAssociated", f"resource {gateway.id} is already attached to network {gateway.vpc.id}"
        )
    if any(
        each.vpc is not None and each.vpc.id == params.one("VpcId") for each in account.ec2.internet_gateways.values()
    ):
        raise Refusal(
            "InvalidParameterValue", f"Network {params.one('VpcId')} already has an internet gateway attached"
        )
    return exchange.inner()


def _balanced(account: Account, *, subnet: str = "", vpc: str = "") -> bool:
    return any(
        (vpc and balancer.vpc_id == vpc) or any(each.id == subnet for each in balancer.subnets)
        for balancer in account.elb.load_balancers.values()
    )


def _in_use(kind: str, id: str) -> Refusal:
    return Refusal("DependencyViolation", f"The {kind} '{id}' has dependencies and cannot be deleted.")


HANDLERS = {
    ("ec2", "DeleteSubnet"): delete_subnet,
    ("ec2", "DeleteSecurityGroup"): delete_group,
    ("ec2", "DeleteVpc"): delete_vpc,
    ("ec2", "AttachInternetGateway"): attach_gateway,
    ("ec2", "DetachInternetGateway"): detach_gateway,
}
