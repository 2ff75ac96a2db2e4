"""The whole lifecycle with nothing but the policy of ``permissions()``, and without any one of its actions."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_aws.client import new_session
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.permissions import NEEDS, policy
from anyscale_aws.storage import AwsStorage
from anyscale_conformance.simulators.aws import Account, AwsSimulator

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError, PermissionDenied
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
from anyscale_core.models.instance import Bootstrap, Created, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock

ACCOUNT, PLANE, REGION, IMAGE = "123456789012", "999999999999", "us-west-2", "ami-0123456789abcdef0"
EXTERNAL_ID = "org-7"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/control-plane"
CLOUD = Owner(plane=PlaneId("pln_1"), cloud=CloudName("aws"))
OWNER = attrs.evolve(CLOUD, cluster=ClusterId("clu_1"))
BOOTSTRAP = Bootstrap(
    url="https://127.0.0.1:1", ca_pem="", node_id=NodeId("nod_1"), join_token=Secret("t"), identity_provider="aws"
)
IMPLIED = {"ec2:CreateTags", "iam:PassRole", "elasticloadbalancing:AddTags"}
"""Actions that no request is called by: AWS asks for them along with others."""


class Lifecycle:
    """Everything that a cloud's drivers do, in a customer's account that trusts the control plane's."""

    def __init__(self, simulator: AwsSimulator, home: Path) -> None:
        self.clock = ManualClock()
        self.account: Account = simulator.account(ACCOUNT, region=REGION, clock=self.clock)
        self.account.images[IMAGE] = "x86_64"
        key = simulator.issue(simulator.account(PLANE, region=REGION).administrator("plane"))
        self.key = key
        trust = {
            "Statement": [{
                "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{PLANE}:root"}, "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}},
            }]
        }  # fmt: skip
        self.account.iam.create_role(
            role_name="control-plane", assume_role_policy_document=json.dumps(trust), path="/", permissions_boundary=None,
            description="", tags=[], max_session_duration="3600",
        )  # fmt: skip
        settings = {
            "role_arn": ROLE, "external_id": EXTERNAL_ID, "endpoint_url": simulator.url, "image": IMAGE,
            "zones": [f"{REGION}a"], "endpoint": "nlb", "instance_types": ["c7i.large"],
        }  # fmt: skip
        self.config = DriverConfig(owner=CLOUD, home=home, region=REGION, settings=settings, clock=self.clock)
        self.permissions = AwsIdentity(self.config).permissions(NEEDS)
        self.allow()

    def allow(self, *, without: str = "") -> None:
        """Let the control plane's role do what the permissions say, without one action."""
        kept = [each for each in self.permissions if each.action != without]
        self.account.iam.put_role_policy("control-plane", "all", json.dumps(policy(kept, account=ACCOUNT)))

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=30)

    def session(self) -> Any:
        session = new_session()
        session.set_credentials(self.key.id, self.key.secret)
        return session

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield what a cloud does in its life, in order."""
        cluster, identity = AwsCluster(self.config, self.session), AwsIdentity(self.config, self.session)
        storage, networking = AwsStorage(self.config, self.session), AwsNetworking(self.config, self.session)
        network = NetworkSpec(name="net", mode=NetworkMode.PUBLIC)
        bucket = BucketSpec(name="bucket-of-pln-1", cors_origins=("https://console.test",))
        spec = InstanceSpec(
            name="head", node_id=NodeId("nod_1"), owner=OWNER, kind=NodeKind.HEAD, group="head", network="net",
            instance_type="c7i.large", identity="work", bootstrap=BOOTSTRAP, market_type=MarketType.SPOT,
        )  # fmt: skip
        way = EndpointSpec(name="way", owner=OWNER, network="net", target_address="10.0.0.9", target_port=8443)
        made: list[str] = []

        def launch() -> None:
            (outcome,) = cluster.create([spec], token=Token("t4"), deadline=self.soon())
            if not isinstance(outcome, Created):
                raise outcome.error
            made.append(outcome.instance.id)

        who: Mapping[str, Any] = {"owner": CLOUD}
        yield "networking.create", lambda: networking.create(network, token=Token("t1"), deadline=self.soon(), **who)
        identity_spec = IdentitySpec(name="work", owner=CLOUD)
        yield "identity.create", lambda: identity.create(identity_spec, token=Token("t2"), deadline=self.soon())
        yield "storage.create", lambda: storage.create(bucket, token=Token("t3"), deadline=self.soon(), **who)
        yield (
            "storage.grant",
            lambda: storage.grant(
                bucket.name, "a/", identity="work", access=Access.WRITE, token=Token("t5"), deadline=self.soon(), **who
            ),
        )
        yield "cluster.create", launch
        yield "cluster.list", lambda: cluster.list(CLOUD, deadline=self.soon())
        yield "cluster.offerings", lambda: cluster.offerings(deadline=self.soon())
        yield "cluster.quotas", lambda: cluster.quotas(deadline=self.soon())
        yield "networking.expose", lambda: networking.expose(way, token=Token("t6"), deadline=self.soon())
        moved = attrs.evolve(way, target_port=8444)
        yield "networking.expose", lambda: networking.expose(moved, token=Token("t7"), deadline=self.soon())
        yield "networking.list", lambda: networking.list(CLOUD, deadline=self.soon())
        yield "networking.check", lambda: networking.check("net", deadline=self.soon(), **who)
        yield "identity.list", lambda: identity.list(CLOUD, deadline=self.soon())
        yield "identity.credentials", lambda: identity.credentials("work", deadline=self.soon(), **who)
        yield "storage.list", lambda: storage.list(CLOUD, deadline=self.soon())
        yield "networking.withdraw", lambda: networking.withdraw("way", owner=OWNER, deadline=self.soon())
        yield "cluster.delete", lambda: cluster.delete(made, owner=OWNER, deadline=self.soon())  # type: ignore[arg-type]
        yield "the instance has gone", lambda: self.clock.advance(timedelta(minutes=5))
        yield "storage.revoke", lambda: storage.revoke(bucket.name, "a/", identity="work", deadline=self.soon(), **who)
        yield "storage.delete", lambda: storage.delete(bucket.name, deadline=self.soon(), **who)
        yield "identity.delete", lambda: identity.delete("work", deadline=self.soon(), **who)
        yield "networking.delete", lambda: networking.delete("net", deadline=self.soon(), **who)

    def left(self) -> list[str]:
        """Return what is there of ours."""
        self.account.settle()
        ec2, iam = self.account.ec2, self.account.iam
        ours = [id for id, tags in ec2.tags.items() if "anyscale-core-plane" in tags and id in {**ec2.vpcs, **ec2.enis}]
        roles = [role.name for role in iam.roles.values() if role.name != "control-plane"]
        profiles = [profile.name for profile in iam.instance_profiles.values()]
        return [*ours, *roles, *profiles, *self.account.s3.buckets, *self.account.elb.load_balancers]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Lifecycle]:
    simulator = AwsSimulator()
    yield Lifecycle(simulator, tmp_path)
    simulator.close()


def test_the_declared_permissions_are_enough_for_a_whole_life_and_nothing_is_left(life: Lifecycle) -> None:
    for name, step in life.steps():
        try:
            step()
        except CloudError as error:
            pytest.fail(f"{name}: {error}")
    assert life.left() == []


def test_without_the_external_id_the_role_is_not_assumed(life: Lifecycle) -> None:
    settings = {**life.config.settings, "external_id": "another"}
    driver = AwsIdentity(attrs.evolve(life.config, settings=settings), life.session)
    with pytest.raises(PermissionDenied):
        driver.list(CLOUD, deadline=life.soon())


@pytest.mark.parametrize(
    "action",
    ["ec2:RunInstances", "ec2:CreateVpc", "iam:CreateRole", "s3:CreateBucket", "iam:PassRole", "ec2:CreateTags"],
)
def test_without_an_action_the_step_that_needs_it_is_refused_by_its_name(life: Lifecycle, action: str) -> None:
    life.allow(without=action)
    refused: list[PermissionDenied] = []
    for _, step in life.steps():
        try:
            step()
        except PermissionDenied as error:
            refused.append(error)
            break
    assert refused, f"nothing needs {action}"
    assert action in f"{refused[0].message} {refused[0].hint}"


def test_no_action_is_a_wildcard_and_only_what_looks_is_for_everything(life: Lifecycle) -> None:
    document = policy(life.permissions, account=ACCOUNT)
    for statement in document["Statement"]:
        assert all("*" not in action for action in statement["Action"])
        if statement["Resource"] == "*":
            looking = ("Describe", "List", "Get")
            assert all(action.partition(":")[2].startswith(looking) for action in statement["Action"]), statement
