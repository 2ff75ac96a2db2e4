"""The drivers against an API server: what the contract's suite does not look at."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_conformance.simulators.kubernetes.problems import Problem
from anyscale_kubernetes.config import ROUTES, Gateway, Settings
from anyscale_kubernetes.errors import TABLE
from anyscale_kubernetes.flavors import FLAVORS
from anyscale_kubernetes.kinds import EVENT, HTTP_ROUTE, INGRESS, POD, SECRET, SERVICE_ACCOUNT
from anyscale_kubernetes.plugin import CAPABILITIES, SETTINGS, anyscale_provider
from anyscale_kubernetes.routes import children, url_of, way_of
from anyscale_kubernetes.testing import OWNER, Land, eventually, specified

from anyscale_core.drivers.capability import CAPABILITIES as KNOWN
from anyscale_core.errors import CloudError, InvalidRequest, NotFound, SpecError, Transient, Unauthenticated
from anyscale_core.models.identity import IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Deletion, Instance, NotCreated
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.registry import Registry


def create(land: Land, *names: str, token: str = "t", **settings: Any) -> tuple[Instance, ...]:
    driver = land.cluster(**settings)
    outcomes = driver.create([specified(name) for name in names], token=Token(token), deadline=land.soon())
    assert all(isinstance(outcome, Created) for outcome in outcomes), outcomes
    return tuple(outcome.instance for outcome in outcomes if isinstance(outcome, Created))


def test_the_provider_is_sound_says_of_every_capability_and_explains_every_setting() -> None:
    provider = Registry.load().provider("kubernetes")
    assert set(provider.slots()) == {"cluster", "identity", "storage", "networking"}
    assert CAPABILITIES.faults(provider.slots()) == ()
    assert CAPABILITIES.supported | set(CAPABILITIES.emulated) | set(CAPABILITIES.unsupported) == set(KNOWN)
    assert set(anyscale_provider().settings) == set(SETTINGS) == {field.name for field in attrs.fields(Settings)}


def test_the_page_explains_every_setting_and_every_flavor() -> None:
    page = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
    for word in (*SETTINGS, *FLAVORS, *ROUTES):
        assert f"| `{word}` |" in page


def test_wrong_settings_are_named_all_at_once(land: Land) -> None:
    with pytest.raises(SpecError) as caught:
        land.cluster(flavor="openshift", route="ingress", namespace="No", page_size=0)
    assert {fault.path for fault in caught.value.faults} >= {
        "flavor",
        "hostname",
        "ingress_class",
        "namespace",
        "page_size",
    }


def test_a_hundred_instances_cost_one_apply_each_two_looks_and_two_secrets(land: Land) -> None:
    made = create(land, *(f"n{number}" for number in range(100)))
    assert len({instance.id for instance in made}) == 100
    if land.simulated is not None:
        asked = [(request.method, request.path.split("/")[5]) for request in land.simulated.requests]
        assert {each: asked.count(each) for each in set(asked)} == {
            ("GET", "pods"): 1, ("GET", "events"): 1, ("PATCH", "pods"): 100, ("PATCH", "secrets"): 2,
        }  # fmt: skip


def test_the_bootstraps_go_with_the_last_of_their_pods(land: Land) -> None:
    one, two = create(land, "one", "two")
    driver = land.cluster()

    def delete(instance: Instance) -> None:
        driver.delete([instance.id], owner=OWNER, deadline=land.soon())
        land.clock.sleep(timedelta(seconds=40) if land.simulated is not None else timedelta())
        eventually(lambda: instance.id not in {each.id for each in driver.list(OWNER, deadline=land.soon())}, 60)

    delete(one)
    assert len(land.left(SECRET)) == 1
    delete(two)
    eventually(lambda: land.left(SECRET) == [], 60)
    assert land.left(POD) == []
    assert len([name for name in land.left(EVENT) if name.startswith("spent-")]) == 2


def test_a_deleted_instance_of_a_batch_does_not_come_back(land: Land) -> None:
    one, two = create(land, "one", "two")
    driver = land.cluster()
    driver.delete([one.id], owner=OWNER, deadline=land.soon())
    land.clock.sleep(timedelta(seconds=40) if land.simulated is not None else timedelta())
    outcomes = driver.create([specified("one"), specified("two")], token=Token("t"), deadline=land.soon())
    assert isinstance(outcomes[0], NotCreated)
    assert outcomes[0].error.reason == "TOKEN_SPENT"
    assert isinstance(outcomes[1], Created)
    assert outcomes[1].instance.id == two.id


def test_an_instance_type_that_is_not_there_is_told_with_the_nearest_one(land: Land) -> None:
    spec = attrs.evolve(specified(), instance_type="1CPU-1G")
    with pytest.raises(InvalidRequest, match="did you mean '1CPU-1GB'"):
        land.cluster().create([spec], token=Token("t"), deadline=land.soon())


def test_a_service_account_that_is_not_there_yet_is_a_matter_of_time(land: Land) -> None:
    spec = attrs.evolve(specified(), identity="nobody")
    with pytest.raises(Transient) as caught:
        land.cluster().create([spec], token=Token("t"), deadline=land.soon())
    assert caught.value.reason == "PROPAGATION"


def test_a_way_in_that_nobody_would_serve_is_refused_at_once(land: Land) -> None:
    driver = land.networking(route="httproute", gateway={"name": "nowhere"}, hostname="{name}.ray.invalid")
    driver.create(NetworkSpec(name="net"), owner=OWNER, token=Token("n"), deadline=land.soon())
    spec = EndpointSpec(name="head", owner=OWNER, network="net", target_address="10.0.0.9", target_port=8443)
    with pytest.raises(NotFound) as caught:
        driver.expose(spec, token=Token("e"), deadline=land.soon())
    assert caught.value.reason == "REFERENCE"
    assert caught.value.hint
    failed = [check for check in driver.check("net", owner=OWNER, deadline=land.soon()) if check.remedy]
    assert [check.id for check in failed] == ["network.route"]


@pytest.mark.parametrize("route", ["httproute", "ingress"])
def test_clients_are_told_the_very_name_that_the_route_serves(route: str) -> None:
    settings = Settings(route=route, hostname="{name}.ray.invalid", ingress_class="nginx", gateway=Gateway(name="g"))
    tags = {**OWNER.tags(), "Name": "head"}
    metadata = {
        "name": "head-0123456789", "uid": "u1", "labels": {}, "annotations": {"anyscale-core/tags": json.dumps(tags)},
    }  # fmt: skip
    record = {"metadata": metadata, "data": {"network": "", "address": "10.0.0.9", "port": "8443"}}
    (body,) = (body for kind, body in children(record, settings) if kind in (HTTP_ROUTE, INGRESS))
    hosts = body["spec"].get("hostnames") or [rule["host"] for rule in body["spec"]["rules"]]
    assert [f"https://{host}" for host in hosts] == [url_of(way_of(record), None, settings)]
    assert hosts == ["head.ray.invalid"]


def test_a_network_a_bucket_and_an_identity_of_one_name_do_not_meet(land: Land) -> None:
    network = land.networking().create(NetworkSpec(name="same"), owner=OWNER, token=Token("n"), deadline=land.soon())
    identity = land.identity().create(IdentitySpec(name="same", owner=OWNER), token=Token("i"), deadline=land.soon())
    assert network.id != identity.principal.rpartition(":")[2]
    assert land.networking().delete("same", owner=OWNER, deadline=land.soon()) is not Deletion.ALREADY_ABSENT
    assert land.identity().get("same", owner=OWNER, deadline=land.soon()) == identity


def test_annotations_of_settings_bind_an_account_to_the_clouds_own_identity(land: Land) -> None:
    key = "iam.gke.io/gcp-service-account"
    driver = land.identity(service_account_annotations={key: "{identity}@project.iam.gserviceaccount.com"})
    made = driver.create(IdentitySpec(name="jobs", owner=OWNER), token=Token("i"), deadline=land.soon())
    account = land.api().get(SERVICE_ACCOUNT, made.principal.rpartition(":")[2], deadline=land.soon())
    assert account["metadata"]["annotations"][key] == "jobs@project.iam.gserviceaccount.com"


@pytest.mark.parametrize("reason", sorted(TABLE))
def test_every_reason_comes_through_the_clients_transport_as_the_table_says(land: Land, reason: str) -> None:
    if land.simulated is None:
        return
    meaning = TABLE[reason]
    land.simulated.refuse(Problem(418, reason, "said the suite"))
    with pytest.raises(meaning.error) as caught:
        land.cluster().list(OWNER, deadline=land.soon())
    assert caught.value.reason == meaning.reason
    assert caught.value.vendor is not None
    assert (caught.value.vendor.code, caught.value.vendor.http_status) == (reason, 418)


def test_an_address_where_nobody_listens_and_a_kubeconfig_that_is_not_there_are_told_apart(land: Land) -> None:
    with pytest.raises(Unauthenticated, match="kubeconfig"):
        land.cluster(kubeconfig=str(land.folder / "none")).list(OWNER, deadline=land.soon())
    text = (land.folder / "kubeconfig").read_text() if land.simulated is not None else ""
    nowhere = land.folder / "nowhere"
    nowhere.write_text(text.replace(land.simulated.url, "https://127.0.0.1:1") if land.simulated is not None else "")
    with pytest.raises(CloudError) as caught:
        land.cluster(kubeconfig=str(nowhere)).list(OWNER, deadline=land.soon())
    assert isinstance(caught.value, Transient | Unauthenticated)
