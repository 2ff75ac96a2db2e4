"""The least that the control plane's role must be allowed: pure, offline, and without a wildcard for an action.

What EC2 makes must carry our tags in the creating call, and only what carries them may be changed. Actions of EC2 that only look
know no resources (Service Authorization Reference, "Actions for Amazon EC2"), so their resource is everything in the account's
region, by condition.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anyscale_aws.config import Settings
from anyscale_aws.names import ROOT, STEM
from anyscale_aws.policies import VERSION, compact
from anyscale_core.models.identity import Permission
from anyscale_core.models.owner import TAG_CLOUD, TAG_PLANE, Owner

ANY = "any"
"""A resource of what only looks: everything, in the cloud's region."""
POLICY_MAX = 6144
"""Characters of a managed policy, blanks left out (IAM User Guide, "IAM and AWS STS quotas")."""
NETWORK_CALLS = (
    "CreateVpc CreateSubnet CreateInternetGateway CreateVpcEndpoint CreateSecurityGroup AuthorizeSecurityGroupIngress"
)
BALANCER_CALLS = "CreateLoadBalancer CreateTargetGroup CreateListener"
# feature -> (action, resource, why). Resources are words of ``_resource``; a word after '+' is the kind of condition.
NEEDS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "cluster.create": (
        ("ec2:RunInstances", "launched+made", "instances, their disks and interfaces, with the owner's tags"),
        ("ec2:RunInstances", "used", "the image, subnet and security group that a launch names"),
        ("ec2:CreateTags", "launched+created RunInstances", "the owner's tags are part of the launch"),
        ("ec2:DescribeInstances", ANY, "what an earlier call with the token made; how much of a quota is taken"),
        ("ec2:DescribeSecurityGroups", ANY, "where the nodes of a network go"),
        ("iam:PassRole", "adoptable+ec2", "instances run as an identity"),
        ("servicequotas:ListServiceQuotas", ANY, "the limit that a launch ran into"),
    ),
    "cluster.get": (("ec2:DescribeInstances", ANY, "the instance"), ("ec2:DescribeSpotInstanceRequests", ANY, "its notice")),
    "cluster.list": (("ec2:DescribeInstances", ANY, "the instances"), ("ec2:DescribeSpotInstanceRequests", ANY, "their notices")),
    "cluster.delete": (
        ("ec2:TerminateInstances", "instances+ours", "instances of this cloud"),
        ("ec2:DescribeInstances", ANY, "whose an instance is"),
    ),
    "cluster.delete_volume": (),
    "cluster.offerings": (
        ("ec2:DescribeInstanceTypeOfferings", ANY, "what each zone sells"),
        ("ec2:DescribeSpotPriceHistory", ANY, "what SPOT costs"),
    ),
    "cluster.quotas": (
        ("servicequotas:ListServiceQuotas", ANY, "the account's limits"),
        ("ec2:DescribeInstances", ANY, "how much of them is taken"),
    ),
    "identity.create": (
        ("iam:CreateInstanceProfile", "profiles", "an identity's record"),
        ("iam:TagInstanceProfile", "profiles", "its tags, in the creating call"),
        ("iam:CreateRole", "roles", "what workloads run as"),
        ("iam:TagRole", "roles", "its tags, in the creating call"),
        ("iam:GetRole", "adoptable", "a role that an earlier call made, or that is adopted"),
        ("iam:AddRoleToInstanceProfile", "profiles", "the role goes into its profile"),
        ("iam:PassRole", "adoptable+ec2", "the role goes into its profile"),
        ("iam:ListInstanceProfiles", "profiles", "what an earlier call with the token made"),
    ),
    "identity.get": (("iam:GetInstanceProfile", "named_profiles", "the identity's record"),),
    "identity.list": (("iam:ListInstanceProfiles", "profiles", "the identities' records"),),
    "identity.delete": (
        ("iam:GetInstanceProfile", "named_profiles", "the identity's record"),
        ("iam:ListRolePolicies", "named_roles", "its grants"),
        ("iam:DeleteRolePolicy", "adoptable", "its grants go first"),
        ("iam:RemoveRoleFromInstanceProfile", "profiles", "the role leaves its profile"),
        ("iam:DeleteRole", "roles", "the role"),
        ("iam:DeleteInstanceProfile", "profiles", "the record goes last"),
    ),
    "identity.credentials": (
        ("iam:GetInstanceProfile", "named_profiles", "the identity's record"),
        ("sts:AssumeRole", "adoptable", "short-lived credentials of the identity"),
    ),
    "identity.prove": (),
    "identity.verify": (),
    "storage.create": (
        ("tag:GetResources", ANY, "what an earlier call with the token made"),
        ("s3:GetBucketTagging", "buckets", "whose a bucket of that name is"),
        ("s3:CreateBucket", "buckets", "the bucket"),
        ("s3:TagResource", "buckets", "its tags, in the creating call"),
        ("s3:PutBucketTagging", "buckets", "a bucket that is adopted is tagged"),
        ("s3:GetBucketLocation", "buckets", "a bucket that is adopted is of the cloud's region"),
        ("s3:GetBucketPublicAccessBlock", "buckets", "whether it is closed to the public"),
        ("s3:PutBucketPublicAccessBlock", "buckets", "it is closed to the public"),
        ("s3:GetBucketPolicy", "buckets", "whether it wants TLS"),
        ("s3:PutBucketPolicy", "buckets", "it wants TLS"),
        ("s3:GetLifecycleConfiguration", "buckets", "whether what is old goes"),
        ("s3:PutLifecycleConfiguration", "buckets", "what is old goes, and parts of uploads that never ended"),
        ("s3:GetBucketCORS", "buckets", "whether browsers may use signed URLs"),
        ("s3:PutBucketCORS", "buckets", "browsers may use signed URLs"),
    ),
    "storage.get": (
        ("s3:GetBucketTagging", "buckets", "whose it is"),
        ("tag:GetResources", ANY, "adopted buckets have other names"),
    ),
    "storage.list": (("tag:GetResources", ANY, "buckets by their tags"),),
    "storage.delete": (
        ("s3:GetBucketTagging", "buckets", "whose it is"),
        ("tag:GetResources", ANY, "adopted buckets have other names"),
        ("s3:ListBucket", "buckets", "whether it holds something"),
        ("s3:DeleteBucket", "buckets", "the empty bucket"),
        ("s3:PutBucketTagging", "buckets", "our tags are taken off an adopted bucket"),
        ("iam:ListInstanceProfiles", "profiles", "grants on it go along"),
        ("iam:ListRolePolicies", "named_roles", "grants on it go along"),
        ("iam:DeleteRolePolicy", "adoptable", "grants on it go along"),
    ),
    "storage.grant": (
        ("s3:GetBucketTagging", "buckets", "whose it is"),
        ("tag:GetResources", ANY, "adopted buckets have other names"),
        ("iam:GetInstanceProfile", "named_profiles", "the identity"),
        ("iam:ListRolePolicies", "named_roles", "what it has been granted"),
        ("iam:PutRolePolicy", "adoptable", "the grant"),
        ("sts:AssumeRole", "adoptable", "short-lived credentials for what was granted"),
    ),
    "storage.revoke": (
        ("s3:GetBucketTagging", "buckets", "whose it is"),
        ("tag:GetResources", ANY, "adopted buckets have other names"),
        ("iam:GetInstanceProfile", "named_profiles", "the identity"),
        ("iam:ListRolePolicies", "named_roles", "what it has been granted"),
        ("iam:DeleteRolePolicy", "adoptable", "the grant"),
    ),
    "storage.signed_url": (
        ("s3:GetObject", "objects", "a URL does what its signer may"),
        ("s3:PutObject", "objects", "a URL does what its signer may"),
    ),
    "storage.objects": (
        ("s3:GetObject", "objects", "objects are read"),
        ("s3:PutObject", "objects", "objects are written"),
        ("s3:DeleteObject", "objects", "objects are removed"),
        ("s3:ListBucket", "buckets", "objects are listed"),
        ("s3:AbortMultipartUpload", "objects", "an upload that failed leaves no parts"),
    ),
    "networking.create": (
        ("ec2:DescribeVpcs", ANY, "what there is"),
        ("ec2:DescribeSubnets", ANY, "what there is"),
        ("ec2:DescribeSecurityGroups", ANY, "what there is"),
        ("ec2:DescribeInternetGateways", ANY, "what there is"),
        ("ec2:DescribeRouteTables", ANY, "the main route table"),
        ("ec2:DescribeVpcEndpoints", ANY, "what there is"),
        ("ec2:DescribeAvailabilityZones", ANY, "a subnet for each zone"),
        ("ec2:CreateVpc", "vpcs+made", "the network"),
        ("ec2:CreateSubnet", "subnets+made", "its subnets"),
        ("ec2:CreateSubnet", "vpcs+ours", "its subnets"),
        ("ec2:CreateInternetGateway", "gateways+made", "the way out of a public network"),
        ("ec2:AttachInternetGateway", "gateways+ours", "the way out of a public network"),
        ("ec2:AttachInternetGateway", "vpcs+ours", "the way out of a public network"),
        ("ec2:CreateRoute", "tables", "the way out of a public network"),
        ("ec2:CreateVpcEndpoint", "ends+made", "S3 without leaving the network"),
        ("ec2:CreateVpcEndpoint", "vpcs+ours", "S3 without leaving the network"),
        ("ec2:CreateVpcEndpoint", "tables", "S3 without leaving the network"),
        ("ec2:CreateSecurityGroup", "groups+made", "the group of the nodes"),
        ("ec2:CreateSecurityGroup", "vpcs", "the group of the nodes, in an adopted network too"),
        ("ec2:AuthorizeSecurityGroupIngress", "groups+ours", "nodes reach each other"),
        ("ec2:AuthorizeSecurityGroupIngress", "rules+made", "nodes reach each other"),
        ("ec2:CreateTags", f"network+created {NETWORK_CALLS}", "the owner's tags are part of each creating call"),
    ),
    "networking.get": (
        ("ec2:DescribeVpcs", ANY, "the network"),
        ("ec2:DescribeSecurityGroups", ANY, "its endpoints"),
        ("ec2:DescribeInstances", ANY, "whether a head runs"),
        ("elasticloadbalancing:DescribeLoadBalancers", ANY, "whether a balancer is up"),
        ("elasticloadbalancing:DescribeTargetGroups", ANY, "whether a head answers"),
        ("elasticloadbalancing:DescribeTargetHealth", ANY, "whether a head answers"),
    ),
    "networking.list": (
        ("ec2:DescribeVpcs", ANY, "the networks"),
        ("ec2:DescribeSecurityGroups", ANY, "their endpoints"),
        ("ec2:DescribeInstances", ANY, "whether heads run"),
        ("elasticloadbalancing:DescribeLoadBalancers", ANY, "whether balancers are up"),
        ("elasticloadbalancing:DescribeTargetGroups", ANY, "whether heads answer"),
        ("elasticloadbalancing:DescribeTargetHealth", ANY, "whether heads answer"),
    ),
    "networking.delete": (
        ("ec2:DescribeVpcs", ANY, "what there is"),
        ("ec2:DescribeSubnets", ANY, "what there is"),
        ("ec2:DescribeSecurityGroups", ANY, "what there is"),
        ("ec2:DescribeInternetGateways", ANY, "what there is"),
        ("ec2:DescribeRouteTables", ANY, "what there is"),
        ("ec2:DescribeVpcEndpoints", ANY, "what there is"),
        ("ec2:DescribeNetworkInterfaces", ANY, "whether anything uses it"),
        ("ec2:DeleteVpcEndpoints", "ends+ours", "the parts of the network"),
        ("ec2:DeleteSecurityGroup", "groups+ours", "the parts of the network"),
        ("ec2:DetachInternetGateway", "gateways+ours", "the parts of the network"),
        ("ec2:DetachInternetGateway", "vpcs+ours", "the parts of the network"),
        ("ec2:DeleteInternetGateway", "gateways+ours", "the parts of the network"),
        ("ec2:DeleteSubnet", "subnets+ours", "the parts of the network"),
        ("ec2:DeleteVpc", "vpcs+ours", "the network"),
    ),
    "networking.expose": (
        ("ec2:DescribeSecurityGroups", ANY, "what there is"),
        ("ec2:CreateSecurityGroup", "groups+made", "the group of the endpoint"),
        ("ec2:CreateSecurityGroup", "vpcs", "the group of the endpoint"),
        ("ec2:CreateTags", "groups+created CreateSecurityGroup", "the owner's tags are part of the creating call"),
        ("ec2:CreateTags", "groups+ours", "an endpoint that moves says so"),
        ("ec2:AuthorizeSecurityGroupIngress", "groups+ours", "clients reach the head"),
        ("ec2:AuthorizeSecurityGroupIngress", "rules+made", "clients reach the head"),
        ("ec2:CreateTags", "rules+created AuthorizeSecurityGroupIngress", "the owner's tags are part of the creating call"),
        ("ec2:RevokeSecurityGroupIngress", "groups+ours", "and no longer the one before"),
        ("ec2:RevokeSecurityGroupIngress", "rules+ours", "and no longer the one before"),
        ("ec2:DescribeInstances", ANY, "the head's interface"),
        ("ec2:ModifyNetworkInterfaceAttribute", "interfaces+ours", "the endpoint's group goes on the head's interface"),
        ("ec2:ModifyNetworkInterfaceAttribute", "groups+ours", "the endpoint's group goes on the head's interface"),
        ("elasticloadbalancing:DescribeLoadBalancers", ANY, "what there is"),
        ("elasticloadbalancing:DescribeTargetGroups", ANY, "what there is"),
        ("elasticloadbalancing:DescribeTargetHealth", ANY, "what there is"),
        ("elasticloadbalancing:DescribeListeners", ANY, "what there is"),
        ("elasticloadbalancing:CreateLoadBalancer", "balancers+made", "a balancer in front of the head"),
        ("elasticloadbalancing:CreateTargetGroup", "targets+made", "where the balancer leads"),
        ("elasticloadbalancing:CreateListener", "balancers+ours", "what the balancer listens on"),
        ("elasticloadbalancing:RegisterTargets", "targets+ours", "the head"),
        ("elasticloadbalancing:DeregisterTargets", "targets+ours", "the head before"),
        ("elasticloadbalancing:AddTags", f"balanced+balanced {BALANCER_CALLS}", "the owner's tags are part of the creating call"),
    ),
    "networking.withdraw": (
        ("ec2:DescribeSecurityGroups", ANY, "what there is"),
        ("ec2:CreateTags", "groups+ours", "an endpoint that goes says so"),
        ("ec2:RevokeSecurityGroupIngress", "groups+ours", "the way to the nodes is closed"),
        ("ec2:RevokeSecurityGroupIngress", "rules+ours", "the way to the nodes is closed"),
        ("ec2:DeleteSecurityGroup", "groups+ours", "the group of the endpoint"),
        ("ec2:DescribeInstances", ANY, "the head's interface"),
        ("ec2:ModifyNetworkInterfaceAttribute", "interfaces+ours", "the endpoint's group leaves the head's interface"),
        ("elasticloadbalancing:DescribeLoadBalancers", ANY, "what there is"),
        ("elasticloadbalancing:DescribeTargetGroups", ANY, "what there is"),
        ("elasticloadbalancing:DeleteLoadBalancer", "balancers+ours", "the balancer"),
        ("elasticloadbalancing:DeleteTargetGroup", "targets+ours", "where it led"),
    ),
    "networking.check": (
        ("ec2:DescribeVpcs", ANY, "the network"),
        ("ec2:DescribeSubnets", ANY, "its subnets"),
        ("ec2:DescribeRouteTables", ANY, "its ways out"),
        ("ec2:DescribeVpcEndpoints", ANY, "its way to S3"),
        ("ec2:DescribeSecurityGroups", ANY, "its rules"),
    ),
}  # fmt: skip

# "roles" are those that were made here, "adoptable" with those of the customer's that the settings name; "named" ones are
# looked for by their names, and may not be there.
KINDS = {
    "launched": ("instance", "volume", "network-interface", "spot-instances-request"), "instances": ("instance",),
    "vpcs": ("vpc",),
    "subnets": ("subnet",), "gateways": ("internet-gateway",), "tables": ("route-table",), "ends": ("vpc-endpoint",),
    "groups": ("security-group",), "rules": ("security-group-rule",), "interfaces": ("network-interface",),
    "network": ("vpc", "subnet", "internet-gateway", "vpc-endpoint", "security-group", "security-group-rule"),
}  # fmt: skip


def permissions_for(features: Iterable[str], owner: Owner, settings: Settings, region: str) -> tuple[Permission, ...]:
    """Return what these features need, each once; a feature that nobody knows needs nothing."""
    account = settings.role_arn.split(":")[4] if settings.role_arn else "${account}"
    found = (
        Permission(action=action, resource=resource, feature=feature, reason=why, condition=condition)
        for feature in dict.fromkeys(features)
        for action, word, why in NEEDS.get(feature, ())
        for resource, condition in _places(word, owner, region, account, settings)
    )
    return tuple(dict.fromkeys(found))


def policy(permissions: Iterable[Permission], *, account: str) -> dict[str, Any]:
    """Return one IAM policy of permissions, in which ``account`` is the customer's account."""
    return {"Version": VERSION, "Statement": _statements(permissions, account)}


def policies(permissions: Iterable[Permission], *, account: str) -> tuple[dict[str, Any], ...]:
    """Return the same as managed policies, none of which is longer than IAM takes; a role has room for ten of them."""
    documents: list[dict[str, Any]] = []
    for statement in _statements(permissions, account):
        if documents and _length(_with(documents[-1], statement)) <= POLICY_MAX:
            documents[-1] = _with(documents[-1], statement)
        else:
            documents.append({"Version": VERSION, "Statement": [statement]})
    return tuple(documents)


def _statements(permissions: Iterable[Permission], account: str) -> list[dict[str, Any]]:
    """Return statements that allow each action on its resources, under its condition, and nothing beyond."""
    allowed: dict[tuple[str, str], set[str]] = {}
    for each in permissions:
        resource = "*" if each.resource.startswith(ANY) else each.resource.replace("${account}", account)
        allowed.setdefault((resource, each.condition), set()).add(each.action)
    resources: dict[tuple[frozenset[str], str], list[str]] = {}
    for (resource, condition), actions in allowed.items():
        resources.setdefault((frozenset(actions), condition), []).append(resource)
    return [
        {"Effect": "Allow", "Action": sorted(actions), "Resource": found if len(found) > 1 else found[0]}
        | ({"Condition": json.loads(condition)} if condition else {})
        for (actions, condition), found in resources.items()
    ]


def _with(document: Mapping[str, Any], statement: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "Statement": [*document["Statement"], statement]}


def _length(document: Mapping[str, Any]) -> int:
    return len(compact(document))


def _places(word: str, owner: Owner, region: str, account: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the resources that a word stands for, with their condition."""
    word, _, kind = word.partition("+")
    condition = _condition(kind, owner) if kind else ""
    here = f"arn:aws:ec2:{region}:{account}"
    elb = f"arn:aws:elasticloadbalancing:{region}:{account}"
    if word == ANY:
        yield f"{ANY} in {region}", json.dumps({"StringEquals": {"aws:RequestedRegion": region}})
    elif word == "used":
        for each in (f"arn:aws:ec2:{region}::image/*", f"{here}:subnet/*", f"{here}:security-group/*"):
            yield each, condition
    elif word in KINDS:
        for each in KINDS[word]:
            yield f"{here}:{each}/*", condition
    elif word in ("profiles", "named_profiles", "roles", "adoptable", "named_roles"):
        noun = "instance-profile" if word.endswith("profiles") else "role"
        stem = f"arn:aws:iam::{account}:{noun}/"
        yield f"{stem}{ROOT}/{owner.plane}/{owner.cloud}/*", condition
        if word in ("adoptable", "named_roles"):
            yield from ((role, condition) for role in settings.adopted_roles)
        if word.startswith("named"):
            # What is not there has no path, and asking for it must not be refused: it is to be told as missing.
            yield f"{stem}{STEM}*", condition
    elif word in ("balancers", "targets", "balanced"):
        nouns = {"balancers": ("loadbalancer/net/ac-*", "listener/net/ac-*"), "targets": ("targetgroup/ac-*",)}
        for noun in nouns.get(word, (*nouns["balancers"], *nouns["targets"])):
            yield f"{elb}:{noun}", condition
    else:
        # S3 does not let a policy ask for a bucket's tags (but with ABAC): its names are what tells ours.
        below = "/*" if word == "objects" else ""
        own = json.dumps({"StringEquals": {"aws:ResourceAccount": account}})
        yield from ((f"arn:aws:s3:::{name}{below}", own) for name in (f"{STEM}*", *settings.adopted_buckets))


def _condition(kind: str, owner: Owner) -> str:
    """Return the condition of a kind. ``created``: tags may be put on in these creating calls and at no other time, lest
    somebody else's thing be made ours to delete.
    """
    tags = {TAG_PLANE: owner.plane, TAG_CLOUD: owner.cloud}
    made = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    word, *calls = kind.split()
    kinds: Mapping[str, dict[str, Any]] = {
        "made": made,
        "created": {**made, "ec2:CreateAction": calls},
        "balanced": {**made, "elasticloadbalancing:CreateAction": calls},
        "ours": {f"aws:ResourceTag/{key}": value for key, value in tags.items()},
        "ec2": {"iam:PassedToService": "ec2.amazonaws.com"},
    }
    return json.dumps({"StringEquals": kinds[word]})
