"""Load balancers that come up, and targets whose health takes time (ELB API Reference, version 2015-12-01)."""

from typing import TYPE_CHECKING, Any

from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.wire import Answer, node, query_answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

NAMESPACE = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"


def create(exchange: "Exchange") -> Answer:
    """Answer CreateLoadBalancer: the same once more is the same balancer."""
    account, params = exchange.account, exchange.params
    name = params.one("Name")
    existing = next((each for each in account.elb.load_balancers.values() if each.name == name), None)
    if existing is not None:
        return (
            exchange.inner({"Action": "DescribeLoadBalancers", "Version": "2015-12-01", "Names.member.1": name})
            if _same(existing, params.many("Subnets"), params.one("Scheme", "internet-facing"))
            else exchange.inner()
        )
    answer = exchange.inner()
    for each in account.elb.load_balancers.values():
        if each.name == name:
            account.balancers[each.arn] = account.clock.now()
            each.state = "provisioning"
    return answer


def register(exchange: "Exchange") -> Answer:
    """Answer RegisterTargets."""
    account, params = exchange.account, exchange.params
    for target in params.below("Targets").parts("member"):
        key = (params.one("TargetGroupArn"), f"{target.one('Id')}:{target.one('Port')}")
        account.targets.setdefault(key, account.clock.now())
    _keep_ports(account, params.one("TargetGroupArn"))
    return query_answer("RegisterTargets", NAMESPACE, "")


def deregister(exchange: "Exchange") -> Answer:
    """Answer DeregisterTargets."""
    account, params = exchange.account, exchange.params
    for target in params.below("Targets").parts("member"):
        account.targets.pop((params.one("TargetGroupArn"), f"{target.one('Id')}:{target.one('Port')}"), None)
    return query_answer("DeregisterTargets", NAMESPACE, "")


def describe_health(exchange: "Exchange") -> Answer:
    """Answer DescribeTargetHealth."""
    account = exchange.account
    shown = []
    for id, port, state in health(account, exchange.params.one("TargetGroupArn")):
        shown.append(node("member", node("Target", Id=id, Port=port), node("TargetHealth", State=state)))
    return query_answer("DescribeTargetHealth", NAMESPACE, node("TargetHealthDescriptions", *shown))


def health(account: Account, group: str) -> list[tuple[str, str, str]]:
    """Return the targets of a group: id, port, state."""
    now, out = account.clock.now(), []
    for (arn, target), since in account.targets.items():
        if arn != group:
            continue
        id, _, port = target.rpartition(":")
        answers = int(port) not in account.dark
        state = "initial" if now < since + account.timing.healthy else "healthy" if answers else "unhealthy"
        out.append((id, port, state))
    return out


def delete_group(exchange: "Exchange") -> Answer:
    """Answer DeleteTargetGroup."""
    account, arn = exchange.account, exchange.params.one("TargetGroupArn")
    answer = exchange.inner()
    if answer.status == 200:
        account.targets = {key: since for key, since in account.targets.items() if key[0] != arn}
    return answer


def settle(account: Account) -> None:
    """Let balancers become active whose time has come."""
    now = account.clock.now()
    for balancer in account.elb.load_balancers.values():
        since = account.balancers.get(balancer.arn)
        if since is not None and now >= since + account.timing.provisioning:
            balancer.state = "active"


def _same(balancer: Any, subnets: list[str], scheme: str) -> bool:
    return sorted(each.id for each in balancer.subnets) == sorted(subnets) and balancer.scheme == scheme


def _keep_ports(account: Account, arn: str) -> None:
    """Let moto know the group as used."""
    if arn not in account.elb.target_groups:
        from anyscale_conformance.simulators.aws.signing import Refusal

        raise Refusal("TargetGroupNotFound", f"Target groups '{arn}' not found")


HANDLERS = {
    ("elasticloadbalancing", "CreateLoadBalancer"): create,
    ("elasticloadbalancing", "RegisterTargets"): register,
    ("elasticloadbalancing", "DeregisterTargets"): deregister,
    ("elasticloadbalancing", "DescribeTargetHealth"): describe_health,
    ("elasticloadbalancing", "DeleteTargetGroup"): delete_group,
}
