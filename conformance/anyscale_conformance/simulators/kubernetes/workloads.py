"""Deployments and ReplicaSets: the Pods that they want, made and taken away; a new template replaces all Pods of the old one."""

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from anyscale_conformance.simulators.kubernetes import bootstrap, budgets, deletion, events
from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.objects import Objects, Target
from anyscale_conformance.simulators.kubernetes.problems import Problem
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.users import Caller
from anyscale_conformance.simulators.kubernetes.world import World

HASH = "pod-template-hash"


class Workloads:
    """The controllers of both kinds."""

    def __init__(self, world: World, enqueue: Callable[[Hashable, Callable[[], None]], None]) -> None:
        self._world, self._enqueue = world, enqueue
        self._objects = Objects(world)

    def react(self, change: Change) -> None:
        """Look at a namespace anew when something of its workloads has changed."""
        entry = change.last
        plural, namespace = entry.kind.plural, entry.namespace
        if plural not in ("deployments", "replicasets", "pods"):
            return
        if plural == "pods" and not entry.meta.get("ownerReferences"):
            return
        self._enqueue(("workloads", namespace), lambda: self._look(namespace))

    def _look(self, namespace: str) -> None:
        for deployment in self._world.entries("deployments", namespace, "apps"):
            if "deletionTimestamp" not in deployment.meta:
                self._deploy(deployment)
        for replicas in self._world.entries("replicasets", namespace, "apps"):
            if "deletionTimestamp" not in replicas.meta:
                self._replicate(replicas)

    def _deploy(self, deployment: Entry) -> None:
        spec = deployment.obj["spec"]
        template = spec["template"]
        digest = hashlib.sha256(msgspec.json.encode(template, order="deterministic")).hexdigest()[:10]
        mine = [
            one
            for one in self._world.entries("replicasets", deployment.namespace, "apps")
            if _controls(deployment, one)
        ]
        current = next((one for one in mine if one.labels.get(HASH) == digest), None)
        if current is None:
            current = self._replica_set(deployment, template, digest)
        self._scale(current, spec["replicas"])
        for old in mine:
            if old is not current:
                self._scale(old, 0)
        pods = [pod for one in (*mine, current) for pod in self._pods(one)]
        newest = self._pods(current)
        ready = sum(budgets.is_ready(pod) for pod in {pod.uid: pod for pod in pods}.values())
        status: dict[str, Any] = {
            "observedGeneration": deployment.meta.get("generation", 1), "replicas": len({pod.uid for pod in pods}),
            "updatedReplicas": len(newest), "readyReplicas": ready, "availableReplicas": ready,
            "unavailableReplicas": max(0, spec["replicas"] - ready),
        }  # fmt: skip
        available = ready >= spec["replicas"]
        was = next(
            (one for one in deployment.obj.get("status", {}).get("conditions", ()) if one["type"] == "Available"), None
        )
        since = was["lastTransitionTime"] if was is not None and was["status"] == str(available) else self._world.stamp
        condition = {
            "type": "Available", "status": str(available), "lastTransitionTime": since, "lastUpdateTime": since,
            "reason": "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            "message": f"Deployment {'has' if available else 'does not have'} minimum availability.",
        }  # fmt: skip
        shown = {key: value for key, value in status.items() if value or key == "observedGeneration"}
        self._world.write(deployment, status=shown | {"conditions": [condition]})

    def _replica_set(self, deployment: Entry, template: dict[str, Any], digest: str) -> Entry:
        labels = template.get("metadata", {}).get("labels", {}) | {HASH: digest}
        selector = deployment.obj["spec"]["selector"]
        parts = {
            "spec": {
                "replicas": deployment.obj["spec"]["replicas"],
                "selector": selector | {"matchLabels": selector.get("matchLabels", {}) | {HASH: digest}},
                "template": template | {"metadata": template.get("metadata", {}) | {"labels": labels}},
            },
            "status": {"replicas": 0},
        }  # fmt: skip
        name = f"{deployment.name}-{digest}"
        entry = bootstrap.make(
            self._world, "replicasets", deployment.namespace, name, parts, group="apps", labels=labels
        )
        return self._world.write(
            entry, metadata=entry.meta | {"generation": 1, "ownerReferences": [_owner(deployment)]}
        )

    def _scale(self, replicas: Entry, count: int) -> None:
        self._world.write(replicas, spec=replicas.obj["spec"] | {"replicas": count})

    def _replicate(self, replicas: Entry) -> None:
        pods, wanted = self._pods(replicas), replicas.obj["spec"]["replicas"]
        for _ in range(wanted - len(pods)):
            if not self._make(replicas):
                break
        # Source: which Pods go first: those without a node, those that are not ready, the youngest.
        order = sorted(
            pods, key=lambda pod: (bool(pod.obj["spec"].get("nodeName")), budgets.is_ready(pod), -pod.revision)
        )
        for pod in order[: max(0, len(pods) - wanted)]:
            deletion.delete(self._world, pod, {})
        ready = sum(budgets.is_ready(pod) for pod in pods)
        status = {
            "replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready, "fullyLabeledReplicas": len(pods),
            "observedGeneration": replicas.meta.get("generation", 1),
        }  # fmt: skip
        current = self._world.get("replicasets", replicas.namespace, replicas.name, "apps")
        if current is not None:
            self._world.write(current, status=status)

    def _make(self, replicas: Entry) -> bool:
        template = replicas.obj["spec"]["template"]
        meta = {key: value for key, value in template.get("metadata", {}).items() if key in ("labels", "annotations")}
        body = {
            "metadata": meta | {"generateName": f"{replicas.name}-", "ownerReferences": [_owner(replicas)]},
            "spec": template["spec"],
        }  # fmt: skip
        kind: Kind = self._world.kind("pods")
        try:
            self._objects.create(
                Target(kind=kind, namespace=replicas.namespace), body, Caller(agent="kube-controller-manager")
            )
        except Problem as problem:
            events.record(
                self._world, replicas, reason="FailedCreate", message=f"Error creating: {problem.message}",
                source="replicaset-controller", sort=events.Sort.WARNING,
            )  # fmt: skip
            return False
        return True

    def _pods(self, replicas: Entry) -> list[Entry]:
        return [
            pod for pod in self._world.entries("pods", replicas.namespace)
            if _controls(replicas, pod) and "deletionTimestamp" not in pod.meta
            and pod.obj.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]  # fmt: skip


def _controls(owner: Entry, entry: Entry) -> bool:
    return any(one["uid"] == owner.uid and one.get("controller") for one in entry.meta.get("ownerReferences") or ())


def _owner(entry: Entry) -> dict[str, Any]:
    return {
        "apiVersion": entry.kind.api_version, "kind": entry.kind.kind, "name": entry.name, "uid": entry.uid, "controller": True,
        "blockOwnerDeletion": True,
    }  # fmt: skip
