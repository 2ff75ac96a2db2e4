"""The simulated AWS by the vendor's own SDK: what comes page by page, what takes time, and what is refused."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest
from anyscale_conformance.simulators.aws import Account, AwsSimulator, Key, Spoilt
from botocore.config import Config
from botocore.exceptions import ClientError

from anyscale_core.testing.clock import ManualClock

REGION, IMAGE = "us-west-2", "ami-0123456789abcdef0"
DATA = base64.b64encode(b"#!/bin/sh").decode()


class World:
    """An account, and clients of its administrator."""

    def __init__(self, simulator: AwsSimulator) -> None:
        self.simulator, self.clock = simulator, ManualClock()
        self.account: Account = simulator.account("123456789012", region=REGION, clock=self.clock)
        self.account.images[IMAGE] = "x86_64"
        self.key = simulator.issue(self.account.administrator())

    def client(self, service: str, key: Key | None = None) -> Any:
        """Return a client that tries once."""
        key = key or self.key
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.simulator.url, aws_access_key_id=key.id,
            aws_secret_access_key=key.secret, aws_session_token=key.session_token or None,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip

    def launch(self, **fields: Any) -> list[str]:
        """Launch instances; return their ids."""
        request = {
            "ImageId": IMAGE,
            "InstanceType": "m5.large",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": DATA,
            **fields,
        }
        return [each["InstanceId"] for each in self.client("ec2").run_instances(**request)["Instances"]]


@pytest.fixture
def world() -> Iterator[World]:
    simulator = AwsSimulator()
    yield World(simulator)
    simulator.close()


def refused(act: Any, **fields: Any) -> str:
    """Return the code that a request is refused with."""
    with pytest.raises(ClientError) as caught:
        act(**fields)
    return str(caught.value.response["Error"]["Code"])


def test_a_client_token_launches_once_and_refuses_another_request_and_what_has_been_terminated(world: World) -> None:
    made = world.launch(ClientToken="token", MaxCount=3)
    assert world.launch(ClientToken="token", MaxCount=3) == made
    ec2 = world.client("ec2")
    other = {"ImageId": IMAGE, "InstanceType": "m5.xlarge", "MinCount": 1, "MaxCount": 3, "UserData": DATA}
    assert refused(ec2.run_instances, ClientToken="token", **other) == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=made[:1])
    same = {**other, "InstanceType": "m5.large"}
    assert refused(ec2.run_instances, ClientToken="token", **same) == "IdempotentInstanceTerminated"


def test_a_launch_gets_as_many_as_there_are_and_none_below_the_least(world: World) -> None:
    world.account.stock["m5.large", f"{REGION}a"] = 2
    at = {"Placement": {"AvailabilityZone": f"{REGION}a"}}
    assert len(world.launch(MaxCount=5, **at)) == 2
    request = {"ImageId": IMAGE, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, "UserData": DATA, **at}
    assert refused(world.client("ec2").run_instances, **request) == "InsufficientInstanceCapacity"


@pytest.mark.parametrize(
    ("service", "operation", "things"),
    [
        ("ec2", "describe_vpcs", "Vpcs"),
        ("ec2", "describe_security_groups", "SecurityGroups"),
        ("iam", "list_instance_profiles", "InstanceProfiles"),
        ("elbv2", "describe_target_groups", "TargetGroups"),
    ],
)
def test_a_list_comes_page_by_page_and_is_complete_whatever_goes_between_two_pages(
    world: World, service: str, operation: str, things: str
) -> None:
    client, ec2 = world.client(service), world.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="172.16.0.0/16")["Vpc"]["VpcId"]
    for number in range(7):
        match service:
            case "iam":
                client.create_instance_profile(InstanceProfileName=f"profile-{number}")
            case "elbv2":
                client.create_target_group(Name=f"group-{number}", Protocol="TCP", Port=1, TargetType="ip", VpcId=vpc)
            case _:
                ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")
    whole = getattr(client, operation)()[things]
    world.account.page_size = 3
    pages = list(client.get_paginator(operation).paginate())
    assert [len(page[things]) for page in pages[:2]] == [3, 3]
    assert sorted(map(str, (each for page in pages for each in page[things]))) == sorted(map(str, whole))


def test_a_page_token_that_nobody_gave_is_refused(world: World) -> None:
    code = refused(world.client("ec2").describe_vpcs, NextToken="never given", MaxResults=5)
    assert code == "InvalidPaginationToken"


def test_a_page_can_be_empty_repeated_and_forgotten(world: World) -> None:
    ec2, account = world.client("ec2"), world.account
    account.page_size = 1
    ec2.create_vpc(CidrBlock="10.1.0.0/16")
    account.spoilt = Spoilt.EMPTY
    empty = ec2.describe_vpcs()
    assert empty["Vpcs"] == []
    first = ec2.describe_vpcs(NextToken=empty["NextToken"])
    assert len(first["Vpcs"]) == 1
    account.spoilt = Spoilt.REPEATED
    assert ec2.describe_vpcs(NextToken=first["NextToken"])["NextToken"] == first["NextToken"]
    account.spoilt = Spoilt.EXPIRED
    assert refused(ec2.describe_vpcs, NextToken=first["NextToken"]) == "InvalidPaginationToken"


def test_instance_profiles_are_listed_below_a_path(world: World) -> None:
    iam = world.client("iam")
    iam.create_instance_profile(InstanceProfileName="ours", Path="/a/b/")
    iam.create_instance_profile(InstanceProfileName="theirs", Path="/c/")
    found = iam.list_instance_profiles(PathPrefix="/a/")["InstanceProfiles"]
    assert [each["InstanceProfileName"] for each in found] == ["ours"]


def test_rules_of_one_protocol_and_port_are_shown_together(world: World) -> None:
    ec2 = world.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    ids = [ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"] for name in ("one", "two")]
    for permission in (
        {"IpRanges": [{"CidrIp": "192.0.2.0/24"}, {"CidrIp": "198.51.100.0/24"}]},
        {"UserIdGroupPairs": [{"GroupId": ids[1]}]},
    ):
        rule = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, **permission}
        ec2.authorize_security_group_ingress(GroupId=ids[0], IpPermissions=[rule])
    (group,) = ec2.describe_security_groups(GroupIds=ids[:1])["SecurityGroups"]
    (shown,) = group["IpPermissions"]
    assert {each["CidrIp"] for each in shown["IpRanges"]} == {"192.0.2.0/24", "198.51.100.0/24"}
    assert [each["GroupId"] for each in shown["UserIdGroupPairs"]] == ids[1:]
    assert refused(ec2.describe_security_groups, GroupIds=["sg-00000000000000000"]) == "InvalidGroup.NotFound"


def test_a_load_balancer_comes_up_after_a_while(world: World) -> None:
    ec2, elb = world.client("ec2"), world.client("elbv2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    elb.create_load_balancer(Name="way", Type="network", Subnets=[subnet])
    assert elb.describe_load_balancers(Names=["way"])["LoadBalancers"][0]["State"]["Code"] == "provisioning"
    world.clock.advance(world.account.timing.provisioning)
    assert elb.describe_load_balancers(Names=["way"])["LoadBalancers"][0]["State"]["Code"] == "active"
    assert refused(elb.describe_load_balancers, Names=["gone"]) == "LoadBalancerNotFound"


def test_a_role_is_assumed_with_the_external_id_that_it_demands_and_not_without(world: World) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": "org-7"}},
        }],
    }  # fmt: skip
    role = world.client("iam").create_role(RoleName="theirs", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    sts = world.client("sts")
    asked = {"RoleArn": role, "RoleSessionName": "plane"}
    assert refused(sts.assume_role, **asked) == "AccessDenied"
    assert refused(sts.assume_role, **asked, ExternalId="org-8") == "AccessDenied"
    found = sts.assume_role(**asked, ExternalId="org-7")["Credentials"]
    key = world.simulator.keys[found["AccessKeyId"]]
    assert "assumed-role/theirs/plane" in world.client("sts", key).get_caller_identity()["Arn"]
    world.clock.advance(timedelta(hours=1))
    assert refused(world.client("sts", key).get_caller_identity) == "ExpiredToken"


def test_a_request_that_was_not_signed_with_the_key_is_refused(world: World) -> None:
    forged = world.account.administrator("forged")
    assert refused(world.client("ec2", forged).describe_vpcs) == "AuthFailure"
    wrong = Key(id=world.key.id, secret="wrong", account=world.key.account, principal="x", user_id="x")
    assert refused(world.client("ec2", wrong).describe_vpcs) == "SignatureDoesNotMatch"


def test_the_inline_policies_of_a_role_have_so_many_characters_together(world: World) -> None:
    iam = world.client("iam")
    trust = {"Version": "2012-10-17", "Statement": []}
    iam.create_role(RoleName="full", AssumeRolePolicyDocument=json.dumps(trust))
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{'x' * 5200}"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName="full", PolicyName="one", PolicyDocument=document)
    iam.put_role_policy(RoleName="full", PolicyName="one", PolicyDocument=document)
    assert refused(iam.put_role_policy, RoleName="full", PolicyName="two", PolicyDocument=document) == "LimitExceeded"
