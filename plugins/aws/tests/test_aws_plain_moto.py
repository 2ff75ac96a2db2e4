"""The drivers against moto as it is, another implementation of AWS than the suite's own: what works there works with us."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import boto3
import pytest
from anyscale_aws.client import new_session
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.storage import AwsStorage

from anyscale_core.clock import SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import AlreadyExists, NotFound
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
from anyscale_core.models.instance import Bootstrap, Created, Deletion, InstanceSpec, InstanceState, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec

REGION = "us-west-2"
CLOUD = Owner(plane=PlaneId("pln_moto"), cloud=CloudName("moto"))
SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""
KEYS = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
OWNER = attrs.evolve(CLOUD, cluster=ClusterId("clu_moto"))
BOOTSTRAP = Bootstrap(
    url="https://127.0.0.1:1", ca_pem="", node_id=NodeId(""), join_token=Secret("join"), identity_provider="aws"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run moto in a process of its own: in this one the suite's simulator stands on it, and shares its accounts."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as moto:
        assert moto.stdout is not None
        assert moto.stdin is not None
        yield moto.stdout.readline().strip()
        moto.stdin.close()


@pytest.fixture
def config(url: str, tmp_path: Path) -> DriverConfig:
    ec2 = boto3.client("ec2", region_name=REGION, endpoint_url=url, **KEYS)
    image = ec2.register_image(Name="nodes", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    settings = {"endpoint_url": url, "image": image, "endpoint": "nlb", "zones": [f"{REGION}a", f"{REGION}b"]}
    return DriverConfig(owner=CLOUD, home=tmp_path, clock=SystemClock(), region=REGION, settings=settings)


def sessions() -> Any:
    session = new_session()
    session.set_credentials("moto", "moto")
    return session


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=60)


def an_instance(name: str, **fields: Any) -> InstanceSpec:
    node = NodeId(f"nod_{name}")
    return InstanceSpec(
        name=name, node_id=node, owner=OWNER, kind=NodeKind.WORKER, group="workers", instance_type="m5.large",
        bootstrap=attrs.evolve(BOOTSTRAP, node_id=node), **fields,
    )  # fmt: skip


def test_instances_are_made_in_one_batch_listed_by_their_names_and_deleted(config: DriverConfig) -> None:
    driver = AwsCluster(config, sessions)
    specs = [an_instance("one"), an_instance("two"), an_instance("three")]
    made = driver.create(specs, token=Token("batch"), deadline=soon())
    assert [each.instance.name for each in made if isinstance(each, Created)] == ["one", "two", "three"]
    listed = {each.name: each for each in driver.list(CLOUD, deadline=soon())}
    assert {name: each.node_id for name, each in listed.items()} == {spec.name: spec.node_id for spec in specs}
    assert {each.state for each in listed.values()} == {InstanceState.RUNNING}
    ids = [each.id for each in listed.values()]
    assert driver.get(ids[0], owner=OWNER, deadline=soon()).owner == OWNER
    answers = driver.delete(ids, owner=OWNER, deadline=soon())
    assert set(answers.values()) <= {Deletion.GONE, Deletion.GOING}
    assert driver.list(CLOUD, deadline=soon()) == ()


def test_offerings_are_those_of_the_region(config: DriverConfig) -> None:
    offerings = AwsCluster(config, sessions).offerings(deadline=soon())
    assert "m5.large" in {each.instance_type for each in offerings if each.available}


def test_an_identity_is_a_role_in_a_profile_and_gives_credentials(config: DriverConfig) -> None:
    driver = AwsIdentity(config, sessions)
    spec = IdentitySpec(name="runner", owner=CLOUD)
    made = driver.create(spec, token=Token("identity"), deadline=soon())
    assert driver.create(spec, token=Token("identity"), deadline=soon()) == made
    assert driver.list(CLOUD, deadline=soon()) == (driver.get("runner", owner=CLOUD, deadline=soon()),)
    assert ":role/anyscale-core/pln_moto/moto/" in made.principal
    assert driver.credentials("runner", owner=CLOUD, deadline=soon()).values["aws_session_token"].reveal()
    assert driver.delete("runner", owner=CLOUD, deadline=soon()) is Deletion.GONE
    with pytest.raises(NotFound):
        driver.get("runner", owner=CLOUD, deadline=soon())


def test_a_bucket_takes_grants_and_goes(config: DriverConfig) -> None:
    identities, driver = AwsIdentity(config, sessions), AwsStorage(config, sessions)
    identities.create(IdentitySpec(name="writer", owner=CLOUD), token=Token("writer"), deadline=soon())
    spec = BucketSpec(name="data", expire_days=7, cors_origins=("https://example.com",))
    made = driver.create(spec, owner=CLOUD, token=Token("bucket"), deadline=soon())
    assert driver.create(spec, owner=CLOUD, token=Token("bucket"), deadline=soon()) == made
    with pytest.raises(AlreadyExists):
        driver.create(spec, owner=CLOUD, token=Token("another"), deadline=soon())
    assert driver.list(CLOUD, deadline=soon()) == (made,)
    grant = driver.grant(
        "data", "a/", identity="writer", access=Access.WRITE, owner=CLOUD, token=Token("grant"), deadline=soon()
    )
    assert grant.store.url == f"{made.url}/a/"
    assert driver.revoke("data", "a/", identity="writer", owner=CLOUD, deadline=soon()) is Deletion.GONE
    assert driver.delete("data", owner=CLOUD, deadline=soon()) is Deletion.GONE
    assert driver.list(CLOUD, deadline=soon()) == ()
    identities.delete("writer", owner=CLOUD, deadline=soon())


def test_an_adopted_bucket_takes_objects_and_stays(url: str, config: DriverConfig) -> None:
    # moto reads the TLS-only policy of a bucket that we make without its condition, and lets nobody in.
    theirs = boto3.client("s3", region_name=REGION, endpoint_url=url, **KEYS)
    theirs.create_bucket(Bucket="theirs", CreateBucketConfiguration={"LocationConstraint": REGION})
    driver = AwsStorage(config, sessions)
    driver.create(BucketSpec(name="kept", adopt="s3://theirs"), owner=CLOUD, token=Token("adopt"), deadline=soon())
    driver.objects("kept", "a/", owner=CLOUD).put("key", b"body")
    assert theirs.get_object(Bucket="theirs", Key="a/key")["Body"].read() == b"body"
    assert driver.delete("kept", owner=CLOUD, deadline=soon()) is Deletion.GONE
    assert driver.list(CLOUD, deadline=soon()) == ()
    assert theirs.list_objects_v2(Bucket="theirs")["KeyCount"] == 1


@pytest.mark.parametrize("mode", list(NetworkMode))
def test_a_network_with_a_way_in_is_made_and_goes_with_all_its_parts(config: DriverConfig, mode: NetworkMode) -> None:
    driver = AwsNetworking(config, sessions)
    name = f"net-{mode.value}"
    made = driver.create(NetworkSpec(name=name, mode=mode), owner=CLOUD, token=Token(name), deadline=soon())
    assert made.zones == (f"{REGION}a", f"{REGION}b")
    way = EndpointSpec(name="head", owner=OWNER, network=name, target_address="10.0.0.9", target_port=8443)
    driver.expose(way, token=Token(f"way-{name}"), deadline=soon())
    (found,) = driver.list(CLOUD, deadline=soon())
    assert [each.name for each in found.endpoints] == ["head"]
    assert driver.withdraw("head", owner=OWNER, deadline=soon()) is Deletion.GONE
    assert driver.delete(name, owner=CLOUD, deadline=soon()) is Deletion.GONE
    assert driver.list(CLOUD, deadline=soon()) == ()
