"""Ways in from outside, and disks: what a cloud's controllers do for Services, Ingresses, Gateways, routes and claims.

They are of a sort: addresses are on this machine, and nothing listens there. A Gateway of an unknown class, an Ingress of no
class, and a route without its Gateway stay without one for ever, as they do in a cluster whose controllers do not know them.
"""

from collections.abc import Callable
from typing import Any

from anyscale_conformance.simulators.kubernetes import bootstrap, deletion
from anyscale_conformance.simulators.kubernetes.conditions import plain, with_condition
from anyscale_conformance.simulators.kubernetes.kinds import GATEWAY_GROUP
from anyscale_conformance.simulators.kubernetes.settings import Settings
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World

DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"
PROTECTION = "kubernetes.io/pvc-protection"


class Ways:
    """The controllers of one world; each answers after the time that the settings give."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world, self._settings = world, settings
        self._address = 0
        self._acts: dict[str, Callable[[Entry], None]] = {
            "services": self._service, "ingresses": self._ingress, "gateways": self._gateway, "httproutes": self._route,
            "persistentvolumeclaims": self._claim,
        }  # fmt: skip

    def react(self, change: Change) -> None:
        """Take note of a change."""
        entry = change.last
        act = self._acts.get(entry.kind.plural)
        if change.after is not None and act is not None:
            is_ending = "deletionTimestamp" in entry.meta
            if change.before is None or change.before.obj.get("spec") != entry.obj.get("spec") or is_ending:
                self._later(entry, act)
        if entry.kind.plural == "gateways" and change.after is not None:
            for route in self._world.entries("httproutes", group=GATEWAY_GROUP):
                if (
                    any(one["name"] == entry.name for one in route.obj["spec"].get("parentRefs", ()))
                    and change.before is None
                ):
                    self._later(route, self._route)
        if entry.kind.plural == "persistentvolumeclaims" and change.after is None:
            self._reclaim(entry)
        if entry.kind.plural == "pods" and change.after is None:
            for claim in self._world.entries("persistentvolumeclaims", entry.namespace):
                if "deletionTimestamp" in claim.meta:
                    self._later(claim, self._claim)

    def _later(self, entry: Entry, act: Callable[[Entry], None]) -> None:
        kind, namespace, name, uid = entry.kind, entry.namespace, entry.name, entry.uid

        def do() -> None:
            current = self._world.store.get(kind, namespace, name)
            if current is not None and current.uid == uid:
                act(current)

        self._world.later(self._settings.provisions, do)

    def _new_address(self) -> str:
        self._address += 1
        return f"127.200.{self._address // 250}.{self._address % 250 + 1}"

    def _service(self, service: Entry) -> None:
        ingress = service.obj.get("status", {}).get("loadBalancer", {}).get("ingress")
        if service.obj["spec"]["type"] == "LoadBalancer" and self._settings.load_balancers and not ingress:
            balancer = {"ingress": [{"ip": self._new_address(), "ipMode": "VIP"}]}
            self._world.write(service, status={"loadBalancer": balancer})

    def _ingress(self, ingress: Entry) -> None:
        name = ingress.obj.get("spec", {}).get("ingressClassName")
        classes = self._world.entries("ingressclasses", group="networking.k8s.io")
        known = [
            one for one in classes
            if (one.name == name if name else one.meta.get("annotations", {}).get(DEFAULT_INGRESS) == "true")
        ]  # fmt: skip
        if known and self._settings.ingress_controller and not ingress.obj.get("status", {}).get("loadBalancer"):
            balancer = {"ingress": [{"ip": self._new_address()}]}
            self._world.write(ingress, status={"loadBalancer": balancer})

    def _gateway(self, gateway: Entry) -> None:
        spec = gateway.obj["spec"]
        found = self._world.get("gatewayclasses", "", spec["gatewayClassName"], GATEWAY_GROUP)
        if found is None or not self._settings.gateway_controller:
            return
        if not gateway.obj.get("status", {}).get("addresses"):
            listeners = [
                {"name": one["name"], "supportedKinds": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}], "attachedRoutes": 0,
                 "conditions": self._said({}, gateway, {word: word for word in ("Accepted", "Programmed", "ResolvedRefs")})}
                for one in spec["listeners"]
            ]  # fmt: skip
            status = gateway.obj.get("status", {})
            self._world.write(gateway, status=status | {
                "addresses": [{"type": "IPAddress", "value": self._new_address()}], "listeners": listeners,
                "conditions": self._said(status, gateway, {"Accepted": "Accepted", "Programmed": "Programmed"}),
            })  # fmt: skip

    def _route(self, route: Entry) -> None:
        if not self._settings.gateway_controller:
            return
        parents = []
        for ref in route.obj["spec"].get("parentRefs", ()):
            gateway = self._world.get("gateways", ref.get("namespace", route.namespace), ref["name"], GATEWAY_GROUP)
            if (
                gateway is None
                or self._world.get("gatewayclasses", "", gateway.obj["spec"]["gatewayClassName"], GATEWAY_GROUP) is None
            ):
                continue
            sections = [one["name"] for one in gateway.obj["spec"]["listeners"]]
            reasons = {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}
            false = set()
            if ref.get("sectionName") and ref["sectionName"] not in sections:
                reasons["Accepted"], false = "NoMatchingParent", {"Accepted"}
            elif not self._is_let_in(route, gateway, ref.get("sectionName")):
                reasons["Accepted"], false = "NotAllowedByListeners", {"Accepted"}
            if any(
                not self._has_backend(route, one)
                for rule in route.obj["spec"].get("rules", ())
                for one in rule.get("backendRefs", ())
            ):
                reasons["ResolvedRefs"] = "BackendNotFound"
                false.add("ResolvedRefs")
            parents.append({
                "parentRef": ref, "controllerName": self._settings.gateway_controller,
                "conditions": self._said({}, route, reasons, false),
            })  # fmt: skip
        if parents:
            self._world.write(route, status={"parents": parents})

    def _is_let_in(self, route: Entry, gateway: Entry, section: str | None) -> bool:
        for listener in gateway.obj["spec"]["listeners"]:
            if section and listener["name"] != section:
                continue
            source = listener.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same")
            if source in ("All", "Selector") or route.namespace == gateway.namespace:
                return True
        return False

    def _has_backend(self, route: Entry, ref: dict[str, Any]) -> bool:
        return self._world.get("services", ref.get("namespace", route.namespace), ref["name"]) is not None

    def _said(
        self,
        status: dict[str, Any],
        about: Entry,
        reasons: dict[str, str],
        false: set[str] | frozenset[str] = frozenset(),
    ) -> list[dict[str, Any]]:
        conditions: list[dict[str, Any]] = list(status.get("conditions", ()))
        for type, reason in reasons.items():
            conditions = with_condition(
                conditions,
                type,
                "False" if type in false else "True",
                stamp=self._world.stamp,
                reason=reason,
                message="",
            )
        generation = about.meta.get("generation", 1)
        return [{"message": ""} | one | {"observedGeneration": generation} for one in plain(conditions)]

    def _reclaim(self, claim: Entry) -> None:
        volume = self._world.get("persistentvolumes", "", claim.obj["spec"].get("volumeName", ""))
        if volume is None:
            return
        if volume.obj["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            self._world.store.remove(volume)
        else:
            self._world.write(volume, status={"phase": "Released"})

    def _claim(self, claim: Entry) -> None:
        world = self._world
        if "deletionTimestamp" in claim.meta:
            used = any(
                (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim.name
                for pod in world.entries("pods", claim.namespace)
                for volume in pod.obj["spec"].get("volumes", ())
            )
            if not used:
                rest = [word for word in claim.meta.get("finalizers", ()) if word != PROTECTION]
                meta = {key: value for key, value in claim.meta.items() if key != "finalizers"}
                deletion.settle(world, world.write(claim, metadata=meta | ({"finalizers": rest} if rest else {})))
            return
        name = claim.obj["spec"].get("storageClassName", "")
        known = world.get("storageclasses", "", name, group="storage.k8s.io")
        if claim.obj.get("status", {}).get("phase") == "Bound" or known is None:
            return
        volume, asked = f"pvc-{claim.uid}", claim.obj["spec"]["resources"]["requests"]
        bootstrap.make(world, "persistentvolumes", "", volume, {
            "spec": {
                "capacity": {"storage": asked["storage"]}, "accessModes": claim.obj["spec"]["accessModes"],
                "storageClassName": known.name, "persistentVolumeReclaimPolicy": known.obj.get("reclaimPolicy", "Delete"),
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": claim.namespace, "name": claim.name, "uid": claim.uid},
            },
            "status": {"phase": "Bound"},
        })  # fmt: skip
        spec = claim.obj["spec"] | {"volumeName": volume}
        status = {"phase": "Bound", "accessModes": spec["accessModes"], "capacity": {"storage": asked["storage"]}}
        world.write(claim, spec=spec, status=status)
