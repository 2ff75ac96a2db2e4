"""What an API server fills in that nobody has written. Source: kubernetes.io, API reference, the defaults of each field."""

import base64
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.store import Object
from anyscale_conformance.simulators.kubernetes.world import World

WITH_GENERATION = {
    "pods", "deployments", "replicasets", "ingresses", "networkpolicies", "poddisruptionbudgets", "gatewayclasses", "gateways",
    "httproutes", "ingressclasses", "priorityclasses", "endpointslices",
}  # fmt: skip
NODE_PORTS = (30000, 32767)


def fill(world: World, kind: Kind, obj: Object, old: Object | None = None) -> None:
    """Fill the defaults of an object in; what an update leaves out of what is given once (a clusterIP) stays."""
    if old is None and kind.plural in WITH_GENERATION:
        obj["metadata"]["generation"] = 1
    filler = _FILLERS.get(kind.plural)
    if filler is not None:
        filler(world, obj, old or {})


def on_update(kind: Kind, obj: Object, old: Object) -> None:
    """Bring what an update may not change back where the API ignores it silently."""
    if kind.plural == "namespaces":
        obj["spec"] = old.get("spec", {})


def fill_pod_spec(spec: dict[str, Any]) -> None:
    """Fill in what a Pod's spec, or a template's, does not say."""
    for key, value in _POD.items():
        spec.setdefault(key, value() if callable(value) else value)
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _container(container)
    for volume in spec.get("volumes", ()):
        _volume(volume)


def _pod(_: World, obj: Object, old: Object) -> None:
    spec = obj.setdefault("spec", {})
    fill_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    if not old:
        obj["status"] = {"phase": "Pending", "qosClass": qos(spec)}


def qos(spec: Mapping[str, Any]) -> str:
    """Return the quality of service of a Pod: Guaranteed, Burstable or BestEffort."""
    resources = [container.get("resources") or {} for container in spec.get("containers", ())]
    words = ("cpu", "memory")
    if not any(set(words) & {*one.get("limits", {}), *one.get("requests", {})} for one in resources):
        return "BestEffort"
    guaranteed = all(
        word in one.get("limits", {}) and one.get("requests", {}).get(word, one["limits"][word]) == one["limits"][word]
        for one in resources
        for word in words
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _container(container: dict[str, Any]) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    is_latest = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if is_latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **resources.get("requests", {})}
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in container.get("env", ()):
        if (field := (variable.get("valueFrom") or {}).get("fieldRef")) is not None:
            field.setdefault("apiVersion", "v1")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            _probe(container[probe])


def _probe(probe: dict[str, Any]) -> None:
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(key, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("scheme", "HTTP")
        probe["httpGet"].setdefault("path", "/")


def _volume(volume: dict[str, Any]) -> None:
    if len(volume) == 1:
        volume["emptyDir"] = {}
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if source in volume:
            volume[source].setdefault("defaultMode", 0o644)
    for source in (volume.get("projected") or {}).get("sources", ()):
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def _service(world: World, obj: Object, old: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] == "ExternalName":
        return
    before = old.get("spec", {})
    if not spec.get("clusterIP"):
        spec["clusterIP"] = before.get("clusterIP") or _free_address(world)
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
        given = {port.get("port"): port.get("nodePort") for port in before.get("ports", ())}
        for port in spec.get("ports", ()):
            if not port.get("nodePort"):
                port["nodePort"] = given.get(port.get("port")) or _free_port(world)
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if not old:
        obj["status"] = {"loadBalancer": {}}


def _free_address(world: World) -> str:
    taken = {entry.obj["spec"].get("clusterIP") for entry in world.entries("services")}
    return next(
        address for _ in itertools.count()
        if (address := f"10.96.{world.random.randrange(1, 255)}.{world.random.randrange(1, 255)}") not in taken
    )  # fmt: skip


def _free_port(world: World) -> int:
    taken = {port.get("nodePort") for entry in world.entries("services") for port in entry.obj["spec"].get("ports", ())}
    return next(port for _ in itertools.count() if (port := world.random.randint(*NODE_PORTS)) not in taken)


def _deployment(_: World, obj: Object, old: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    _template(spec)
    if not old:
        obj["status"] = {}


def _replica_set(_: World, obj: Object, old: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _template(spec)
    if not old:
        obj["status"] = {"replicas": 0}


def _template(spec: dict[str, Any]) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {}).setdefault("creationTimestamp", None)
    template["metadata"] = {key: value for key, value in template["metadata"].items() if value is not None}
    fill_pod_spec(template.setdefault("spec", {}))


def _namespace(_: World, obj: Object, old: Object) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    if not old:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}


def _secret(_: World, obj: Object, _old: Object) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        obj["data"] = obj.get("data", {}) | {
            key: base64.b64encode(value.encode()).decode() for key, value in plain.items()
        }


def _claim(_: World, obj: Object, old: Object) -> None:
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    if not old:
        obj["status"] = {"phase": "Pending"}
        obj["metadata"].setdefault("finalizers", []).append("kubernetes.io/pvc-protection")


def _policy(_: World, obj: Object, _old: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if "egress" in spec else ["Ingress"])
    for way in ("ingress", "egress"):
        for rule in spec.get(way, ()):
            for port in rule.get("ports", ()):
                port.setdefault("protocol", "TCP")


def _event(_world: World, obj: Object, _: Object) -> None:
    obj["metadata"].setdefault("namespace", obj.get("involvedObject", {}).get("namespace", "default"))
    obj.setdefault("source", {})
    obj.setdefault("type", "")


def _role_binding(_: World, obj: Object, _old: Object) -> None:
    if "roleRef" in obj:
        obj["roleRef"].setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in obj.get("subjects", ()):
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _priority_class(_: World, obj: Object, _old: Object) -> None:
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _gateway(_: World, obj: Object, old: Object) -> None:
    for listener in obj.get("spec", {}).get("listeners", ()):
        listener.setdefault("allowedRoutes", {}).setdefault("namespaces", {}).setdefault("from", "Same")
    if not old:
        unknown = {"status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
                   "lastTransitionTime": "1970-01-01T00:00:00Z"}  # fmt: skip
        obj["status"] = {"conditions": [{"type": type, **unknown} for type in ("Accepted", "Programmed")]}


def _route(_: World, obj: Object, _old: Object) -> None:
    for parent in obj.setdefault("spec", {}).get("parentRefs", ()):
        parent.setdefault("group", "gateway.networking.k8s.io")
        parent.setdefault("kind", "Gateway")
    for rule in obj["spec"].setdefault("rules", [{}]):
        for match in rule.setdefault("matches", [{}]):
            match.setdefault("path", {"type": "PathPrefix", "value": "/"})
        for backend in rule.get("backendRefs", ()):
            for key, value in (("group", ""), ("kind", "Service"), ("weight", 1)):
                backend.setdefault(key, value)


def _storage_class(_: World, obj: Object, _old: Object) -> None:
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def _status(value: Mapping[str, Any]) -> Callable[[World, Object, Object], None]:
    def filler(_: World, obj: Object, old: Object) -> None:
        if not old:
            obj["status"] = dict(value)

    return filler


_POD: Mapping[str, Any] = {
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler", "securityContext": dict,
}  # fmt: skip
_FILLERS: Mapping[str, Callable[[World, Object, Object], None]] = {
    "pods": _pod, "services": _service, "deployments": _deployment, "replicasets": _replica_set, "namespaces": _namespace,
    "secrets": _secret, "persistentvolumeclaims": _claim, "networkpolicies": _policy, "events": _event,
    "rolebindings": _role_binding, "clusterrolebindings": _role_binding, "priorityclasses": _priority_class,
    "gateways": _gateway, "httproutes": _route, "storageclasses": _storage_class,
    "ingresses": _status({"loadBalancer": {}}), "nodes": _status({}), "resourcequotas": _status({}),
    "poddisruptionbudgets": _status({
        "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
    }),
}  # fmt: skip
