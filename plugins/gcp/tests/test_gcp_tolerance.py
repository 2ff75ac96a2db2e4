"""Other implementations of the API leave out what they do not need: the drivers need nothing of it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import attrs
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import GcpCluster
from anyscale_gcp.config import read_settings
from anyscale_gcp.identity import GcpIdentity
from anyscale_gcp.kit.world import OWNER, REGION, Ambient, World, endpoints_of
from anyscale_gcp.networking import GcpNetworking
from anyscale_gcp.storage import GcpStorage
from joserfc.jwk import RSAKey

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Conflict, NotFound
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Deletion, InstanceState
from anyscale_core.models.networking import EndpointSpec, EndpointState, NetworkMode, NetworkSpec
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner

OURS = owner(cluster="clu_1")
KEY = RSAKey.generate_key(2048)
LEFT_OUT = frozenset(
    {"clientOperationId", "creationTimestamp", "fingerprint", "kind", "labelFingerprint", "progress", "selfLinkWithId",
     "startTime", "targetId", "user"}
)  # fmt: skip
LINK = re.compile(r"https://www\.googleapis\.com/compute/v1/")
ELSEWHERE = "http://localhost:4510/compute/beta/"
PAGE = b"<!DOCTYPE html><title>404</title><p>That's all we know."


class Sloppy:
    """One request's ``http``: knows no request ids, says little, links to another host and version, and has pages for errors."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def request(self, uri: str, method: str = "GET", *args: Any, **kwargs: Any) -> Any:
        parts = urlsplit(uri)
        query = [(name, value) for name, value in parse_qsl(parts.query) if name != "requestId"]
        response, content = self._inner.request(
            urlunsplit(parts._replace(query=urlencode(query))), method, *args, **kwargs
        )
        if response.status == 404:
            return response, PAGE
        if not content or not response.get("content-type", "").startswith("application/json"):
            return response, content
        return response, json.dumps(_less(json.loads(content))).encode()


def _less(value: Any) -> Any:
    if isinstance(value, dict):
        found = {key: _less(each) for key, each in value.items() if key not in LEFT_OUT}
        return found | ({"status": "DONE"} if "operationType" in found else {})
    if isinstance(value, list):
        return [_less(each) for each in value]
    return LINK.sub(ELSEWHERE, value) if isinstance(value, str) else value


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-sloppy", timings=Timings.none())
        project.bind("", "roles/iam.serviceAccountTokenCreator", OWNER)
        yield World(simulator=simulator, project=project, folder=tmp_path, key=KEY)


def parts(world: World) -> tuple[DriverConfig, Client]:
    settings = {"project": world.project.id, "endpoints": endpoints_of(world.simulator)}
    config = DriverConfig(owner=OURS, home=world.folder, region=REGION, settings=settings)
    return config, Client(read_settings(config), config.clock, wrap=Sloppy, credentials=Ambient(world.project))


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=60)


@pytest.mark.parametrize("mode", NetworkMode)
def test_a_network_with_a_machine_and_a_way_in_comes_and_goes(world: World, mode: NetworkMode) -> None:
    driver, machines = GcpNetworking(*parts(world)), GcpCluster(*parts(world))
    spec = NetworkSpec(name="net", owner=OURS, mode=mode)
    made = driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon())
    assert driver.create(spec, owner=OURS, token=Token("t1"), deadline=soon()) == made
    assert driver.check("net", owner=OURS, deadline=soon())
    head = attrs.evolve(
        an_instance_spec("head"), owner=OURS, instance_type="n2-standard-2", network="net", bootstrap=a_bootstrap(),
        zones=(f"{REGION}-a",),
    )  # fmt: skip
    for _ in range(2):
        (outcome,) = machines.create([head], token=Token("t2"), deadline=soon())
    assert isinstance(outcome, Created), outcome
    seen = machines.get(outcome.instance.id, owner=OURS, deadline=soon())
    assert seen.state is InstanceState.RUNNING
    assert machines.list(OURS, deadline=soon()) == (seen,)
    way = EndpointSpec(name="way", owner=OURS, network="net", target_address=seen.address, target_port=8443)
    for port in (8443, 8444):
        shown = driver.expose(attrs.evolve(way, target_port=port), token=Token(f"w{port}"), deadline=soon())
        assert shown.state is EndpointState.READY
    assert driver.get("net", owner=OURS, deadline=soon()).endpoints == (shown,)
    with pytest.raises(Conflict) as caught:
        driver.delete("net", owner=OURS, deadline=soon())
    assert caught.value.reason == "IN_USE"
    driver.withdraw("way", owner=OURS, deadline=soon())
    machines.delete([seen.id], owner=OURS, deadline=soon())
    assert driver.delete("net", owner=OURS, deadline=soon()) is Deletion.GONE
    assert driver.delete("net", owner=OURS, deadline=soon()) is Deletion.ALREADY_ABSENT
    with pytest.raises(NotFound):
        driver.get("net", owner=OURS, deadline=soon())
    assert {each.kind for each in world.project.inventory()} <= {"serviceAccounts", "bindings", "operations"}


def test_an_identity_a_bucket_and_a_grant_come_and_go(world: World) -> None:
    identities, buckets = GcpIdentity(*parts(world)), GcpStorage(*parts(world))
    who = IdentitySpec(name="nodes", owner=OURS)
    for _ in range(2):
        identities.create(who, token=Token("t1"), deadline=soon())
        buckets.create(BucketSpec(name="data", owner=OURS), owner=OURS, token=Token("t2"), deadline=soon())
    grant = buckets.grant(
        "data", "a/", identity="nodes", access=Access.WRITE, owner=OURS, token=Token("t3"), deadline=soon()
    )
    assert grant.store.expires_at is not None
    assert buckets.revoke("data", "a/", identity="nodes", owner=OURS, deadline=soon()) is Deletion.GONE
    assert identities.delete("nodes", owner=OURS, deadline=soon()) is Deletion.GONE
    assert buckets.delete("data", owner=OURS, deadline=soon()) is Deletion.GONE
    assert identities.list(OURS, deadline=soon()) == ()
    assert buckets.list(OURS, deadline=soon()) == ()


def test_a_page_instead_of_an_error_is_an_error_of_its_status(world: World) -> None:
    driver = GcpNetworking(*parts(world))
    missing = NetworkSpec(name="net", owner=OURS, adopt="projects/nobodys-project/global/networks/none")
    with pytest.raises(NotFound) as caught:
        driver.create(missing, owner=OURS, token=Token("t1"), deadline=soon())
    assert caught.value.reason == "REFERENCE"
