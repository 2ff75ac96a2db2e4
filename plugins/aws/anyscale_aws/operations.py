"""The operations that this plugin uses, where a service has many more.

botocore makes a method for every operation of a service's model in every client: 830 for EC2. Its models are cut down to these
before the first client is made of them, which makes clients several times sooner and keeps most of EC2's model out of memory.
"""

from collections.abc import Mapping


def _named(words: str) -> frozenset[str]:
    return frozenset(words.split())


OPERATIONS: Mapping[str, frozenset[str]] = {
    "ec2": _named(
        "AttachInternetGateway AuthorizeSecurityGroupIngress CreateInternetGateway CreateRoute CreateSecurityGroup "
        "CreateSubnet CreateTags CreateVpc CreateVpcEndpoint DeleteInternetGateway DeleteSecurityGroup "
        "DeleteSubnet DeleteVpc DeleteVpcEndpoints DescribeAvailabilityZones DescribeInstanceTypeOfferings "
        "DescribeInstances DescribeInternetGateways DescribeNetworkInterfaces DescribeRouteTables "
        "DescribeSecurityGroups DescribeSpotInstanceRequests DescribeSpotPriceHistory DescribeSubnets "
        "DescribeVpcEndpoints DescribeVpcs DetachInternetGateway ModifyNetworkInterfaceAttribute "
        "RevokeSecurityGroupIngress RunInstances TerminateInstances"
    ),
    "iam": _named(
        "AddRoleToInstanceProfile CreateInstanceProfile CreateRole DeleteInstanceProfile DeleteRole "
        "DeleteRolePolicy GetInstanceProfile GetRole ListInstanceProfiles ListRolePolicies PutRolePolicy "
        "RemoveRoleFromInstanceProfile"
    ),
    "s3": _named(
        "CreateBucket DeleteBucket DeleteBucketTagging GetBucketCors GetBucketLifecycleConfiguration "
        "GetBucketLocation GetBucketPolicy GetBucketTagging GetPublicAccessBlock ListObjectsV2 PutBucketCors "
        "PutBucketLifecycleConfiguration PutBucketPolicy PutBucketTagging PutPublicAccessBlock"
    ),
    "elbv2": _named(
        "CreateListener CreateLoadBalancer CreateTargetGroup DeleteLoadBalancer DeleteTargetGroup "
        "DeregisterTargets DescribeListeners DescribeLoadBalancers DescribeTargetGroups DescribeTargetHealth "
        "RegisterTargets"
    ),
}
"""By the service's name in botocore; a service that is not here is whole, such as STS, which botocore itself asks, too."""

MEMBERS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "ec2": {
        "Instance": frozenset(
            {"AmiLaunchIndex", "CpuOptions", "InstanceId", "InstanceLifecycle", "InstanceType", "LaunchTime"}
            | {"NetworkInterfaces", "Placement", "PrivateIpAddress", "PublicIpAddress", "SecurityGroups", "State"}
            | {"StateReason", "StateTransitionReason", "Tags"}
        ),
        "InstanceNetworkInterface": frozenset({"NetworkInterfaceId"}),
    },
}
"""What is read of things that come in great numbers, by service and shape: botocore then parses nothing else of them."""
