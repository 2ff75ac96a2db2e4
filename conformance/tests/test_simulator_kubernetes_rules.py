"""What a real API server refuses, and some clients would like to be let through."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.kubernetes import Cluster, Servers

from anyscale_core.testing.clock import ManualClock
from tests.conformance.kubernetes_api import PODS, Wire, a_pod

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Servers() as servers:
        yield servers.start(clock=ManualClock())


@pytest.fixture
def wire(cluster: Cluster) -> Wire:
    return Wire(cluster)


def enforce(wire: Wire, level: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}
    assert wire.patch("/api/v1/namespaces/default", {"metadata": {"labels": labels}}).status == 200


def hardened(name: str) -> dict[str, Any]:
    pod = a_pod(name, securityContext={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod["spec"]["containers"][0]["securityContext"] = closed
    return pod


def test_the_restricted_standard_names_everything_that_is_missing(wire: Wire) -> None:
    enforce(wire, "restricted")
    refused = wire.post(PODS, a_pod("plain"))
    assert refused.status == 403
    assert 'pods "plain" is forbidden: violates PodSecurity "restricted:latest": ' in refused.message
    for word in ("allowPrivilegeEscalation", "unrestricted capabilities", "runAsNonRoot", "seccompProfile"):
        assert word in refused.message
    assert wire.post(PODS, hardened("fine")).status == 201


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"hostNetwork": True}, "host namespaces (hostNetwork=true)"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, 'hostPath volumes (volume "v")'),
    ],
)
def test_the_baseline_standard_keeps_pods_off_their_node(wire: Wire, spec: dict[str, Any], word: str) -> None:
    assert wire.post(PODS, a_pod("before", **spec)).status == 201
    enforce(wire, "baseline")
    assert word in wire.post(PODS, a_pod("after", **spec)).message
    assert wire.post(PODS, a_pod("plain")).status == 201


def test_a_budget_expects_no_pods_without_a_controller_but_by_a_plain_number(wire: Wire, cluster: Cluster) -> None:
    selector = {"matchLabels": {"app": "x"}}
    wire.post(PODS, a_pod("bare"))
    wire.post(BUDGETS, {"metadata": {"name": "most"}, "spec": {"maxUnavailable": 1, "selector": selector}})
    wire.post(BUDGETS, {"metadata": {"name": "least"}, "spec": {"minAvailable": 1, "selector": selector}})
    cluster.world.clock.sleep(timedelta(seconds=5))
    expected = {name: wire.get(f"{BUDGETS}/{name}").body["status"]["expectedPods"] for name in ("most", "least")}
    assert expected == {"most": 0, "least": 1}
    wire.delete(f"{BUDGETS}/least")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "bare"}}
    assert wire.post(f"{PODS}/bare/eviction", eviction).status == 429, "none of none may go"


def test_a_claim_that_is_not_bound_cannot_be_resized_and_none_becomes_smaller(wire: Wire, cluster: Cluster) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
    wire.post(CLAIMS, {"metadata": {"name": "c"}, "spec": spec})
    bigger = {"spec": {"resources": {"requests": {"storage": "20Gi"}}}}
    assert "immutable after creation" in wire.patch(f"{CLAIMS}/c", bigger).message
    wire.patch(f"{CLAIMS}/c/status", {"status": {"phase": "Bound"}})
    assert wire.patch(f"{CLAIMS}/c", bigger).status == 200
    smaller = {"spec": {"resources": {"requests": {"storage": "5Gi"}}}}
    assert "can not be less than" in wire.patch(f"{CLAIMS}/c", smaller).message


def test_ranges_of_sources_are_a_load_balancers_alone(wire: Wire) -> None:
    spec = {"ports": [{"port": 443}], "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    assert wire.post(SERVICES, {"metadata": {"name": "s"}, "spec": spec}).causes == ["spec.LoadBalancerSourceRanges"]
    assert wire.post(SERVICES, {"metadata": {"name": "s"}, "spec": spec | {"type": "LoadBalancer"}}).status == 201


def test_a_slice_keeps_its_type_of_address(wire: Wire) -> None:
    body = {"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}
    assert wire.post(SLICES, body).causes == ["endpoints[0].addresses[0]"]
    body["endpoints"] = [{"addresses": ["10.0.0.1"]}]
    assert wire.post(SLICES, body).status == 201
    moved = {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}]}
    assert wire.patch(f"{SLICES}/e", moved).causes == ["addressType"]


def test_a_runtime_class_has_to_be_there(wire: Wire) -> None:
    refused = wire.post(PODS, a_pod("p", runtimeClassName="gvisor"))
    assert refused.message == 'pods "p" is forbidden: pod rejected: RuntimeClass "gvisor" not found'
    made = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"}
    assert wire.post("/apis/node.k8s.io/v1/runtimeclasses", made).status == 201
    assert wire.post(PODS, a_pod("p", runtimeClassName="gvisor")).status == 201
