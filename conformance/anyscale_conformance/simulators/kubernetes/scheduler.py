"""Gives Pods to nodes: capacity, taints, selectors, affinity, priority; and says why it cannot, in the scheduler's own words.

Source: kubernetes.io, Scheduling, Preemption and Eviction; the messages are those of pkg/scheduler/framework.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import budgets, deletion, events, placing
from anyscale_conformance.simulators.kubernetes.admission import requests
from anyscale_conformance.simulators.kubernetes.conditions import with_condition
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World

NAME = "default-scheduler"
TOPOLOGY = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")
"""Labels of the node that a Pod gets when it is bound (PodTopologyLabelsAdmission, on by default since 1.35)."""
ENDED = ("Succeeded", "Failed")


@attrs.define(kw_only=True)
class Load:
    """What a node carries."""

    pods: dict[str, Entry] = attrs.field(factory=dict)
    used: dict[str, Decimal] = attrs.field(factory=dict)


class Scheduler:
    """The scheduler of one world. It is woken by changes and works when the world is next looked at."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: dict[tuple[str, str], Entry] = {}
        self._untried: set[tuple[str, str]] = set()
        self._loads: dict[str, Load] = {}
        self._is_due = self._has_room = False
        world.reactors.append(self._react)
        world.bind = self.bind

    def bind(self, pod: Entry, node: str) -> Entry:
        """Give a Pod to a node."""
        world = self._world
        target = world.get("nodes", "", node)
        labels = {key: target.labels[key] for key in TOPOLOGY if target is not None and key in target.labels}
        status = pod.obj.get("status", {})
        conditions = with_condition(status.get("conditions", ()), "PodScheduled", "True", stamp=world.stamp)
        status = {key: value for key, value in status.items() if key != "nominatedNodeName"} | {
            "conditions": conditions
        }
        meta = pod.meta | ({"labels": labels | pod.labels} if labels else {})
        bound = world.write(pod, metadata=meta, spec=pod.obj["spec"] | {"nodeName": node}, status=status)
        events.record(
            world,
            bound,
            reason="Scheduled",
            source=NAME,
            message=f"Successfully assigned {pod.namespace}/{pod.name} to {node}",
        )
        return bound

    def _react(self, change: Change) -> None:
        plural = change.last.kind.plural
        if plural in ("nodes", "persistentvolumeclaims"):
            self._has_room = True
            self._wake()
        if plural != "pods":
            return
        for entry, sign in ((change.before, -1), (change.after, 1)):
            node = entry.obj["spec"].get("nodeName") if entry is not None else ""
            if entry is not None and node and entry.obj.get("status", {}).get("phase") not in ENDED:
                self._carry(entry, node, sign)
                if sign < 0 and self._waiting:
                    self._has_room = True
                    self._wake()
        key = change.last.key
        after = change.after
        if after is None or after.obj["spec"].get("nodeName") or after.obj["spec"].get("schedulerName") != NAME:
            self._waiting.pop(key, None)
            self._untried.discard(key)
            return
        if key not in self._waiting or _gates(self._waiting[key]) != _gates(after):
            self._untried.add(key)
            self._wake()
        self._waiting[key] = after

    def _carry(self, pod: Entry, node: str, sign: int) -> None:
        load = self._loads.setdefault(node, Load())
        if sign > 0:
            load.pods[pod.uid] = pod
        else:
            load.pods.pop(pod.uid, None)
        for word, amount in requests(pod.obj["spec"]).items():
            load.used[word] = load.used.get(word, Decimal()) + sign * amount

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._world.soon(self._round)

    def _round(self) -> None:
        """Try what is new, and when room was made all that waits: highest priority first, then the longest waiting."""
        tried = [pod for key, pod in self._waiting.items() if self._has_room or key in self._untried]
        self._is_due = self._has_room = False
        self._untried.clear()
        order = sorted(tried, key=lambda pod: (-pod.obj["spec"].get("priority", 0), pod.revision))
        nodes = self._world.entries("nodes")
        for pod in order:
            self._place(pod, nodes)

    def _place(self, pod: Entry, nodes: list[Entry]) -> None:
        if "deletionTimestamp" in pod.meta:
            return
        if pod.obj["spec"].get("schedulingGates"):
            self._say(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return
        missing = self._missing_claim(pod)
        refusals = {node.name: missing or self.refusal(pod, node) for node in nodes}
        fitting = [node for node in nodes if not refusals[node.name]]
        if fitting:
            self.bind(pod, min(fitting, key=lambda node: self._fullness(node)).name)
            return
        if not nodes:
            self._say(pod, "Unschedulable", "no nodes available to schedule pods")
            return
        preempted = self._preempt(pod, nodes, refusals)
        self._say(pod, "Unschedulable", _message(refusals, preempted is not None))

    def refusal(self, pod: Entry, node: Entry, without: Iterable[str] = ()) -> str:
        """Return why a node does not do for a Pod, empty if it does. ``without``: uids of Pods taken to be gone."""
        load = self._loads.get(node.name, Load())
        gone = [load.pods[uid] for uid in without if uid in load.pods]
        used = dict(load.used)
        for victim in gone:
            used |= {word: used[word] - amount for word, amount in requests(victim.obj["spec"]).items()}
        there = [one for one in load.pods.values() if one not in gone] if gone else list(load.pods.values())
        return placing.refusal(pod, node, used, there, self._others)

    def _others(self) -> Iterable[tuple[Entry, Entry]]:
        """Yield every placed Pod with its node."""
        for name, load in self._loads.items():
            node = self._world.get("nodes", "", name)
            if node is not None:
                for pod in load.pods.values():
                    yield pod, node

    def _fullness(self, node: Entry) -> tuple[Decimal, int, str]:
        load = self._loads.get(node.name, Load())
        whole = placing.allocatable(node).get("cpu") or Decimal(1)
        return (Decimal(load.used.get("cpu", Decimal())) / whole, len(load.pods), node.name)

    def _missing_claim(self, pod: Entry) -> str:
        for volume in pod.obj["spec"].get("volumes", ()):
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not name:
                continue
            claim = self._world.get("persistentvolumeclaims", pod.namespace, name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim.obj.get("status", {}).get("phase") != "Bound":
                return "pod has unbound immediate PersistentVolumeClaims"
        return ""

    def _preempt(self, pod: Entry, nodes: list[Entry], refusals: Mapping[str, str]) -> Entry | None:
        """End Pods of lower priority where that makes room; return the node that it is made on."""
        priority = pod.obj["spec"].get("priority", 0)
        if pod.obj["spec"].get("preemptionPolicy") == "Never" or pod.obj.get("status", {}).get("nominatedNodeName"):
            return None
        best: tuple[int, int, str, Entry, list[Entry]] | None = None
        for node in nodes:
            if not refusals[node.name].startswith(("Insufficient", "Too many")):
                continue
            lower = [
                one
                for one in self._loads.get(node.name, Load()).pods.values()
                if one.obj["spec"].get("priority", 0) < priority
            ]
            lower.sort(key=lambda one: (one.obj["spec"].get("priority", 0), -one.revision))
            victims = self._victims(pod, node, lower)
            if not victims:
                continue
            broken = sum(
                budgets.state(self._world, one).allowed <= 0
                for victim in victims
                for one in budgets.over(self._world, victim)
            )
            candidate = (broken, len(victims), node.name, node, victims)
            if best is None or candidate[:3] < best[:3]:
                best = candidate
        if best is None:
            return None
        for victim in best[4]:
            self._disrupt(victim)
        self._world.write(pod, status=pod.obj.get("status", {}) | {"nominatedNodeName": best[2]})
        return best[3]

    def _victims(self, pod: Entry, node: Entry, lower: list[Entry]) -> list[Entry]:
        for count in range(1, len(lower) + 1):
            if not self.refusal(pod, node, without=[one.uid for one in lower[:count]]):
                return lower[:count]
        return []

    def _disrupt(self, victim: Entry) -> None:
        world = self._world
        status = victim.obj.get("status", {})
        message = f"{NAME}: preempting to accommodate a higher priority pod"
        conditions = with_condition(
            status.get("conditions", ()),
            "DisruptionTarget",
            "True",
            stamp=world.stamp,
            reason="PreemptionByScheduler",
            message=message,
        )
        victim = world.write(victim, status=status | {"conditions": conditions})
        events.record(world, victim, reason="Preempted", source=NAME, message="Preempted by a pod of a higher priority")
        deletion.delete(world, victim, {})

    def _say(self, pod: Entry, reason: str, message: str) -> None:
        world = self._world
        current = world.get("pods", pod.namespace, pod.name)
        if current is None:
            return
        status = current.obj.get("status", {})
        conditions = with_condition(
            status.get("conditions", ()), "PodScheduled", "False", stamp=world.stamp, reason=reason, message=message
        )
        if conditions == status.get("conditions"):
            return
        said = world.write(current, status=status | {"conditions": conditions})
        if reason == "Unschedulable":
            events.record(
                world, said, reason="FailedScheduling", source=NAME, message=message, sort=events.Sort.WARNING
            )


def _message(refusals: Mapping[str, str], has_victims: bool) -> str:
    """Return what is said of a Pod that fits nowhere. Source: FitError.Error of pkg/scheduler/framework."""
    count = len(refusals)
    words = ", ".join(sorted(f"{times} {reason}" for reason, times in Counter(refusals.values()).items()))
    if has_victims:
        return f"0/{count} nodes are available: {words}."
    helpful = sum(reason.startswith(("Insufficient", "Too many")) for reason in refusals.values())
    tried = [f"{helpful} No preemption victims found for incoming pod"] if helpful else []
    tried += [f"{count - helpful} Preemption is not helpful for scheduling"] if count > helpful else []
    return (
        f"0/{count} nodes are available: {words}. no new claims to deallocate, preemption: 0/{count} nodes are available: "
        f"{', '.join(sorted(tried))}."
    )


def _gates(pod: Entry) -> Any:
    return pod.obj["spec"].get("schedulingGates")
