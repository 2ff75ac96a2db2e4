"""What a namespace's own rules do to our things: security standards, limits, classes and budgets."""

from collections.abc import Mapping
from typing import Any

import pytest
from anyscale_kubernetes.kinds import NAMESPACE, NETWORK_POLICY, POD, SERVICE, VOLUME_CLAIM, Kind
from anyscale_kubernetes.manifest import POLICY, manifest
from anyscale_kubernetes.tags import KIND_LABEL
from anyscale_kubernetes.testing import OWNER, Land, eventually, specified

from anyscale_core.errors import CloudError, InvalidRequest, NotFound, PermissionDenied, Throttled
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, InstanceState, NodeKind, NotCreated
from anyscale_core.models.manifest import ManifestConfig
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret

LIMIT_RANGE = Kind(kind="LimitRange", plural="limitranges")


def refused(land: Land, token: str, advanced: Mapping[str, Any] | None = None, **settings: Any) -> CloudError:
    """Return the error that the one instance of a batch meets."""
    spec = specified(advanced_instance_config=advanced or {})
    (outcome,) = land.cluster(**settings).create([spec], token=Token(token), deadline=land.soon())
    assert isinstance(outcome, NotCreated), outcome
    return outcome.error


def test_a_namespace_that_enforces_the_restricted_standard_takes_pods_of_a_numbered_user(land: Land) -> None:
    name = land.settings["namespace"]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": name, "labels": labels}}
    land.api().apply(NAMESPACE, body, manager="admin", deadline=land.soon(), force=True)
    with pytest.raises(PermissionDenied, match="violates PodSecurity") as caught:
        land.cluster().create([specified()], token=Token("a"), deadline=land.soon())
    assert caught.value.reason == "ORG_POLICY"
    assert "run_as_user" in caught.value.hint
    (outcome,) = land.cluster(run_as_user=1000).create([specified()], token=Token("b"), deadline=land.soon())
    assert isinstance(outcome, Created)


def test_a_shape_beyond_the_limit_range_is_wrong_for_the_namespace(land: Land) -> None:
    limits = {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]}}
    land.api().apply(LIMIT_RANGE, limits, manager="admin", deadline=land.soon())
    error = refused(land, "t")
    assert isinstance(error, InvalidRequest)
    assert "LimitRange" in error.hint


@pytest.mark.parametrize("key", ["priorityClassName", "runtimeClassName"])
def test_a_class_that_is_not_there_is_a_missing_reference(land: Land, key: str) -> None:
    error = refused(land, "t", {"spec": {key: "nobody-made-this"}})
    assert isinstance(error, NotFound)
    assert error.reason == "REFERENCE"


def test_a_field_that_no_pod_has_is_an_invalid_request(land: Land) -> None:
    assert isinstance(refused(land, "t", {"spec": {"hostnme": "x"}}), InvalidRequest)
    assert isinstance(refused(land, "u", {"metadata": {"labels": {"team": "a b"}}}), InvalidRequest)


def test_a_head_is_not_evicted_and_a_worker_is(land: Land) -> None:
    config = ManifestConfig(
        cloud="c", provider="kubernetes", url="https://plane.invalid", ca_pem="", image="i:1", token=Secret("t"),
        namespace=land.settings["namespace"],
    )  # fmt: skip
    api, driver = land.api(), land.cluster()
    (budget,) = (obj for obj in manifest(config) if obj["kind"] == POLICY.kind)
    api.apply(POLICY, budget, manager="kubectl", deadline=land.soon())
    specs = [specified("head", kind=NodeKind.HEAD, group="head"), specified("worker")]
    assert all(isinstance(each, Created) for each in driver.create(specs, token=Token("t"), deadline=land.soon()))

    def all_run() -> bool:
        land.pass_s(5)
        return {each.state for each in driver.list(OWNER, deadline=land.soon())} == {InstanceState.RUNNING}

    def budget_counts() -> bool:
        found = api.get(POLICY, budget["metadata"]["name"], deadline=land.soon())
        return bool((found.get("status") or {}).get("currentHealthy") == 1)

    eventually(all_run, 120)
    eventually(budget_counts, 60)

    def evict(kind: str) -> None:
        (pod,) = api.list(POD, selector=f"{KIND_LABEL}={kind}", deadline=land.soon())
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        api.request("POST", POD.path(api.namespace, name, "eviction"), body=body, deadline=land.soon())

    with pytest.raises(Throttled, match="disruption budget"):
        evict("head")
    evict("worker")


def test_a_volume_stays_as_it_was_made_whatever_the_settings_say_later(land: Land) -> None:
    (made,) = land.cluster().create([specified(volume="gcs")], token=Token("a"), deadline=land.soon())
    assert isinstance(made, Created)
    (claim,) = land.api().list(VOLUME_CLAIM, deadline=land.soon())
    driver = land.cluster(volume_gigabytes=5, storage_class="other")
    driver.delete([made.instance.id], owner=OWNER, deadline=land.soon())

    def gone() -> bool:
        land.pass_s(40)
        return not driver.list(OWNER, deadline=land.soon())

    eventually(gone, 60)
    (again,) = driver.create([specified("two", volume="gcs")], token=Token("b"), deadline=land.soon())
    assert isinstance(again, Created), again
    (now,) = land.api().list(VOLUME_CLAIM, deadline=land.soon())
    assert (now["metadata"]["uid"], now["spec"]["resources"]) == (claim["metadata"]["uid"], claim["spec"]["resources"])


def test_a_load_balancer_lets_clients_in_from_where_the_settings_say(land: Land) -> None:
    driver = land.networking(route="loadbalancer", client_cidrs=["192.0.2.0/24"])
    driver.create(NetworkSpec(name="net"), owner=OWNER, token=Token("n"), deadline=land.soon())
    spec = EndpointSpec(name="head", owner=OWNER, network="net", target_address="10.0.0.9", target_port=8443)
    driver.expose(spec, token=Token("e"), deadline=land.soon())
    (service,) = land.api().list(SERVICE, deadline=land.soon())
    assert service["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    policies = land.api().list(NETWORK_POLICY, deadline=land.soon())
    (entrance,) = (policy for policy in policies if policy["metadata"]["name"] == service["metadata"]["name"])
    assert "from" not in entrance["spec"]["ingress"][0], "a balancer's packets have a node's or a client's address"
