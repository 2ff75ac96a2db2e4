"""The whole lifecycle with nothing but the policy of ``permissions()``, and each call without each of its actions."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from anyscale_aws.config import Settings
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.permissions import NEEDS, POLICY_MAX, permissions_for, policies, policy
from anyscale_aws.policies import compact
from anyscale_conformance.simulators.aws import AwsSimulator
from botocore.exceptions import ClientError
from obstore.exceptions import PermissionDeniedError

from anyscale_core.controlplane.foundations import Data
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings as Controls
from anyscale_core.errors import PermissionDenied
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.networking import CheckStatus
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.clock import ManualClock
from tests.conformance.aws import IMAGE, PLANE, REGION, TYPE, the_code, trusting
from tests.conformance.aws_cases import CASES, CLOUD, Town, an_upload_breaks_off, forbidden

ABORT = ("storage.objects", "s3:AbortMultipartUpload")
"""Used when an upload has failed already."""
DECLARED = permissions_for(NEEDS, CLOUD, Settings(), REGION)
PAIRS = sorted({(each.feature, each.action) for each in DECLARED} - {ABORT})
"""Every feature with every action that it declares."""
LOOKING = ("Describe", "List", "Get")
MANAGED_POLICIES_MAX = 10
"""Of a role (IAM User Guide, "IAM and AWS STS quotas")."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[AwsSimulator]:
    simulator = AwsSimulator()
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def town(simulator: AwsSimulator, tmp_path_factory: pytest.TempPathFactory) -> Town:
    town = Town(simulator, 1, tmp_path_factory.mktemp("town"))
    town.furnish()
    return town


class Plane:
    """A control plane whose cloud is a town of its own, with nothing but the declared permissions."""

    def __init__(self, simulator: AwsSimulator, home: Path) -> None:
        clock = ManualClock()
        self.control = ControlPlane(Controls(home=home / "plane"), clock=clock)
        self.town = Town(
            simulator, 2 + len(simulator.accounts), home, owner=attrs.evolve(CLOUD, plane=self.control.id), clock=clock
        )

    def set_up(self) -> None:
        settings = dict(self.town.config().settings)
        self.control.register_cloud(
            CloudSpec(name="aws", provider="aws", region=REGION, settings={"aws": settings}), actor="test"
        )
        while self.control.set_up_cloud("aws", actor="test").missing:
            continue

    def take_down(self) -> None:
        for _ in range(20):
            if self.control.delete_cloud("aws", data=Data.DELETE, actor="test") is None:
                return
            self.town.wait()
        raise AssertionError("the cloud does not go")

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(200):
            if condition():
                return
            self.town.wait(timedelta(seconds=5))
            self.control.tick()
        raise AssertionError([event.message for event in self.control.events()][-10:])


@pytest.fixture
def plane(simulator: AwsSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    plane = Plane(simulator, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", plane.town.plane.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", plane.town.plane.secret)
    yield plane
    plane.control.close()


@pytest.mark.parametrize(("feature", "action"), PAIRS)
def test_without_an_action_the_call_that_needs_it_is_refused_by_its_name_and_leaves_nothing(
    town: Town, feature: str, action: str
) -> None:
    tried = (forbidden(town, case, action) for case in CASES[feature])
    assert any(error is not None for error in tried), f"{feature} does not need {action}, or no case of it is tried"


def test_without_the_right_to_abort_an_upload_its_parts_are_left_to_the_buckets_own_rule(town: Town) -> None:
    an_upload_breaks_off(town)
    assert "upload" not in dict(town.inventory())
    town.allow(without=ABORT[1])
    with pytest.raises(PermissionDeniedError, match=ABORT[1]):
        an_upload_breaks_off(town)
    town.allow()
    bucket = town.at.s3.buckets[town.bucket]
    assert len(bucket.multiparts) == 1
    rules = town.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket.name)["Rules"]
    assert rules[0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    bucket.multiparts.clear()


def test_a_cloud_is_set_up_used_and_taken_down_with_the_declared_permissions_alone(plane: Plane) -> None:
    before = plane.town.inventory()
    plane.set_up()
    failed = [check for check in plane.control.foundations.verify("aws") if check.status is CheckStatus.FAILED]
    assert failed == []
    plane.control.apply(a_spec("demo", workers(min_nodes=2, instance_type=TYPE), cloud="aws", head=TYPE), actor="test")
    plane.until(lambda: plane.town.calls("RunInstances") > 0)
    assert {"instance", "network", "identity", "bucket"} <= set(dict(plane.town.inventory()))
    plane.control.terminate("demo", actor="test")
    plane.until(lambda: plane.control.status("demo").record.phase is ClusterPhase.TERMINATED)
    plane.take_down()
    assert plane.town.inventory() == before


@pytest.mark.parametrize("action", ["ec2:CreateSubnet", "s3:PutBucketPolicy", "iam:AddRoleToInstanceProfile"])
def test_a_setup_that_lacks_an_action_in_its_middle_is_taken_back_whole(plane: Plane, action: str) -> None:
    before = plane.town.inventory()
    plane.town.allow(without=action)
    with pytest.raises(PermissionDenied, match=action):
        plane.set_up()
    plane.take_down()
    assert plane.town.inventory() == before


def test_without_the_external_id_the_role_is_not_assumed(town: Town) -> None:
    driver = AwsIdentity(town.config(external_id="another"), town.session)
    with pytest.raises(PermissionDenied):
        driver.list(CLOUD, deadline=town.soon())


def test_a_role_that_demands_no_external_id_is_refused_before_anything_is_asked_of_it(town: Town) -> None:
    careless = town.role("careless", trusting(PLANE))
    driver = AwsIdentity(town.config(role_arn=careless), town.session)
    with pytest.raises(PermissionDenied, match="takes any ExternalId"):
        driver.list(CLOUD, deadline=town.soon())
    town.at.iam.delete_role("careless")


def test_no_action_is_a_wildcard_and_only_what_looks_is_for_everything(town: Town) -> None:
    for statement in policy(town.permissions, account=town.at.id)["Statement"]:
        assert all("*" not in action for action in statement["Action"])
        if statement["Resource"] == "*":
            assert all(action.partition(":")[2].startswith(LOOKING) for action in statement["Action"]), statement


def test_the_policies_fit_into_a_role_and_allow_exactly_what_the_one_policy_does(town: Town) -> None:
    whole, parts = policy(town.permissions, account=town.at.id), policies(town.permissions, account=town.at.id)
    assert [statement for part in parts for statement in part["Statement"]] == whole["Statement"]
    assert len(parts) <= MANAGED_POLICIES_MAX
    assert max(len(compact(part)) for part in parts) <= POLICY_MAX


def test_what_does_not_carry_the_clouds_tags_is_neither_changed_nor_made_nor_tagged(town: Town) -> None:
    key = town.role_key()
    admin, ec2, elb = town.client("ec2"), town.client("ec2", key), town.client("elbv2", key)
    vpc = admin.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = admin.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    group = admin.create_security_group(VpcId=vpc, GroupName="theirs", Description="theirs")["GroupId"]
    launch = {"ImageId": IMAGE, "InstanceType": TYPE, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    instance = admin.run_instances(**launch)["Instances"][0]
    id, interface = instance["InstanceId"], instance["NetworkInterfaces"][0]["NetworkInterfaceId"]
    balancer = town.client("elbv2").create_load_balancer(Name="ac-theirs", Type="network", Subnets=[subnet])
    arn = balancer["LoadBalancers"][0]["LoadBalancerArn"]
    ours = [{"Key": key, "Value": value} for key, value in CLOUD.tags().items()]
    refused: tuple[Callable[[], object], ...] = (
        lambda: ec2.terminate_instances(InstanceIds=[id]),
        lambda: ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[group]),
        lambda: ec2.delete_subnet(SubnetId=subnet),
        lambda: ec2.delete_security_group(GroupId=group),
        lambda: ec2.delete_vpc(VpcId=vpc),
        lambda: ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}]
        ),
        lambda: ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24"),
        lambda: ec2.create_vpc(CidrBlock="10.8.0.0/16"),
        lambda: ec2.run_instances(**launch),
        lambda: ec2.create_tags(Resources=[vpc], Tags=ours),
        lambda: ec2.create_tags(Resources=[id], Tags=ours),
        lambda: elb.delete_load_balancer(LoadBalancerArn=arn),
        lambda: elb.add_tags(ResourceArns=[arn], Tags=ours),
    )
    before = town.inventory()
    for call in refused:
        with pytest.raises(ClientError) as caught:
            call()
        assert the_code(caught.value) in ("UnauthorizedOperation", "AccessDenied")
    assert town.inventory() == before
