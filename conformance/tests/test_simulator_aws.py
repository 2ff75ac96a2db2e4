"""The simulated AWS, driven by boto3: launches, states, pages, what is in use, and what is refused."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import attrs
import boto3
import pytest
from anyscale_conformance.simulators.aws import AwsSimulator, sts
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conformance.aws import EXTERNAL_ID, IMAGE, PLANE, REGION, TYPE, World, the_code, trusting

LAUNCH: dict[str, Any] = {"ImageId": IMAGE, "InstanceType": TYPE}
NUMBERS = count(1)
ZONE = f"{REGION}a"


@pytest.fixture(scope="module")
def simulator() -> Iterator[AwsSimulator]:
    simulator = AwsSimulator()
    yield simulator
    simulator.close()


@pytest.fixture
def world(simulator: AwsSimulator) -> World:
    return World(simulator, next(NUMBERS))


@pytest.fixture
def ec2(world: World) -> Any:
    return world.client("ec2")


def launch(ec2: Any, most: int = 1, least: int = 1, **fields: Any) -> list[Any]:
    found: list[Any] = ec2.run_instances(**{**LAUNCH, "MinCount": least, "MaxCount": most, **fields})["Instances"]
    return found


def ids_of(found: list[Any]) -> list[str]:
    return [each["InstanceId"] for each in found]


def listed(ec2: Any, **fields: Any) -> list[Any]:
    pages = ec2.get_paginator("describe_instances").paginate(**fields)
    return [each for page in pages for held in page["Reservations"] for each in held["Instances"]]


def state(ec2: Any, id: str) -> str:
    (found,) = listed(ec2, InstanceIds=[id])
    return str(found["State"]["Name"])


def refused(call: Any, **fields: Any) -> tuple[str, int]:
    """Return code and status of a call that is refused."""
    with pytest.raises(ClientError) as caught:
        call(**fields)
    return the_code(caught.value), int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])


def groups_of(ec2: Any, vpc: str) -> str:
    return str(ec2.create_security_group(VpcId=vpc, GroupName="g", Description="g")["GroupId"])


# Launches ---------------------------------------------------------------------------------------------------------------


def test_a_client_token_said_again_is_the_launch_that_it_made(ec2: Any) -> None:
    first = launch(ec2, 3, ClientToken="t")
    again = launch(ec2, 3, ClientToken="t")
    assert ids_of(again) == ids_of(first)
    assert len(listed(ec2)) == 3
    assert {each["ClientToken"] for each in listed(ec2, Filters=[{"Name": "client-token", "Values": ["t"]}])} == {"t"}


def test_a_client_token_with_other_parameters_is_refused_and_nothing_is_launched(ec2: Any) -> None:
    launch(ec2, ClientToken="t")
    code, _ = refused(launch, ec2=ec2, most=2, ClientToken="t")
    assert code == "IdempotentParameterMismatch"
    assert len(listed(ec2)) == 1


def test_a_client_token_whose_instance_is_terminated_launches_no_other(ec2: Any) -> None:
    ec2.terminate_instances(InstanceIds=ids_of(launch(ec2, ClientToken="t")))
    assert refused(launch, ec2=ec2, ClientToken="t") == ("IdempotentInstanceTerminated", 400)


def test_a_launch_gives_as_many_as_there_are_from_its_least_to_its_most(world: World, ec2: Any) -> None:
    world.at.stock[TYPE, ZONE] = 3
    where: dict[str, Any] = {"Placement": {"AvailabilityZone": ZONE}}
    found = launch(ec2, 8, 1, **where)
    assert [each["AmiLaunchIndex"] for each in found] == [0, 1, 2]
    assert refused(launch, ec2=ec2, **where) == ("InsufficientInstanceCapacity", 500)


def test_a_launch_that_needs_more_than_there_are_gives_none(world: World, ec2: Any) -> None:
    world.at.stock[TYPE, ZONE] = 3
    code, _ = refused(launch, ec2=ec2, most=8, least=4, Placement={"AvailabilityZone": ZONE})
    assert code == "InsufficientInstanceCapacity"
    assert listed(ec2) == []
    assert world.at.stock[TYPE, ZONE] == 3


def test_what_is_sold_out_in_one_zone_is_had_in_another(world: World, ec2: Any) -> None:
    world.at.sold_out.add((TYPE, ZONE))
    assert refused(launch, ec2=ec2, Placement={"AvailabilityZone": ZONE})[0] == "InsufficientInstanceCapacity"
    (found,) = launch(ec2)
    assert found["Placement"]["AvailabilityZone"] != ZONE


def test_a_quota_of_vcpus_bounds_a_launch_and_is_named_when_it_is_spent(world: World, ec2: Any) -> None:
    world.at.quotas["L-1216C47A"] = 5.0
    assert len(launch(ec2, 8)) == 2
    with pytest.raises(ClientError, match="current vCPU limit of 5") as caught:
        launch(ec2)
    assert the_code(caught.value) == "VcpuLimitExceeded"
    quotas = world.client("service-quotas").list_service_quotas(ServiceCode="ec2")["Quotas"]
    assert {each["QuotaCode"]: each["Value"] for each in quotas}["L-1216C47A"] == 5.0


def test_a_quota_of_spot_instances_has_a_code_of_its_own(world: World, ec2: Any) -> None:
    world.at.quotas["L-34B43A08"] = 0.0
    code, _ = refused(launch, ec2=ec2, InstanceMarketOptions={"MarketType": "spot"})
    assert code == "MaxSpotInstanceCountExceeded"
    assert len(launch(ec2)) == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "x9.mega"}, "InvalidParameterValue"),
        ({"InstanceType": "m7g.medium"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Name": "none"}}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterCombination"),
        ({"ClientToken": "t" * 65}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "mars-1a"}}, "InvalidParameterValue"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(ec2: Any, fields: Any, code: str) -> None:
    assert refused(ec2.run_instances, **{**LAUNCH, "MinCount": 1, "MaxCount": 1, **fields})[0] == code
    assert listed(ec2) == []


def test_a_subnet_without_a_free_address_is_told_as_such(world: World, ec2: Any) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    world.at.full.add(subnet)
    assert refused(launch, ec2=ec2, SubnetId=subnet)[0] == "InsufficientFreeAddressesInSubnet"


def test_tags_of_a_launch_are_on_its_instance_disk_interface_and_spot_request(ec2: Any) -> None:
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    tags = [{"ResourceType": kind, "Tags": [{"Key": "k", "Value": kind}]} for kind in kinds]
    (found,) = launch(ec2, TagSpecifications=tags, InstanceMarketOptions={"MarketType": "spot"})
    assert found["Tags"] == [{"Key": "k", "Value": "instance"}]
    mine = [{"Name": "tag:k", "Values": ["volume"]}]
    assert [each["VolumeId"] for each in ec2.describe_volumes(Filters=mine)["Volumes"]] == [
        found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    ]
    requests = ec2.describe_spot_instance_requests(Filters=[{"Name": "tag:k", "Values": [kinds[3]]}])
    assert [each["InstanceId"] for each in requests["SpotInstanceRequests"]] == [found["InstanceId"]]


# States -----------------------------------------------------------------------------------------------------------------


def test_an_instance_passes_through_its_states_as_time_goes_by(world: World, ec2: Any) -> None:
    (id,) = ids_of(launch(ec2))
    assert state(ec2, id) == "pending"
    world.wait(timedelta(seconds=8))
    assert state(ec2, id) == "running"
    (change,) = ec2.terminate_instances(InstanceIds=[id])["TerminatingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "shutting-down")
    world.wait(timedelta(seconds=20))
    assert state(ec2, id) == "terminated"
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    assert ec2.describe_volumes()["Volumes"] == []
    world.wait(timedelta(hours=1))
    assert refused(ec2.describe_instances, InstanceIds=[id])[0] == "InvalidInstanceID.NotFound"


def test_terminating_is_all_or_nothing_and_may_be_said_again(ec2: Any) -> None:
    (id,) = ids_of(launch(ec2))
    gone = "i-00000000000000000"
    assert refused(ec2.terminate_instances, InstanceIds=[id, gone])[0] == "InvalidInstanceID.NotFound"
    assert state(ec2, id) == "pending"
    for _ in range(2):
        ec2.terminate_instances(InstanceIds=[id])
    assert refused(ec2.terminate_instances, InstanceIds=["i-x"])[0] == "InvalidInstanceID.Malformed"


def test_a_protected_instance_is_not_terminated(ec2: Any) -> None:
    (id,) = ids_of(launch(ec2, DisableApiTermination=True))
    with pytest.raises(ClientError, match="disableApiTermination") as caught:
        ec2.terminate_instances(InstanceIds=[id])
    assert the_code(caught.value) == "OperationNotPermitted"


def test_a_spot_instance_is_given_notice_and_taken_when_that_has_run_out(world: World, ec2: Any) -> None:
    (id,) = ids_of(launch(ec2, InstanceMarketOptions={"MarketType": "spot"}))
    world.wait(timedelta(seconds=10))
    world.at.interrupt(world.at.lives[id])
    marked = [{"Name": "status-code", "Values": ["marked-for-termination"]}]
    (request,) = ec2.describe_spot_instance_requests(Filters=marked)["SpotInstanceRequests"]
    assert request["InstanceId"] == id
    assert state(ec2, id) == "running"
    world.wait(timedelta(minutes=2))
    (found,) = listed(ec2, InstanceIds=[id])
    assert found["State"]["Name"] == "shutting-down"
    assert found["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert ec2.describe_spot_instance_requests(Filters=marked)["SpotInstanceRequests"] == []


def test_pages_count_instances_and_hold_all_of_them_once(world: World, ec2: Any) -> None:
    made = ids_of(launch(ec2, 7)) + ids_of(launch(ec2, 6))
    page = ec2.describe_instances(MaxResults=5)
    assert sum(len(held["Instances"]) for held in page["Reservations"]) == 5
    before = world.calls("DescribeInstances")
    assert sorted(ids_of(listed(ec2, PaginationConfig={"PageSize": 5}))) == sorted(made)
    assert world.calls("DescribeInstances") == before + 3
    assert refused(ec2.describe_instances, MaxResults=4)[0] == "InvalidParameterValue"
    assert refused(ec2.describe_instances, NextToken="nonsense")[0] == "InvalidPaginationToken"


def test_a_filter_that_ec2_does_not_know_is_refused(ec2: Any) -> None:
    assert refused(ec2.describe_instances, Filters=[{"Name": "no-such", "Values": ["x"]}])[0] == "InvalidParameterValue"


# Networks ---------------------------------------------------------------------------------------------------------------


def test_what_is_used_cannot_be_deleted_until_nothing_uses_it(world: World, ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    group = groups_of(ec2, vpc)
    ids = ids_of(launch(ec2, SubnetId=subnet, SecurityGroupIds=[group]))
    deletes = (
        (ec2.delete_security_group, {"GroupId": group}),
        (ec2.delete_subnet, {"SubnetId": subnet}),
        (ec2.delete_vpc, {"VpcId": vpc}),
    )
    for call, fields in deletes:
        assert refused(call, **fields)[0] == "DependencyViolation"
    ec2.terminate_instances(InstanceIds=ids)
    assert refused(ec2.delete_subnet, SubnetId=subnet)[0] == "DependencyViolation", "it is shutting down"
    world.wait()
    for call, fields in deletes:
        call(**fields)
    assert vpc not in [each["VpcId"] for each in ec2.describe_vpcs()["Vpcs"]]


def test_a_group_that_anothers_rule_names_is_in_use(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = groups_of(ec2, vpc)
    other = ec2.create_security_group(VpcId=vpc, GroupName="o", Description="o")["GroupId"]
    rule = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": [{"GroupId": group}]}]
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=rule)
    assert refused(ec2.authorize_security_group_ingress, GroupId=other, IpPermissions=rule)[0] == (
        "InvalidPermission.Duplicate"
    )
    assert refused(ec2.delete_security_group, GroupId=group)[0] == "DependencyViolation"
    ec2.delete_security_group(GroupId=other)
    ec2.delete_security_group(GroupId=group)


def test_a_gateway_stays_while_addresses_are_mapped_through_it_and_a_vpc_has_one(world: World, ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    gateway, second = (ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"] for _ in range(2))
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert refused(ec2.attach_internet_gateway, InternetGatewayId=second, VpcId=vpc)[0] == "InvalidParameterValue"
    public = [{"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}]
    ids = ids_of(launch(ec2, NetworkInterfaces=public))
    assert refused(ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)[0] == "DependencyViolation"
    ec2.terminate_instances(InstanceIds=ids)
    world.wait()
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)


def test_a_load_balancer_comes_up_and_its_target_becomes_healthy_as_time_goes_by(world: World, ec2: Any) -> None:
    elb = world.client("elbv2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    made = elb.create_load_balancer(Name="b", Type="network", Subnets=[subnet["SubnetId"]])["LoadBalancers"][0]
    assert made["State"]["Code"] == "provisioning"
    group = elb.create_target_group(Name="g", Protocol="TCP", Port=80, VpcId=subnet["VpcId"], TargetType="ip")
    arn = group["TargetGroups"][0]["TargetGroupArn"]
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": "10.0.0.9", "Port": 80}])

    def health() -> str:
        (target,) = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        return str(target["TargetHealth"]["State"])

    assert health() == "initial"
    world.wait(timedelta(minutes=2))
    assert health() == "healthy"
    assert elb.describe_load_balancers()["LoadBalancers"][0]["State"]["Code"] == "active"


# Who may ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plane(simulator: AwsSimulator, world: World) -> Any:
    return simulator.issue(simulator.account(PLANE, region=REGION, clock=world.clock).administrator("plane"))


def test_a_role_is_assumed_with_the_external_id_that_it_demands_and_not_without(world: World, plane: Any) -> None:
    arn = world.role("customer", trusting(PLANE, external_id=EXTERNAL_ID))
    asked = {"RoleArn": arn, "RoleSessionName": "session"}
    there = world.client("sts", plane)
    for wrong in ({}, {"ExternalId": "another"}):
        assert refused(there.assume_role, **asked, **wrong) == ("AccessDenied", 403)
    found = there.assume_role(**asked, ExternalId=EXTERNAL_ID)["Credentials"]
    key = world.simulator.keys[found["AccessKeyId"]]
    assert key.account == world.at.id
    assert refused(world.client("ec2", key).describe_vpcs)[0] == "UnauthorizedOperation", "the role has no policy"
    world.wait(timedelta(hours=2))
    assert refused(world.client("sts", key).get_caller_identity) == ("ExpiredToken", 403)


def test_a_role_is_not_assumed_by_an_account_that_it_does_not_trust(world: World, plane: Any) -> None:
    arn = world.role("customer", trusting("777777777777"))
    assert refused(world.client("sts", plane).assume_role, RoleArn=arn, RoleSessionName="session")[0] == "AccessDenied"
    missing = f"arn:aws:iam::{world.at.id}:role/none"
    assert (
        refused(world.client("sts", plane).assume_role, RoleArn=missing, RoleSessionName="session")[0] == "AccessDenied"
    )


def test_within_an_account_a_trust_of_the_account_leaves_it_to_the_callers_policy(world: World) -> None:
    arn = world.role("inside", trusting(world.at.id))
    may = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn}]}
    for policy, is_let in (({}, False), (may, True)):
        client = world.client("sts", world.simulator.issue(world.at.restricted("user", policy)))
        if is_let:
            client.assume_role(RoleArn=arn, RoleSessionName="session")
        else:
            assert refused(client.assume_role, RoleArn=arn, RoleSessionName="session")[0] == "AccessDenied"


def test_a_request_that_nobody_signed_right_is_refused(world: World) -> None:
    forged = attrs.evolve(world.admin, secret="guessed")
    assert refused(world.client("ec2", forged).describe_vpcs) == ("SignatureDoesNotMatch", 403)
    unknown = attrs.evolve(world.admin, id="AKIA0000000000000000")
    assert refused(world.client("ec2", unknown).describe_vpcs)[0] == "AuthFailure"
    anonymous = boto3.client(
        "s3", region_name=REGION, endpoint_url=world.simulator.url, config=Config(signature_version=UNSIGNED)
    )
    world.client("s3").create_bucket(Bucket=f"mine-{world.at.id}", CreateBucketConfiguration=WHERE)
    assert refused(anonymous.list_objects_v2, Bucket=f"mine-{world.at.id}") == ("AccessDenied", 403)


def test_a_session_may_do_what_its_role_and_its_own_policy_both_allow(world: World) -> None:
    world.role("wide", trusting(world.at.id))
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    world.at.iam.put_role_policy("wide", "all", everything)
    scope = {"Statement": [{"Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*"}]}
    key = sts.session(world.simulator, world.at, "wide", "s", timedelta(hours=1), scope=scope)
    ec2 = world.client("ec2", key)
    ec2.describe_vpcs()
    assert refused(ec2.describe_subnets)[0] == "UnauthorizedOperation"


WHERE = {"LocationConstraint": REGION}


def test_a_bucket_with_tags_needs_the_right_to_tag_and_is_closed_from_its_first_moment(world: World) -> None:
    name = f"tagged-{world.at.id}"
    tagged = {**WHERE, "Tags": [{"Key": "k", "Value": "v"}]}
    may = {"Statement": [{"Effect": "Allow", "Action": "s3:CreateBucket", "Resource": "*"}]}
    limited = world.client("s3", world.simulator.issue(world.at.restricted("user", may)))
    with pytest.raises(ClientError, match="s3:TagResource"):
        limited.create_bucket(Bucket=name, CreateBucketConfiguration=tagged)
    s3 = world.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=tagged)
    assert s3.get_bucket_tagging(Bucket=name)["TagSet"] == [{"Key": "k", "Value": "v"}]
    block = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert refused(s3.create_bucket, Bucket=name, CreateBucketConfiguration=WHERE)[0] == "BucketAlreadyOwnedByYou"


def test_objects_deleted_together_are_refused_one_by_one(world: World) -> None:
    name = f"keys-{world.at.id}"
    s3 = world.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=WHERE)
    for key in ("mine/a", "theirs/b"):
        s3.put_object(Bucket=name, Key=key, Body=b"x")
    may = {"Statement": [{"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{name}/mine/*"}]}
    limited = world.client("s3", world.simulator.issue(world.at.restricted("user", may)))
    told = limited.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "mine/a"}, {"Key": "theirs/b"}]})
    assert [each["Key"] for each in told["Deleted"]] == ["mine/a"]
    assert [(each["Key"], each["Code"]) for each in told["Errors"]] == [("theirs/b", "AccessDenied")]
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=name)["Contents"]] == ["theirs/b"]


# Being refused for a while ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "action", "call", "code", "status"),
    [
        ("ec2", "DescribeVpcs", "describe_vpcs", "RequestLimitExceeded", 503),
        ("iam", "ListRoles", "list_roles", "Throttling", 400),
        ("s3", "ListBuckets", "list_buckets", "SlowDown", 503),
    ],
)
def test_calls_that_come_too_fast_are_refused_as_each_service_does_it(
    world: World, service: str, action: str, call: str, code: str, status: int
) -> None:
    world.at.throttle(action, 2)
    client = world.client(service)
    for _ in range(2):
        assert refused(getattr(client, call)) == (code, status)
    getattr(client, call)()


def test_a_new_instance_profile_is_known_to_ec2_only_after_a_while(simulator: AwsSimulator) -> None:
    world = World(simulator, next(NUMBERS))
    world.at.timing = type(world.at.timing)(propagation=timedelta(seconds=10))
    ec2 = world.client("ec2")
    world.client("iam").create_instance_profile(InstanceProfileName="new")
    with pytest.raises(ClientError, match="Invalid IAM Instance Profile"):
        launch(ec2, IamInstanceProfile={"Name": "new"})
    world.wait(timedelta(seconds=10))
    assert launch(ec2, IamInstanceProfile={"Name": "new"})


def test_accounts_see_nothing_of_each_other(simulator: AwsSimulator, world: World) -> None:
    other = World(simulator, next(NUMBERS))
    (id,) = ids_of(launch(world.client("ec2")))
    assert listed(other.client("ec2")) == []
    assert refused(other.client("ec2").terminate_instances, InstanceIds=[id])[0] == "InvalidInstanceID.NotFound"


def test_the_journal_has_every_request_once(world: World, ec2: Any) -> None:
    launch(ec2, 3, UserData=base64.b64encode(b"#!/bin/sh").decode())
    listed(ec2)
    assert [call.action for call in world.at.requests] == ["RunInstances", "DescribeInstances"]
