"""Networks that are slow, public, or a host project's, and buckets as they were asked for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import attrs
import obstore
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import GcpCluster
from anyscale_gcp.config import Settings
from anyscale_gcp.identity import GcpIdentity
from anyscale_gcp.kit.world import OWNER, REGION, Ambient, World, endpoints_of
from anyscale_gcp.networking import GcpNetworking
from anyscale_gcp.storage import GcpStorage
from joserfc.jwk import RSAKey
from obstore.exceptions import BaseError
from obstore.store import from_url

from anyscale_core.clock import SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Conflict, InvalidRequest, Retry
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created
from anyscale_core.models.networking import CheckStatus, EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.storage import BucketSpec, Grant
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner

OURS = owner(cluster="clu_1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-networking", timings=Timings.none())
        yield World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048))


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=60)


def parts(world: World) -> tuple[DriverConfig, Client]:
    settings = {"project": world.project.id, "endpoints": endpoints_of(world.simulator)}
    config = DriverConfig(owner=OURS, home=world.folder, region=REGION, settings=settings)
    plain = Settings(project=world.project.id, endpoints=endpoints_of(world.simulator))
    return config, Client(plain, SystemClock(), credentials=Ambient(world.project))


def kinds(world: World) -> list[str]:
    ours = ("networks", "subnetworks", "firewalls", "routers", "healthChecks")
    return sorted(seen.kind for seen in world.project.inventory() if seen.kind in ours)


def test_a_network_that_is_still_being_made_is_busy_and_the_same_token_goes_on(world: World) -> None:
    driver = GcpNetworking(*parts(world))
    world.project.project.timings.network = timedelta(minutes=1)
    spec = NetworkSpec(name="net", owner=OURS)
    with pytest.raises(Conflict) as caught:
        driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert (caught.value.reason, caught.value.retry) == ("BUSY", Retry.WITH_TOKEN)
    assert kinds(world) == ["networks"]
    world.project.project.timings.network = timedelta()
    for thing in world.project.project.all("networks"):
        thing.hidden["busy"] = 0
    driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert kinds(world) == ["firewalls", "networks", "routers", "subnetworks"]


def test_a_public_network_has_no_nat_and_its_ways_in_lead_to_the_public_address(world: World) -> None:
    config, client = parts(world)
    driver, cluster = GcpNetworking(config, client), GcpCluster(config, client)
    spec = NetworkSpec(name="net", owner=OURS, mode=NetworkMode.PUBLIC)
    driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert kinds(world) == ["firewalls", "networks", "subnetworks"]
    head = attrs.evolve(an_instance_spec("head"), instance_type="n2-standard-2", network="net", bootstrap=a_bootstrap())
    (outcome,) = cluster.create([head], token=Token("t2"), deadline=soon())
    assert isinstance(outcome, Created)
    address = cluster.get(outcome.instance.id, owner=OURS, deadline=soon()).address
    way = EndpointSpec(name="way", owner=OURS, network="net", target_address=address, target_port=8443)
    shown = driver.expose(way, token=Token("t3"), deadline=soon())
    (seen,) = (seen for seen in world.project.inventory() if seen.kind == "instances")
    public = seen.body["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    assert urlsplit(shown.url).netloc == f"{public}:8443"
    rule = next(s for s in world.project.inventory() if s.kind == "firewalls" and s.name.startswith("in-"))
    assert rule.body["destinationRanges"] == [f"{address}/32"]
    assert rule.body["sourceRanges"] == ["0.0.0.0/0"]


def test_a_shared_vpc_of_a_host_project_is_adopted_looked_over_and_left_alone(world: World) -> None:
    host = world.simulator.add_project("gcp-host-project", timings=Timings.none())
    elsewhere = Client(
        Settings(project=host.id, endpoints=endpoints_of(world.simulator)), SystemClock(), credentials=Ambient(host)
    )
    network = {"name": "shared", "autoCreateSubnetworks": False}
    elsewhere.call("compute.networks.insert", project=host.id, body=network, deadline=soon())
    subnetwork = {"name": "nodes", "network": "global/networks/shared", "ipCidrRange": "10.9.0.0/20"}
    elsewhere.call("compute.subnetworks.insert", project=host.id, region=REGION, body=subnetwork, deadline=soon())
    driver = GcpNetworking(*parts(world))
    spec = NetworkSpec(name="net", owner=OURS, adopt=f"projects/{host.id}/global/networks/shared")
    made = driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert (made.adopted, made.id) == (True, spec.adopt)
    assert kinds(world) == ["healthChecks"]
    found = {check.id: check.status for check in driver.check("net", owner=OURS, deadline=soon())}
    assert found["network.exists"] is CheckStatus.PASSED
    assert found["rules.inside"] is CheckStatus.FAILED
    wrong = attrs.evolve(spec, name="other", subnets=(f"projects/{host.id}/regions/us-east1/subnetworks/nodes",))
    with pytest.raises(InvalidRequest, match="not a subnetwork"):
        driver.create(wrong, owner=OURS, token=Token("t2"), deadline=soon())
    driver.delete("net", owner=OURS, deadline=soon())
    assert kinds(world) == []
    assert [thing.name for thing in host.project.all("networks")] == ["shared"]


def test_machines_of_a_service_project_lie_in_the_hosts_subnetwork_that_was_adopted(world: World) -> None:
    host = world.simulator.add_project("gcp-host-project", timings=Timings.none())
    world.project.share_network_of(host.id)
    elsewhere = Client(
        Settings(project=host.id, endpoints=endpoints_of(world.simulator)), SystemClock(), credentials=Ambient(host)
    )
    network = {"name": "shared", "autoCreateSubnetworks": False}
    elsewhere.call("compute.networks.insert", project=host.id, body=network, deadline=soon())
    for name, cidr in (("nodes", "10.9.0.0/20"), ("others", "10.10.0.0/20")):
        body = {"name": name, "network": "global/networks/shared", "ipCidrRange": cidr}
        elsewhere.call("compute.subnetworks.insert", project=host.id, region=REGION, body=body, deadline=soon())
    subnetwork = f"projects/{host.id}/regions/{REGION}/subnetworks/others"
    spec = NetworkSpec(
        name="net", owner=OURS, adopt=f"https://www.googleapis.com/compute/v1/projects/{host.id}/global/networks/shared",
        subnets=(f"https://www.googleapis.com/compute/v1/{subnetwork}",),
    )  # fmt: skip
    GcpNetworking(*parts(world)).create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    node = attrs.evolve(an_instance_spec("node"), instance_type="n2-standard-2", network="net", bootstrap=a_bootstrap())
    (outcome,) = GcpCluster(*parts(world)).create([node], token=Token("t2"), deadline=soon())
    assert isinstance(outcome, Created), outcome
    (seen,) = (seen for seen in world.project.inventory() if seen.kind == "instances")
    (interface,) = seen.body["networkInterfaces"]
    assert interface["subnetwork"].endswith(subnetwork)
    assert "compute.subnetworks.use" in world.project.asked()


def test_a_bucket_is_private_uniform_and_keeps_nothing_of_what_is_deleted(world: World) -> None:
    driver = GcpStorage(*parts(world))
    spec = BucketSpec(name="data", owner=OURS, expire_days=7, cors_origins=("https://console.example",))
    driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    (seen,) = (seen for seen in world.project.inventory() if seen.kind == "buckets")
    assert seen.body["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert seen.body["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert seen.body["softDeletePolicy"]["retentionDurationSeconds"] == "0"
    assert seen.body["location"] == REGION.upper()
    assert seen.body["cors"][0]["origin"] == ["https://console.example"]
    actions = {rule["action"]["type"]: rule["condition"]["age"] for rule in seen.body["lifecycle"]["rule"]}
    assert actions == {"Delete": 7, "AbortIncompleteMultipartUpload": 7}


def test_a_bucket_without_uniform_access_or_open_to_all_is_not_adopted(world: World) -> None:
    config, client = parts(world)
    driver = GcpStorage(config, client)
    uniform = {"uniformBucketLevelAccess": {"enabled": True}}
    for name, access in (("with-acls", {}), ("open-to-all", {"iamConfiguration": uniform})):
        client.call("storage.buckets.insert", project=world.project.id, body={"name": name, **access}, deadline=soon())
    world.project.bind("b/open-to-all", "roles/storage.objectViewer", "allUsers")
    for name, words in (("with-acls", "uniform"), ("open-to-all", "anybody")):
        spec = BucketSpec(name="data", owner=OURS, adopt=f"gs://{name}")
        with pytest.raises(InvalidRequest, match=words):
            driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert driver.list(OURS, deadline=soon()) == ()


def test_an_identity_has_more_prefixes_than_a_policy_has_bindings_for_it(world: World) -> None:
    config, client = parts(world)
    storage, identities = GcpStorage(config, client), GcpIdentity(config, client)
    storage.create(BucketSpec(name="data", owner=OURS), owner=OURS, token=Token("t1"), deadline=soon())
    identities.create(IdentitySpec(name="nodes", owner=OURS), token=Token("t2"), deadline=soon())
    world.project.bind("", "roles/iam.serviceAccountTokenCreator", OWNER)
    for number in range(30):
        storage.grant(
            "data", f"clusters/{number}/", identity="nodes", access=Access.WRITE, owner=OURS, token=Token(f"g{number}"),
            deadline=soon(),
        )  # fmt: skip
    storage.revoke("data", "clusters/7/", identity="nodes", owner=OURS, deadline=soon())

    def bindings() -> list[str]:
        found = (seen.body for seen in world.project.inventory() if seen.kind == "bindings")
        return [str(body["condition"]["expression"]) for body in found if body.get("condition")]

    assert len(bindings()) == 5
    whole = " ".join(bindings())
    assert all((f"/objects/clusters/{number}/" in whole) is (number != 7) for number in range(30))


def test_the_token_of_a_grant_is_good_for_its_prefix_and_nothing_else_that_the_identity_may(world: World) -> None:
    config, client = parts(world)
    storage, identities = GcpStorage(config, client), GcpIdentity(config, client)
    storage.create(BucketSpec(name="data", owner=OURS), owner=OURS, token=Token("t1"), deadline=soon())
    identities.create(IdentitySpec(name="nodes", owner=OURS), token=Token("t2"), deadline=soon())
    world.project.bind("", "roles/iam.serviceAccountTokenCreator", OWNER)

    def granted(prefix: str, access: Access) -> Grant:
        asked = {"identity": "nodes", "owner": OURS, "token": Token(prefix), "deadline": soon()}
        return storage.grant("data", prefix, access=access, **asked)  # type: ignore[arg-type]

    def opened(grant: Grant, prefix: str = "") -> Any:
        options: Any = {key: value.reveal() for key, value in grant.store.options.items()}
        url = grant.store.url.removesuffix(grant.prefix) + (prefix or grant.prefix)
        plain = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
        return from_url(url, **(plain | options))

    writes, reads = granted("a/", Access.WRITE), granted("b/", Access.READ)
    obstore.put(storage.objects("data", "b/", owner=OURS), "key", b"theirs")
    obstore.put(opened(writes), "key", b"ours")
    assert bytes(obstore.get(opened(reads), "key").bytes()) == b"theirs"
    assert [item["path"] for page in obstore.list(opened(writes)) for item in page] == ["key"]
    for refused in (
        lambda: obstore.put(opened(reads), "key", b"mine"),
        lambda: obstore.get(opened(writes, "b/"), "key"),
        lambda: obstore.put(opened(reads, "a/"), "key", b"mine"),
        lambda: list(obstore.list(opened(writes, "b/"))),
    ):
        with pytest.raises(BaseError, match="does not have"):
            refused()
    token = writes.store.options["bearer_token"].reveal()
    request = Request(f"{config.settings['endpoints']['compute']}projects/{world.project.id}/global/networks")
    request.add_header("Authorization", f"Bearer {token}")
    with pytest.raises(HTTPError) as caught:
        urlopen(request)
    assert caught.value.code == 403
