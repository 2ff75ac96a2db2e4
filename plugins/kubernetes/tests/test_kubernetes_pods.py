import json
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from anyscale_kubernetes.config import Patch, Settings
from anyscale_kubernetes.offerings import InstanceType, Shape, read_types
from anyscale_kubernetes.patches import fits, merge, merged, patched
from anyscale_kubernetes.pods import Order, parse, render
from anyscale_kubernetes.tags import label, tags_of
from anyscale_kubernetes.testing import OWNER, specified

from anyscale_core.errors import InvalidRequest, SpecError
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Binding, Identity
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import InstanceSpec, InstanceState, NodeKind, NoticeKind
from anyscale_core.models.owner import RESERVED_TAGS

TYPE = InstanceType(resources=Shape(CPU=1, memory="1Gi"))
GPU = InstanceType(resources=Shape(CPU=8, memory="32Gi", GPU=1), accelerator="NVIDIA-T4")
ORDER = Order(token=Token("t"), fingerprint="f", secret="bootstrap-x-0")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = timedelta(minutes=5)


def made(spec: InstanceSpec | None = None, type: InstanceType = TYPE, **settings: Any) -> dict[str, Any]:
    """Return the Pod of a spec as the API server would show it when it is new."""
    pod = render(spec or specified(), type, ORDER, Settings(image="ray:1", **settings))
    pod["metadata"] |= {"namespace": "ray", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return pod


def test_what_is_written_into_a_pod_is_read_back_from_it() -> None:
    spec = specified(market_type=MarketType.SPOT, zones=("zone-a",), tags={"team": "a b/ü", "anyscale-core-plane": "x"})
    instance = parse(made(spec), now=NOW, patience=LIMIT)
    assert (instance.name, instance.node_id, instance.owner) == (spec.name, spec.node_id, spec.owner)
    assert (instance.instance_type, instance.market_type, instance.zone) == ("1CPU-1GB", MarketType.SPOT, "zone-a")
    assert instance.tags["team"] == "a b/ü"
    assert instance.tags["anyscale-core-plane"] == OWNER.plane
    assert set(instance.tags) >= RESERVED_TAGS


@pytest.mark.parametrize("value", ["", "a b", "-a", "ü", "x" * 64, "sha256.abc", "a/b"])
def test_a_value_that_no_label_can_carry_is_selected_by_its_digest(value: str) -> None:
    assert label(value).startswith("sha256.")
    assert len(label(value)) <= 63


def test_a_pod_runs_as_its_identity_and_has_no_right_to_the_api_server() -> None:
    pod = made(specified(identity="jobs"))["spec"]
    assert pod["serviceAccountName"].startswith("jobs-")
    assert pod["automountServiceAccountToken"] is False
    assert made(specified(identity="jobs"), service_accounts={"*": "shared"})["spec"]["serviceAccountName"] == "shared"
    with pytest.raises(InvalidRequest, match="operator's own account"):
        made(specified(identity="jobs"), service_accounts={"jobs": "anyscale-operator"})


def test_a_pod_runs_as_the_account_that_another_clouds_identity_is_bound_to_in_its_namespace() -> None:
    subjects = ("system:serviceaccount:other:x", "oidc:arn:p/q#system:serviceaccount:ray:workloads")
    bound = Identity(
        name="jobs", owner=OWNER, principal="p", subjects=subjects, binding=Binding(workload={"use": "true"})
    )
    spec = specified(identity="jobs", bound_identity=bound)
    pod = made(spec, namespace="ray")
    assert pod["spec"]["serviceAccountName"] == "workloads"
    assert pod["metadata"]["labels"].items() > {"use": "true"}.items()
    assert made(spec, namespace="ray", service_accounts={"jobs": "own"})["spec"]["serviceAccountName"] == "own"
    with pytest.raises(
        InvalidRequest, match="no ServiceAccount of the namespace elsewhere may become the identity jobs"
    ):
        made(spec, namespace="elsewhere")
    operators = attrs.evolve(bound, subjects=("system:serviceaccount:ray:anyscale-operator",))
    with pytest.raises(InvalidRequest, match="operator's own account"):
        made(attrs.evolve(spec, bound_identity=operators), namespace="ray")


def test_a_pod_asks_for_no_more_of_its_node_than_the_restricted_standard_allows() -> None:
    pod = made(run_as_user=1000)["spec"]
    assert pod["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000,
        "fsGroup": 1000,
    }  # fmt: skip
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert made()["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


def test_no_secret_is_in_a_pod() -> None:
    assert "canary" not in json.dumps(made())


@pytest.mark.parametrize(
    ("flavor", "market", "selector"),
    [
        ("generic", MarketType.SPOT, {"node.anyscale.com/capacity-type": "SPOT"}),
        ("generic", MarketType.ON_DEMAND, {}),
        ("eks", MarketType.SPOT, {"eks.amazonaws.com/capacityType": "SPOT"}),
        ("eks", MarketType.ON_DEMAND, {"eks.amazonaws.com/capacityType": "ON_DEMAND"}),
        ("gke", MarketType.SPOT, {"cloud.google.com/gke-spot": "true"}),
        ("aks", MarketType.SPOT, {"kubernetes.azure.com/scalesetpriority": "spot"}),
        ("karpenter", MarketType.ON_DEMAND, {"karpenter.sh/capacity-type": "on-demand"}),
    ],
)
def test_each_kind_of_cluster_says_its_market_in_its_own_words(
    flavor: str, market: MarketType, selector: dict[str, str]
) -> None:
    assert made(specified(market_type=market), flavor=flavor)["spec"].get("nodeSelector", {}) == selector


def test_a_gpu_is_asked_for_selected_and_tolerated() -> None:
    pod = made(type=GPU, flavor="gke")["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "NVIDIA-T4"}
    assert {each["key"] for each in pod["tolerations"]} == {"nvidia.com/gpu", "node.anyscale.com/accelerator-type"}


def test_several_zones_are_required_and_the_first_is_preferred() -> None:
    affinity = made(specified(zones=("b", "a")))["spec"]["affinity"]["nodeAffinity"]
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert required[0]["matchExpressions"][0]["values"] == ["b", "a"]
    first, second = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert first["weight"] > second["weight"]


def status(phase: str = "Pending", *conditions: dict[str, str], **more: Any) -> dict[str, Any]:
    return made() | {"status": {"phase": phase, "conditions": list(conditions), **more}}


def test_a_pod_that_no_node_has_room_for_is_stopped_after_the_limit_with_the_schedulers_words() -> None:
    words = "0/3 nodes are available: 3 Insufficient cpu."
    waiting = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    pod = status("Pending", waiting)
    early = parse(pod, now=NOW + timedelta(minutes=4), patience=LIMIT)
    assert (early.state, early.reason) == (InstanceState.PENDING, f"Unschedulable: {words}")
    late = parse(pod, now=NOW + timedelta(minutes=5), patience=LIMIT)
    assert (late.state, late.reason) == (InstanceState.STOPPED, f"Unschedulable: {words}")


def test_a_preemption_is_a_notice_until_we_delete_the_pod_ourselves() -> None:
    pod = status("Running", {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"})
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    instance = parse(pod, now=NOW, patience=LIMIT)
    assert instance.state is InstanceState.RUNNING
    assert instance.notice is not None
    assert (instance.notice.kind, instance.notice.at) == (NoticeKind.PREEMPTION, NOW + timedelta(seconds=30))
    assert parse(pod, now=NOW, patience=LIMIT, is_spent=True).state is InstanceState.DELETING


def test_a_pod_that_was_evicted_says_why_and_one_whose_image_cannot_be_pulled_too() -> None:
    evicted = parse(status("Failed", reason="Evicted", message="low on memory"), now=NOW, patience=LIMIT)
    assert (evicted.state, evicted.reason) == (InstanceState.STOPPED, "Evicted: low on memory")
    waiting = {"name": "ray", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pulling = parse(status("Pending", containerStatuses=[waiting]), now=NOW, patience=LIMIT)
    assert (pulling.state, pulling.reason) == (InstanceState.PENDING, "ImagePullBackOff: no such image")


def test_patches_go_by_annotations_in_order_and_make_the_parents_of_what_they_add() -> None:
    add = {"op": "add", "path": "/spec/dnsConfig/options/ndots", "value": 1000}
    head = Patch(patch=(add,), selector="anyscale-core/ray-node-type in (head)")
    later = Patch(patch=({**add, "op": "replace", "value": 2000},), selector="!anyscale-core/accelerator-type")
    assert "dnsConfig" not in patched(made(), [head])["spec"]
    pod = made(specified(kind=NodeKind.HEAD), patches=(head, later))
    assert pod["spec"]["dnsConfig"]["options"] == {"ndots": 2000}


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "replace", "path": "/spec/serviceAccountName", "value": "admin"},
        {"op": "add", "path": "/metadata/labels/anyscale-core-plane", "value": "pln_2"},
        {"op": "remove", "path": "/spec/no/such"},
    ],
)
def test_a_patch_that_may_not_be_is_named(patch: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"patches\[0\]"):
        made(patches=(Patch(patch=(patch,)),))


def test_advanced_config_merges_strategically_and_names_everything_that_it_may_not_set() -> None:
    env = {"spec": {"containers": [{"name": "ray", "env": [{"name": "A", "value": "1"}]}], "priorityClassName": "high"}}
    pod = merged(made(), env)["spec"]
    assert pod["priorityClassName"] == "high"
    assert {each["name"] for each in pod["containers"][0]["env"]} >= {"POD_IP", "A"}
    bad = {"spec": {"serviceAccountName": "admin", "automountServiceAccountToken": True}, "status": {}}
    with pytest.raises(InvalidRequest) as caught:
        made(specified(advanced_instance_config=bad))
    for word in ("serviceAccountName", "automountServiceAccountToken", "status"):
        assert word in caught.value.message


def test_a_strategic_merge_takes_away_replaces_and_keeps_the_order_of_lists() -> None:
    value = {"a": 1, "env": [{"name": "x", "value": "1"}, {"name": "y"}], "map": {"b": 1}, "args": ["1"]}
    patch = {
        "a": None, "env": [{"name": "y", "$patch": "delete"}, {"name": "x", "value": "2"}],
        "map": {"$patch": "replace", "c": 2}, "args": ["2"],
    }  # fmt: skip
    assert merge(value, patch) == {"env": [{"name": "x", "value": "2"}], "map": {"c": 2}, "args": ["2"]}


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("", True), ("a", True), ("!a", False), ("a=1", True), ("a==2", False), ("a!=2", True), ("a in (1, 2)", True),
        ("a notin (1)", False), ("a in (1), b notin (x), !c", True),
    ],
)  # fmt: skip
def test_selectors_are_read_as_kubernetes_reads_them(selector: str, wanted: bool) -> None:
    assert fits(selector, {"a": "1", "b": "2"}) is wanted


def test_what_is_no_selector_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is not a selector"):
        fits("a in 1, 2)", {})


def test_a_catalogue_names_every_fault_of_every_type() -> None:
    raw = {
        "a": {"resources": {"CPU": 2.5, "memory": "8Gi"}}, "b": {"resources": {"CPU": 0, "memory": "much"}},
        "c": {"resources": {"CPU": 1, "memory": "8Gi"}, "nodeselector": {}, "markets": ["SPOT", "CHEAP"]},
    }  # fmt: skip
    with pytest.raises(SpecError) as caught:
        read_types(raw, subject="types")
    paths = {fault.path for fault in caught.value.faults}
    assert {"a.resources.CPU", "b.resources.CPU", "b.resources.memory"} <= paths
    assert any(path.startswith("c") for path in paths)


def test_the_tags_of_what_is_not_ours_are_none() -> None:
    assert tags_of({"metadata": {"annotations": {"anyscale-core/tags": "not json"}}}) == {}
    assert attrs.evolve(OWNER, cluster=None).owns({}) is False
