"""The simulated cluster: where Pods go, how they run and end, and what belongs to them."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.kubernetes import NodeSpec, Servers, Settings

from anyscale_core.testing.clock import ManualClock
from tests.conformance.kubernetes_api import CONFIGS, PODS, Wire, a_config, a_pod

SMALL = {"cpu": "4", "memory": "8Gi", "pods": "10"}
NODES = (
    NodeSpec(name="n-1", zone="z-1", capacity=SMALL),
    NodeSpec(
        name="n-2",
        zone="z-2",
        capacity=SMALL | {"nvidia.com/gpu": "2"},
        taints=("gpu=yes:NoSchedule",),
        labels={"disk": "ssd"},
    ),
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture
def wire(servers: Servers) -> Iterator[Wire]:
    cluster = servers.start(clock=ManualClock(), settings=Settings(nodes=NODES))
    yield Wire(cluster)
    cluster.close()


def passed(wire: Wire, seconds: float = 2) -> None:
    """Let time pass."""
    wire.cluster.world.clock.sleep(timedelta(seconds=seconds))


def sized(name: str, cpu: str, **spec: Any) -> dict[str, Any]:
    """Return a Pod that asks for processors."""
    return a_pod(
        name, **{"containers": [{"name": "main", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}], **spec}
    )


def condition(wire: Wire, name: str, type: str) -> dict[str, Any]:
    """Return a Pod's condition, empty if it has none of that type."""
    conditions = wire.get(f"{PODS}/{name}").body["status"].get("conditions", ())
    return next((one for one in conditions if one["type"] == type), {})


def test_a_pod_is_placed_run_and_ready_by_the_clock(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    placed = wire.get(f"{PODS}/p").body
    assert placed["spec"]["nodeName"] == "n-1"
    assert placed["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z-1"
    assert placed["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    passed(wire)
    status = wire.get(f"{PODS}/p").body["status"]
    assert (status["phase"], status["startTime"]) == ("Running", "2026-01-01T00:00:00Z")
    assert status["podIP"].startswith("10.244.")
    assert status["containerStatuses"][0]["state"]["running"]["startedAt"] == "2026-01-01T00:00:01Z"
    assert condition(wire, "p", "Ready")["status"] == "True"


def test_what_fits_nowhere_says_why_node_by_node(wire: Wire) -> None:
    wire.post(PODS, sized("big", "5"))
    found = condition(wire, "big", "PodScheduled")
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert found["message"] == (
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}. no new claims to deallocate, "
        "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for "
        "scheduling."
    )
    events = wire.get("/api/v1/namespaces/default/events", fieldSelector="involvedObject.name=big").body["items"]
    assert [(one["reason"], one["message"]) for one in events] == [("FailedScheduling", found["message"])]
    wire.post(PODS, a_pod("lost", nodeSelector={"disk": "tape"}))
    assert "didn't match Pod's node affinity/selector" in condition(wire, "lost", "PodScheduled")["message"]


def test_tolerations_selectors_and_devices_lead_to_their_node(wire: Wire) -> None:
    gpu = {"name": "m", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    tolerations = [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]
    terms = [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    wire.post(PODS, a_pod("p", containers=[gpu], tolerations=tolerations, affinity=affinity))
    assert wire.get(f"{PODS}/p").body["spec"]["nodeName"] == "n-2"
    for name in "qr":
        wire.post(PODS, a_pod(name, containers=[gpu], tolerations=tolerations))
    assert "2 Insufficient nvidia.com/gpu" in condition(wire, "r", "PodScheduled")["message"]


def test_room_that_is_made_is_used(wire: Wire) -> None:
    wire.post(PODS, sized("first", "3"))
    wire.post(PODS, sized("second", "3"))
    assert "nodeName" not in wire.get(f"{PODS}/second").body["spec"]
    wire.delete(f"{PODS}/first", gracePeriodSeconds=0)
    assert wire.get(f"{PODS}/second").body["spec"]["nodeName"] == "n-1"
    wire.post(PODS, sized("third", "3"))
    wire.cluster.add_node(NodeSpec(name="n-3", capacity=SMALL))
    assert wire.get(f"{PODS}/third").body["spec"]["nodeName"] == "n-3"


def test_what_is_sold_out_by_zone_comes_back(wire: Wire) -> None:
    wire.cluster.sell_out("z-1")
    wire.post(PODS, sized("p", "1"))
    assert "Insufficient cpu" in condition(wire, "p", "PodScheduled")["message"]
    wire.cluster.restock("z-1")
    assert wire.get(f"{PODS}/p").body["spec"]["nodeName"] == "n-1"


def test_pods_that_must_be_apart_are(wire: Wire) -> None:
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    wire.post(PODS, a_pod("p", affinity=apart))
    wire.post(PODS, a_pod("q", affinity=apart))
    assert "1 node(s) didn't match pod anti-affinity rules" in condition(wire, "q", "PodScheduled")["message"]


def test_a_higher_priority_preempts_and_says_so_to_the_victim(wire: Wire) -> None:
    wire.post("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": "high"}, "value": 1000})
    wire.post(PODS, sized("low", "3"))
    passed(wire)
    wire.post(PODS, sized("high", "3", priorityClassName="high"))
    found = condition(wire, "low", "DisruptionTarget")
    assert (found["status"], found["reason"]) == ("True", "PreemptionByScheduler")
    assert wire.get(f"{PODS}/high").body["status"]["nominatedNodeName"] == "n-1"
    passed(wire)
    assert wire.get(f"{PODS}/low").status == 404
    assert wire.get(f"{PODS}/high").body["spec"]["nodeName"] == "n-1"
    assert "no PriorityClass with name none was found" in wire.post(PODS, a_pod("p", priorityClassName="none")).message


def test_a_container_that_ends_is_restarted_or_not_as_the_policy_says(wire: Wire) -> None:
    for policy in ("Always", "OnFailure", "Never"):
        wire.post(PODS, a_pod(policy.lower(), restartPolicy=policy))
    passed(wire)
    for name, code in (("always", 0), ("onfailure", 0), ("never", 3)):
        wire.cluster.exit("default", name, code)
    phases = {item["metadata"]["name"]: item["status"]["phase"] for item in wire.get(PODS).body["items"]}
    assert phases == {"always": "Running", "never": "Failed", "onfailure": "Succeeded"}
    ended = wire.get(f"{PODS}/never").body["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    wire.cluster.exit("default", "always", 1)
    again = wire.get(f"{PODS}/always").body["status"]["containerStatuses"][0]
    assert (again["restartCount"], again["state"]["waiting"]["reason"]) == (2, "CrashLoopBackOff")
    passed(wire, 11)
    assert "running" in wire.get(f"{PODS}/always").body["status"]["containerStatuses"][0]["state"]


def test_what_befalls_a_pod_shows_as_it_does_in_a_cluster(wire: Wire) -> None:
    for name in ("killed", "evicted", "warned"):
        wire.post(PODS, a_pod(name))
    passed(wire)
    wire.cluster.kill("default", "killed")
    assert wire.get(f"{PODS}/killed").status == 404
    wire.cluster.stop("default", "evicted")
    status = wire.get(f"{PODS}/evicted").body["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    wire.cluster.announce("default", "warned", grace=timedelta(seconds=20))
    warned = wire.get(f"{PODS}/warned").body
    assert warned["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:22Z"
    assert condition(wire, "warned", "DisruptionTarget")["reason"] == "TerminationByKubelet"
    passed(wire, 19)
    assert wire.get(f"{PODS}/warned").body["status"]["phase"] == "Running"
    passed(wire, 2)
    assert wire.get(f"{PODS}/warned").status == 404


def test_an_image_that_cannot_be_pulled_keeps_its_pod_waiting(wire: Wire) -> None:
    wire.cluster.spoil_image("broken")
    wire.post(PODS, a_pod("p", containers=[{"name": "m", "image": "broken:1"}]))
    passed(wire)
    shown = wire.get(f"{PODS}/p").body["status"]
    assert shown["phase"] == "Pending"
    assert shown["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
    passed(wire)
    assert (
        wire.get(f"{PODS}/p").body["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    )
    assert wire.get(f"{PODS}/p/log").message == 'container "m" in pod "p" is waiting to start: ImagePullBackOff'
    wire.cluster.spoil_image("broken", reason="")
    passed(wire)
    assert wire.get(f"{PODS}/p").body["status"]["phase"] == "Running"
    wire.cluster.print("default", "p", "one\ntwo\n")
    assert wire.get(f"{PODS}/p/log", tailLines=1).body == "two\n"


def test_a_secret_that_is_not_there_is_waited_for(wire: Wire) -> None:
    volumes = [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "boot", "path": "b"}]}}]
    wire.post(PODS, a_pod("p", volumes=volumes))
    passed(wire)
    assert wire.get(f"{PODS}/p").body["status"]["phase"] == "Pending"
    [event] = wire.get("/api/v1/events", fieldSelector="reason=FailedMount").body["items"]
    assert event["message"] == 'MountVolume.SetUp failed for volume "v" : secret "s" not found'
    secrets = "/api/v1/namespaces/default/secrets"
    wire.post(secrets, {"metadata": {"name": "s"}, "stringData": {"a": "b"}})
    passed(wire)
    messages = [one["message"] for one in wire.get("/api/v1/events", fieldSelector="reason=FailedMount").body["items"]]
    assert 'MountVolume.SetUp failed for volume "v" : references non-existent secret key: boot' in messages
    wire.patch(f"{secrets}/s", {"stringData": {"boot": "b"}})
    passed(wire)
    assert wire.get(f"{PODS}/p").body["status"]["phase"] == "Running"


def test_an_eviction_respects_the_budget(wire: Wire) -> None:
    for name in "ab":
        wire.post(PODS, a_pod(name))
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    wire.post(
        budgets, {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}}
    )
    passed(wire)
    assert wire.get(f"{budgets}/b").body["status"]["disruptionsAllowed"] == 1
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}}
    assert wire.post(f"{PODS}/a/eviction", eviction).status == 201
    assert "deletionTimestamp" in wire.get(f"{PODS}/a").body["metadata"]
    assert condition(wire, "a", "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    refused = wire.post(f"{PODS}/b/eviction", eviction | {"metadata": {"name": "b"}})
    assert (refused.status, refused.body["reason"]) == (429, "TooManyRequests")
    assert refused.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused.body["details"]["causes"][0]["reason"] == "DisruptionBudget"


def owned(name: str, *owners: dict[str, Any], blocks: bool = False) -> dict[str, Any]:
    """Return a ConfigMap with owners."""
    config = a_config(name)
    config["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Pod", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"],
         "blockOwnerDeletion": blocks}
        for one in owners
    ]  # fmt: skip
    return config


def test_what_is_owned_goes_with_the_last_of_its_owners(wire: Wire) -> None:
    first, second = (wire.post(PODS, a_pod(name)).body for name in "ab")
    wire.post(CONFIGS, owned("c", first, second))
    wire.delete(f"{PODS}/a", gracePeriodSeconds=0)
    left = wire.get(f"{CONFIGS}/c").body["metadata"]["ownerReferences"]
    assert [one["name"] for one in left] == ["b"]
    wire.delete(f"{PODS}/b", gracePeriodSeconds=0)
    assert wire.get(f"{CONFIGS}/c").status == 404
    wire.post(CONFIGS, owned("late", first))
    assert wire.get(f"{CONFIGS}/late").status == 404, "its owner is gone already"


def test_deletion_in_the_foreground_waits_and_an_orphan_stays(wire: Wire) -> None:
    owner = wire.post(CONFIGS, a_config("o")).body
    held = owned("c", owner, blocks=True)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    wire.post(CONFIGS, held)
    going = wire.delete(f"{CONFIGS}/o", {"propagationPolicy": "Foreground"}).body
    assert going["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert wire.get(f"{CONFIGS}/o").status == 200
    assert "deletionTimestamp" in wire.get(f"{CONFIGS}/c").body["metadata"]
    wire.patch(f"{CONFIGS}/c", {"metadata": {"finalizers": None}})
    assert wire.get(f"{CONFIGS}/o").status == 404
    owner = wire.post(CONFIGS, a_config("o")).body
    wire.post(CONFIGS, owned("c", owner))
    wire.delete(f"{CONFIGS}/o", {"propagationPolicy": "Orphan"})
    assert "ownerReferences" not in wire.get(f"{CONFIGS}/c").body["metadata"]


def test_a_deployment_keeps_its_pods_and_replaces_them_for_a_new_template(wire: Wire) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"d": "1"}}, "spec": a_pod("x")["spec"]}
    body = {
        "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"d": "1"}}, "template": template},
    }
    wire.post(path, body)
    passed(wire)
    first = wire.get(PODS, labelSelector="d=1").names
    assert len(first) == 2
    wire.cluster.kill("default", first[0])
    passed(wire)
    assert len(wire.get(PODS, labelSelector="d=1").names) == 2
    assert wire.get(f"{path}/d").body["status"]["readyReplicas"] == 2
    wire.patch(f"{path}/d", {"spec": {"template": {"metadata": {"labels": {"new": "yes"}}}}})
    passed(wire, 4)
    assert len(wire.get(PODS, labelSelector="new=yes").names) == 2
    assert len(wire.get(PODS, labelSelector="d=1").names) == 2
    wire.send("PUT", f"{path}/d/scale", {"spec": {"replicas": 0}})
    passed(wire, 4)
    assert wire.get(PODS).names == []
    wire.delete(f"{path}/d")
    assert wire.get("/apis/apps/v1/replicasets").names == []


def test_a_service_finds_its_ready_pods_and_a_balancer_an_address(wire: Wire) -> None:
    service = {
        "metadata": {"name": "s"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    made = wire.post("/api/v1/namespaces/default/services", service).body
    assert 30000 <= made["spec"]["ports"][0]["nodePort"] <= 32767
    wire.post(PODS, a_pod("p"))
    passed(wire, 3)
    address = wire.get(f"{PODS}/p").body["status"]["podIP"]
    [found] = wire.get(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", labelSelector="kubernetes.io/service-name=s"
    ).body["items"]
    assert found["endpoints"][0]["addresses"] == [address]
    assert found["endpoints"][0]["conditions"]["ready"]
    assert found["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert wire.get("/api/v1/namespaces/default/services/s").body["status"]["loadBalancer"]["ingress"][0]["ip"]
    wire.delete("/api/v1/namespaces/default/services/s")
    assert wire.get("/api/v1/namespaces/default/endpoints").names == []
    assert wire.get("/apis/discovery.k8s.io/v1/endpointslices").names == []


def test_ways_in_are_given_only_by_controllers_that_know_their_class(wire: Wire) -> None:
    gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/default"
    listener = {"name": "web", "port": 80, "protocol": "HTTP"}
    wire.post(
        f"{gateways}/gateways", {"metadata": {"name": "g"}, "spec": {"gatewayClassName": "c", "listeners": [listener]}}
    )
    passed(wire, 3)
    assert "addresses" not in wire.get(f"{gateways}/gateways/g").body["status"]
    wire.post(
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
        {"metadata": {"name": "c"}, "spec": {"controllerName": "x/y"}},
    )
    wire.delete(f"{gateways}/gateways/g")
    wire.post(
        f"{gateways}/gateways", {"metadata": {"name": "g"}, "spec": {"gatewayClassName": "c", "listeners": [listener]}}
    )
    wire.post(f"{gateways}/httproutes", {
        "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]},
    })  # fmt: skip
    passed(wire, 3)
    assert wire.get(f"{gateways}/gateways/g").body["status"]["addresses"]
    conditions = wire.get(f"{gateways}/httproutes/r").body["status"]["parents"][0]["conditions"]
    assert {one["type"]: one["reason"] for one in conditions} == {
        "Accepted": "Accepted",
        "ResolvedRefs": "BackendNotFound",
    }
    ingress = {
        "metadata": {"name": "i"},
        "spec": {"ingressClassName": "n", "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}},
    }
    ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
    wire.post("/apis/networking.k8s.io/v1/ingressclasses", {"metadata": {"name": "n"}, "spec": {"controller": "x/y"}})
    wire.post(ingresses, ingress)
    passed(wire, 3)
    assert wire.get(f"{ingresses}/i").body["status"]["loadBalancer"]["ingress"]


def test_a_claim_is_bound_by_its_class_and_kept_while_a_pod_uses_it(wire: Wire) -> None:
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    claim = {
        "metadata": {"name": "c"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    wire.post(claims, claim)
    wire.post(PODS, a_pod("p", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]))
    assert "unbound immediate PersistentVolumeClaims" in condition(wire, "p", "PodScheduled")["message"]
    wire.delete(f"{claims}/c")
    wire.delete(f"{PODS}/p")
    passed(wire, 3)
    assert wire.get(claims).names == []
    wire.post("/apis/storage.k8s.io/v1/storageclasses", {"metadata": {"name": "fast"}, "provisioner": "x/y"})
    wire.post(claims, claim)
    passed(wire, 3)
    assert wire.get(f"{claims}/c").body["status"]["phase"] == "Bound"
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    wire.patch("/apis/storage.k8s.io/v1/storageclasses/fast", {"metadata": {"annotations": annotations}})
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    plain = wire.post(claims, {"metadata": {"name": "plain"}, "spec": spec})
    assert plain.body["spec"]["storageClassName"] == "fast"
    passed(wire, 3)
    assert len(wire.get("/api/v1/persistentvolumes").names) == 2
    wire.delete(claims)
    passed(wire, 3)
    assert wire.get("/api/v1/persistentvolumes").names == []


def test_a_node_that_goes_takes_its_pods_along(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    passed(wire)
    wire.cluster.remove_node("n-1")
    assert wire.get(PODS).names == []


def test_the_cluster_is_told_from_others_by_what_is_in_it(wire: Wire) -> None:
    wire.cluster.plant(a_config("theirs") | {"metadata": {"name": "theirs", "namespace": "default"}})
    wire.post(PODS, a_pod("p"))
    twin = wire.cluster.double("default", "p")
    found = [(plural, obj["metadata"]["name"]) for plural, obj in wire.cluster.inventory("default")]
    assert ("configmaps", "theirs") in found
    assert {("pods", "p"), ("pods", twin)} <= set(found)
    labels = wire.get(f"{PODS}/{twin}").body["metadata"]["labels"]
    assert labels["name"] == "p"


def test_an_event_is_forgotten_an_hour_after_it_was_last_written(wire: Wire) -> None:
    events = "/api/v1/namespaces/default/events"
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Seen",
    }
    assert wire.post(events, event).status == 201
    passed(wire, 3000)
    assert wire.patch(f"{events}/e", {"count": 2}).status == 200
    passed(wire, 3000)
    assert wire.get(f"{events}/e").status == 200
    passed(wire, 700)
    assert wire.get(f"{events}/e").status == 404
    elsewhere = event | {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "other"}}
    assert wire.post(events, elsewhere).causes == ["involvedObject.namespace"]
