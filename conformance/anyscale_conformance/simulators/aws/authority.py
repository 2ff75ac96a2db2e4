"""Whether a request is allowed: the policies of whoever signed it, with the tags that it carries and those that are there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from anyscale_conformance.simulators.aws import buckets, compute, policies
from anyscale_conformance.simulators.aws.signing import Refusal

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

PREFIXES = {"elasticloadbalancing": "elasticloadbalancing", "servicequotas": "servicequotas", "tagging": "tag"}
FREE = {("sts", "GetCallerIdentity"), ("sts", "AssumeRole")}
"""What needs no permission of the caller's, or is decided by a trust policy."""
ID = {
    "instance": "InstanceId", "vpc": "VpcId", "subnet": "SubnetId", "security-group": "GroupId",
    "internet-gateway": "InternetGatewayId", "route-table": "RouteTableId", "vpc-endpoint": "VpcEndpointId",
    "network-interface": "NetworkInterfaceId",
}  # fmt: skip
"""Kinds of EC2, and the parameter that names one."""
PASS, PASSED = "iam:PassRole", {"iam:PassedToService": "ec2.amazonaws.com"}
"""What passing a role to instances is asked for as (IAM User Guide, "Grant permissions to pass a role to a service")."""
LAUNCHED = ("instance", "volume", "network-interface", "spot-instances-request")


def check(exchange: "Exchange") -> None:
    """Raise Refusal unless the caller may do this; administrators may do everything."""
    key, service = exchange.key, exchange.service
    if service == "s3":
        buckets.check_access(exchange)
        return
    if key is None or (service, exchange.action) in FREE:
        return
    documents = exchange.account.binding(key)
    if documents is None:
        return
    action = f"{PREFIXES.get(service, service)}:{exchange.action}"
    for needed, resource, context in _asked(exchange, action):
        context = {**context, "aws:RequestedRegion": exchange.account.region, "aws:PrincipalArn": key.principal}
        bounds = documents if key.scope is None else [key.scope]
        if all(
            policies.allows(each, action=needed, resource=resource, context=context) for each in (documents, bounds)
        ):
            continue
        message = f"{key.principal} is not authorized to perform: {needed} on resource: {resource}"
        if service == "ec2":
            raise Refusal(
                "UnauthorizedOperation", f"You are not authorized to perform this operation. {message}", status=403
            )
        raise Refusal("AccessDenied", f"User: {message}", status=403)


def _asked(exchange: "Exchange", action: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return each action that the request needs, on what, and the keys that conditions may ask for."""
    match exchange.service:
        case "ec2":
            return _asked_of_ec2(exchange, action)
        case "iam":
            return list(_asked_of_iam(exchange, action))
        case "elasticloadbalancing":
            return _asked_of_elb(exchange, action)
    return [(action, "*", {})]


def _asked_of_ec2(exchange: "Exchange", action: str) -> list[tuple[str, str, dict[str, str]]]:
    account, params = exchange.account, exchange.params
    stem = f"arn:aws:ec2:{account.region}:{account.id}"
    made = params.tags()
    asked: list[tuple[str, str, dict[str, str]]] = []
    if exchange.action == "RunInstances":
        market = params.one("InstanceMarketOptions.MarketType")
        for kind in LAUNCHED[: 4 if market == "spot" else 3]:
            asked.append((action, f"{stem}:{kind}/*", _tags_wanted(made.get(kind, {}))))
        asked.append((action, f"arn:aws:ec2:{account.region}::image/{params.one('ImageId')}", {}))
        asked.append((action, f"{stem}:subnet/{compute.placed(params) or 'default'}", {}))
        groups = [*params.many("SecurityGroupId"), *params.many("NetworkInterface.1.SecurityGroupId")]
        asked += [(action, f"{stem}:security-group/{group}", {}) for group in groups or ("default",)]
        profile = params.one("IamInstanceProfile.Name")
        roles = [r.arn for p in account.iam.instance_profiles.values() if p.name == profile for r in p.roles]
        asked += [(PASS, role, PASSED) for role in roles]
    elif exchange.action.startswith("Describe"):
        return [(action, "*", {})]
    elif exchange.action == "CreateTags":
        kinds = {id: _kind(id) for id in params.many("ResourceId")}
        return [
            (action, f"{stem}:{kind}/{id}", _tags_there(account.ec2.tags.get(id, {}))) for id, kind in kinds.items()
        ]
    elif made:
        kind = next(iter(made))
        asked.append((action, f"{stem}:{kind}/*", _tags_wanted(made[kind])))
    for kind, tags in made.items():
        if tags:
            context = {**_tags_wanted(tags), "ec2:CreateAction": exchange.action}
            asked.append(("ec2:CreateTags", f"{stem}:{kind}/*", context))
    for kind, name in ID.items():
        ids = [*params.many(name), *([params.one(name)] if name in params.form else [])]
        for id in ids:
            asked.append((action, f"{stem}:{kind}/{id}", _tags_there(account.ec2.tags.get(id, {}))))
    return asked or [(action, "*", {})]


def _kind(id: str) -> str:
    """Return the kind of thing that an id of EC2 names."""
    return {"sg": "security-group", "i": "instance", "vol": "volume", "eni": "network-interface"}.get(
        id.partition("-")[0], "vpc"
    )


def _asked_of_elb(exchange: "Exchange", action: str) -> list[tuple[str, str, dict[str, str]]]:
    params, account = exchange.params, exchange.account
    if exchange.action.startswith("Describe"):
        return [(action, "*", {})]
    # moto calls every balancer an application one.
    given = params.one("LoadBalancerArn") or params.one("TargetGroupArn")
    arn = given.replace(":loadbalancer/app/", ":loadbalancer/net/")
    wanted = {tag.one("Key"): tag.one("Value") for tag in params.below("Tags").parts("member")}
    if not arn:
        kind = "loadbalancer/net" if exchange.action == "CreateLoadBalancer" else "targetgroup"
        arn = f"arn:aws:elasticloadbalancing:{account.region}:{account.id}:{kind}/{params.one('Name')}/0"
        asked = [(action, arn, _tags_wanted(wanted))]
        context = {**_tags_wanted(wanted), **_elb_action(exchange)}
        return [*asked, ("elasticloadbalancing:AddTags", arn, context)]
    found = {**account.elb.load_balancers, **account.elb.target_groups}.get(given)
    there = {} if found is None else account.elb.tagging_service.get_tag_dict_for_resource(given)
    asked = [(action, arn, {**_tags_there(there), **_tags_wanted(wanted)})]
    if exchange.action == "CreateListener" and wanted:
        listener = f"{arn.replace(':loadbalancer/', ':listener/')}/0"
        asked.append(("elasticloadbalancing:AddTags", listener, {**_tags_wanted(wanted), **_elb_action(exchange)}))
    return asked


def _elb_action(exchange: "Exchange") -> dict[str, str]:
    return {"elasticloadbalancing:CreateAction": exchange.action}


def _asked_of_iam(exchange: "Exchange", action: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield what a request of IAM needs: tags in a creating call the right to tag, a role in a profile to pass it."""
    resource, tags = _iam_resource(exchange), _request_tags(exchange)
    yield action, resource, tags
    if tags and exchange.action.startswith("Create"):
        yield f"iam:Tag{exchange.action.removeprefix('Create')}", resource, tags
    if exchange.action == "AddRoleToInstanceProfile":
        name, account = exchange.params.one("RoleName"), exchange.account
        role = next((role.arn for role in account.iam.roles.values() if role.name == name), "")
        yield PASS, role or f"arn:aws:iam::{account.id}:role/{name}", PASSED


def _iam_resource(exchange: "Exchange") -> str:
    params, account = exchange.params, exchange.account
    path = params.one("Path", "/")
    if name := params.one("InstanceProfileName"):
        found = next((p.arn for p in account.iam.instance_profiles.values() if p.name == name), None)
        return found or f"arn:aws:iam::{account.id}:instance-profile{path}{name}"
    if name := params.one("RoleName"):
        found = next((r.arn for r in account.iam.roles.values() if r.name == name), None)
        return found or f"arn:aws:iam::{account.id}:role{path}{name}"
    prefix = params.one("PathPrefix", "/")
    kind = "instance-profile" if "InstanceProfile" in exchange.action else "role"
    return f"arn:aws:iam::{account.id}:{kind}{prefix}"


def _request_tags(exchange: "Exchange") -> dict[str, str]:
    tags = exchange.params.below("Tags").parts("member")
    return _tags_wanted({tag.one("Key"): tag.one("Value") for tag in tags})


def _tags_wanted(tags: dict[str, str]) -> dict[str, str]:
    return {f"aws:RequestTag/{key}": value for key, value in tags.items()}


def _tags_there(tags: dict[str, str]) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
