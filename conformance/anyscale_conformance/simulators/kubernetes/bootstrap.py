"""What is there from the beginning: namespaces with their default accounts, nodes, and the roles that every cluster has."""

from typing import Any

from anyscale_conformance.simulators.kubernetes.rbac import GROUP
from anyscale_conformance.simulators.kubernetes.settings import NodeSpec, Settings
from anyscale_conformance.simulators.kubernetes.store import Change, Entry, Object
from anyscale_conformance.simulators.kubernetes.users import AUTHENTICATED, MASTERS, UNAUTHENTICATED
from anyscale_conformance.simulators.kubernetes.world import World

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
ROOT_CA = "kube-root-ca.crt"
_ALL = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
_PATHS = {
    "system:discovery": (["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
                          "/readyz", "/version", "/version/"], AUTHENTICATED),
    "system:public-info-viewer": (["/healthz", "/livez", "/readyz", "/version", "/version/"], UNAUTHENTICATED),
    "system:service-account-issuer-discovery": (
        ["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/"],
        "system:serviceaccounts",
    ),
}  # fmt: skip
_BASIC = [
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        "verbs": ["create"],
    },
    {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
]
_DELEGATOR = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]


def furnish(world: World, settings: Settings, ca: str) -> None:
    """Put into a new world what a new cluster has."""
    world.reactors.append(lambda change: _account(world, change, ca))
    for name in NAMESPACES:
        add_namespace(world, name)
    for node in settings.nodes:
        add_node(world, node)
    _role(world, "cluster-admin", [_ALL, {"nonResourceURLs": ["*"], "verbs": ["*"]}], MASTERS)
    for name, (paths, group) in _PATHS.items():
        _role(world, name, [{"nonResourceURLs": paths, "verbs": ["get"]}], group)
    _role(world, "system:basic-user", _BASIC, AUTHENTICATED)
    _role(world, "system:auth-delegator", _DELEGATOR, "")


def add_namespace(world: World, name: str) -> Entry:
    """Add a namespace."""
    parts = {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    return make(world, "namespaces", "", name, parts, labels={"kubernetes.io/metadata.name": name})


def add_node(world: World, node: NodeSpec) -> Entry:
    """Add a node that is ready."""
    labels = {
        "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": node.zone, "topology.kubernetes.io/region": node.zone.rpartition("-")[0] or node.zone,
        **node.labels,
    }  # fmt: skip
    capacity = {"pods": "110", **node.capacity}
    ready = {
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
        "lastTransitionTime": world.stamp, "lastHeartbeatTime": world.stamp,
    }  # fmt: skip
    spec: Object = {"taints": [_taint(words) for words in node.taints]} if node.taints else {}
    status = {
        "capacity": capacity, "allocatable": capacity, "conditions": [ready],
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": node.name}],
        "nodeInfo": {
            "kubeletVersion": "v1.36.2", "osImage": "simulated", "architecture": "amd64", "operatingSystem": "linux",
            "containerRuntimeVersion": "simulated://1", "kernelVersion": "6", "machineID": "", "systemUUID": "", "bootID": "",
            "kubeProxyVersion": "",
        },
    }  # fmt: skip
    return make(world, "nodes", "", node.name, {"spec": spec, "status": status}, labels=labels)


def make(
    world: World,
    plural: str,
    namespace: str,
    name: str,
    parts: Object,
    *,
    group: str = "",
    labels: dict[str, str] | None = None,
) -> Entry:
    """Make an object as the cluster's own components do, past admission."""
    meta: Object = {"name": name, "uid": world.uid(), "creationTimestamp": world.stamp}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = labels
    return world.put(world.kind(plural, group), namespace, name, {"metadata": meta, **parts})


def _account(world: World, change: Change, ca: str) -> None:
    """Give a new namespace the account that its Pods run as, and the authority they know the API server by."""
    entry = change.after
    if entry is None or change.before is not None or entry.kind.plural != "namespaces":
        return
    make(world, "serviceaccounts", entry.name, "default", {})
    make(world, "configmaps", entry.name, ROOT_CA, {"data": {"ca.crt": ca}})


def _role(world: World, name: str, rules: list[Any], group: str) -> None:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    make(world, "clusterroles", "", name, {"rules": rules}, group=GROUP, labels=labels)
    if not group:
        return
    subjects = [{"kind": "Group", "apiGroup": GROUP, "name": group}]
    if group == UNAUTHENTICATED:
        subjects.append({"kind": "Group", "apiGroup": GROUP, "name": AUTHENTICATED})
    ref = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
    make(world, "clusterrolebindings", "", name, {"roleRef": ref, "subjects": subjects}, group=GROUP, labels=labels)


def _taint(words: str) -> dict[str, str]:
    key, _, effect = words.rpartition(":")
    key, _, value = key.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})
