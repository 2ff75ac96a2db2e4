"""The least role is exactly what is needed: with it everything works, and everything in it is asked for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import obstore
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import GcpCluster
from anyscale_gcp.config import read_settings
from anyscale_gcp.identity import GcpIdentity
from anyscale_gcp.kit.world import REGION, Ambient, World, endpoints_of
from anyscale_gcp.networking import GcpNetworking
from anyscale_gcp.permissions import NEEDS
from anyscale_gcp.storage import GcpStorage
from joserfc.jwk import RSAKey

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, InstanceState
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.storage import BucketSpec, UrlMethod
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner
from anyscale_core.testing.clock import ManualClock

OURS = owner(cluster="clu_1")
ROLE = "anyscaleCore"
DECLARED = sorted({action for needs in NEEDS.values() for action, _ in needs})


class Bound:
    """Credentials of google-auth's form: always a fresh token of one member."""

    valid, expiry = True, None

    def __init__(self, world: World, member: str) -> None:
        self._world, self._member = world, member

    @property
    def token(self) -> str:
        return self._world.project.token(self._member)


class Plane:
    """A control plane in a project that asks for permissions, with the least role and nothing else."""

    def __init__(self, world: World, clock: ManualClock) -> None:
        self.world, self.clock = world, clock
        world.account = world.project.add_account("control-plane")
        member = f"serviceAccount:{world.account}"
        role = {"includedPermissions": DECLARED, "title": "anyscale-core"}
        self.owners(
            "iam.projects.roles.create", parent=f"projects/{world.project.id}", body={"roleId": ROLE, "role": role}
        )
        world.project.bind("", f"projects/{world.project.id}/roles/{ROLE}", member)
        settings = {
            "project": world.project.id, "service_account": world.account, "endpoints": endpoints_of(world.simulator),
            "node_service_account": world.account, "network_tags": ["ray"],
        }  # fmt: skip
        config = DriverConfig(owner=OURS, home=world.folder, region=REGION, settings=settings, clock=clock)
        client = Client(read_settings(config), clock, credentials=Bound(world, member))
        self.networks, self.identities = GcpNetworking(config, client), GcpIdentity(config, client)
        self.buckets, self.machines = GcpStorage(config, client), GcpCluster(config, client)

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(minutes=1)

    def owners(self, method: str, **parameters: Any) -> None:
        """Do something as the project's owner."""
        settings = {"project": self.world.project.id, "endpoints": endpoints_of(self.world.simulator)}
        config = DriverConfig(owner=OURS, home=self.world.folder, region=REGION, settings=settings)
        client = Client(read_settings(config), self.clock, credentials=Ambient(self.world.project))
        client.call(method, deadline=self.soon(), **parameters)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    clock = ManualClock(datetime.now(UTC))
    with GcpSimulator(clock=clock, guard=Guard.PERMISSIONS) as simulator:
        project = simulator.add_project("gcp-permissions", clock=clock, timings=Timings.none())
        yield Plane(World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048)), clock)


def test_with_the_least_role_everything_works_and_everything_in_it_is_asked_for(plane: Plane) -> None:
    plane.world.project.project.asked.clear()
    use_networks(plane)
    use_identities_and_buckets(plane)
    use_machines(plane)
    assert sorted(plane.world.project.asked()) == DECLARED


def use_networks(plane: Plane) -> None:
    driver, project = plane.networks, plane.world.project.id
    plane.owners("compute.networks.insert", project=project, body={"name": "theirs", "autoCreateSubnetworks": False})
    subnetwork = {"name": "theirs", "network": "global/networks/theirs", "ipCidrRange": "10.99.0.0/20"}
    plane.owners("compute.subnetworks.insert", project=project, region=REGION, body=subnetwork)
    for spec in (
        NetworkSpec(name="private", owner=OURS),
        NetworkSpec(name="adopted", owner=OURS, adopt=f"projects/{project}/global/networks/theirs"),
    ):
        for _ in range(2):
            driver.create(spec, owner=OURS, token=Token(spec.name), deadline=plane.soon())
        driver.check(spec.name, owner=OURS, deadline=plane.soon())
        way = EndpointSpec(name="way", owner=OURS, network=spec.name, target_address="10.99.0.9", target_port=443)
        for port in (443, 444):
            moved = attrs.evolve(way, target_port=port)
            driver.expose(moved, token=Token(f"{spec.name}{port}"), deadline=plane.soon())
        driver.get(spec.name, owner=OURS, deadline=plane.soon())
        driver.list(OURS, deadline=plane.soon())
        driver.withdraw("way", owner=OURS, deadline=plane.soon())
        driver.delete(spec.name, owner=OURS, deadline=plane.soon())


def use_identities_and_buckets(plane: Plane) -> None:
    identities, buckets = plane.identities, plane.buckets
    theirs = plane.world.project.add_account("theirs")
    for spec in (
        IdentitySpec(name="nodes", owner=OURS, subjects=("system:serviceaccount:ray:head",)),
        IdentitySpec(name="adopted", owner=OURS, adopt=theirs),
    ):
        identities.create(spec, token=Token(spec.name), deadline=plane.soon())
        identities.get(spec.name, owner=OURS, deadline=plane.soon())
        identities.credentials(spec.name, owner=OURS, deadline=plane.soon())
    identities.list(OURS, deadline=plane.soon())
    bucket = BucketSpec(name="data", owner=OURS)
    buckets.create(bucket, owner=OURS, token=Token("data"), deadline=plane.soon())
    buckets.list(OURS, deadline=plane.soon())
    for prefix in ("a/", "b/"):
        grant = {"identity": "nodes", "owner": OURS, "deadline": plane.soon()}
        buckets.grant("data", prefix, access=Access.WRITE, token=Token(prefix), **grant)  # type: ignore[arg-type]
    buckets.revoke("data", "a/", identity="nodes", owner=OURS, deadline=plane.soon())
    store = buckets.objects("data", owner=OURS)
    obstore.put(store, "b/key", b"1")
    obstore.put(store, "b/key", b"2")
    assert bytes(obstore.get(store, "b/key").bytes()) == b"2"
    assert [item["path"] for page in obstore.list(store) for item in page] == ["b/key"]
    expires = timedelta(minutes=5)
    buckets.signed_url(
        "data", "b/key", method=UrlMethod.GET, expires_in=expires, owner=OURS, deadline=plane.soon()
    ).reveal()
    obstore.delete(store, "b/key")
    for name in ("nodes", "adopted"):
        identities.delete(name, owner=OURS, deadline=plane.soon())
    buckets.delete("data", owner=OURS, deadline=plane.soon())


def use_machines(plane: Plane) -> None:
    driver, project = plane.machines, plane.world.project
    network = NetworkSpec(name="public", owner=OURS, mode=NetworkMode.PUBLIC)
    plane.networks.create(network, owner=OURS, token=Token("public"), deadline=plane.soon())
    project.add_image("ours")
    uri = f"projects/{project.id}/global/images/ours"
    spec = attrs.evolve(
        an_instance_spec("head"), owner=OURS, instance_type="n2-standard-2", network="public", image_uri=uri,
        bootstrap=a_bootstrap(), zones=(),
    )  # fmt: skip
    driver.offerings(deadline=plane.soon())
    driver.quotas(deadline=plane.soon())
    (outcome,) = driver.create([spec], token=Token("head"), deadline=plane.soon())
    assert isinstance(outcome, Created), outcome
    driver.get(outcome.instance.id, owner=OURS, deadline=plane.soon())
    project.project.timings.insert = timedelta(seconds=5)
    project.fail_late("ZONE_RESOURCE_POOL_EXHAUSTED", "none left")
    late = attrs.evolve(spec, name="late", zones=(f"{REGION}-a",))
    (coming,) = driver.create([late], token=Token("late"), deadline=plane.soon())
    assert isinstance(coming, Created), coming
    plane.clock.sleep(timedelta(seconds=6))
    states = {each.name: each.state for each in driver.list(OURS, deadline=plane.soon())}
    assert states["late"] is InstanceState.STOPPED
    project.project.timings.stop = project.project.timings.delete = timedelta(seconds=20)
    driver.delete([outcome.instance.id], owner=OURS, deadline=plane.soon())
    assert driver.get(outcome.instance.id, owner=OURS, deadline=plane.soon()).state is InstanceState.DELETING
