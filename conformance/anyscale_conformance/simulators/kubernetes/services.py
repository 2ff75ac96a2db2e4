"""Endpoints and EndpointSlices: where the Pods that a Service selects are."""

from collections.abc import Callable, Hashable
from typing import Any

from anyscale_conformance.simulators.kubernetes import bootstrap, budgets, selectors
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World

GROUP = "discovery.k8s.io"


class Services:
    """Keeps an Endpoints and an EndpointSlice for each Service that has a selector."""

    def __init__(self, world: World, enqueue: Callable[[Hashable, Callable[[], None]], None]) -> None:
        self._world, self._enqueue = world, enqueue

    def react(self, change: Change) -> None:
        """Look at a namespace anew when a Service of it, or a Pod beside one, has changed."""
        entry = change.last
        namespace = entry.namespace
        if entry.kind.plural == "services" and change.after is None:
            self._enqueue(("gone", namespace, entry.name), lambda: self._forget(namespace, entry.name))
        elif entry.kind.plural in ("services", "pods") and self._world.entries("services", namespace):
            self._enqueue(("services", namespace), lambda: self._look(namespace))

    def _look(self, namespace: str) -> None:
        for service in self._world.entries("services", namespace):
            if service.obj["spec"].get("selector"):
                self._write(service)

    def _write(self, service: Entry) -> None:
        world, spec = self._world, service.obj["spec"]
        selector = selectors.from_labels(spec["selector"])
        pods = [
            pod for pod in world.entries("pods", service.namespace)
            if selector.selects(pod.labels) and pod.obj.get("status", {}).get("podIP")
            and pod.obj["status"].get("phase") not in ("Succeeded", "Failed")
        ]  # fmt: skip
        ready = {pod.uid: budgets.is_ready(pod) and "deletionTimestamp" not in pod.meta for pod in pods}
        ports = [_port(port, pods) for port in spec.get("ports", ())]
        shown = [
            {
                "addresses": [pod.obj["status"]["podIP"]], "nodeName": pod.obj["spec"].get("nodeName"), "targetRef": _ref(pod),
                "conditions": {
                    "ready": ready[pod.uid] or bool(spec.get("publishNotReadyAddresses")), "serving": budgets.is_ready(pod),
                    "terminating": "deletionTimestamp" in pod.meta,
                },
            }
            for pod in pods
        ]  # fmt: skip
        owner = {
            "apiVersion": "v1", "kind": "Service", "name": service.name, "uid": service.uid, "controller": True,
            "blockOwnerDeletion": True,
        }  # fmt: skip
        slices = [
            one for one in world.entries("endpointslices", service.namespace, GROUP)
            if one.labels.get("kubernetes.io/service-name") == service.name
            and any(ref["uid"] == service.uid for ref in one.meta.get("ownerReferences", ()))
        ]  # fmt: skip
        parts: dict[str, Any] = {"addressType": "IPv4", "endpoints": shown, "ports": ports}
        if slices:
            world.write(slices[0], **parts)
        else:
            labels = {
                "kubernetes.io/service-name": service.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            }  # fmt: skip
            entry = bootstrap.make(
                world,
                "endpointslices",
                service.namespace,
                f"{service.name}-{world.letters(5)}",
                parts,
                group=GROUP,
                labels=labels,
            )
            world.write(entry, metadata=entry.meta | {"ownerReferences": [owner], "generateName": f"{service.name}-"})
        self._endpoints(service, pods, ready, ports)

    def _endpoints(
        self, service: Entry, pods: list[Entry], ready: dict[str, bool], ports: list[dict[str, Any]]
    ) -> None:
        subset: dict[str, Any] = {}
        for key, wanted in (("addresses", True), ("notReadyAddresses", False)):
            found = [
                {"ip": pod.obj["status"]["podIP"], "nodeName": pod.obj["spec"].get("nodeName"), "targetRef": _ref(pod)}
                for pod in pods if ready[pod.uid] is wanted
            ]  # fmt: skip
            if found:
                subset[key] = found
        subsets = [subset | {"ports": ports}] if subset else []
        there = self._world.get("endpoints", service.namespace, service.name)
        if there is None:
            bootstrap.make(self._world, "endpoints", service.namespace, service.name, {"subsets": subsets})
        else:
            self._world.write(there, subsets=subsets)

    def _forget(self, namespace: str, name: str) -> None:
        there = self._world.get("endpoints", namespace, name)
        if there is not None and self._world.get("services", namespace, name) is None:
            self._world.store.remove(there)


def _port(port: dict[str, Any], pods: list[Entry]) -> dict[str, Any]:
    target = port.get("targetPort", port["port"])
    if isinstance(target, str):
        named = (
            one["containerPort"] for pod in pods for container in pod.obj["spec"]["containers"]
            for one in container.get("ports", ())
            if one.get("name") == target
        )  # fmt: skip
        target = next(named, port["port"])
    shown = {"port": target, "protocol": port.get("protocol", "TCP")}
    return shown | ({"name": port["name"]} if port.get("name") else {})


def _ref(pod: Entry) -> dict[str, str]:
    return {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
