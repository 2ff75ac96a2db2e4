"""What can be done to a simulated cluster behind everybody's back, and what is really in it."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import bootstrap, deletion, events
from anyscale_conformance.simulators.kubernetes.booting import Booted, Played
from anyscale_conformance.simulators.kubernetes.calls import Call
from anyscale_conformance.simulators.kubernetes.conditions import with_condition
from anyscale_conformance.simulators.kubernetes.kubelet import Kubelet
from anyscale_conformance.simulators.kubernetes.objects import Objects, Target
from anyscale_conformance.simulators.kubernetes.problems import Problem, throttled
from anyscale_conformance.simulators.kubernetes.settings import NodeSpec
from anyscale_conformance.simulators.kubernetes.store import Entry, Object
from anyscale_conformance.simulators.kubernetes.subresources import evict
from anyscale_conformance.simulators.kubernetes.tokens import Tokens
from anyscale_conformance.simulators.kubernetes.users import Caller
from anyscale_conformance.simulators.kubernetes.webhooks import Webhook
from anyscale_conformance.simulators.kubernetes.world import World, timestamp

EVERY_CALL: Callable[[Call], bool] = lambda _: True  # noqa: E731


@attrs.define(kw_only=True)
class Rule:
    """What befalls the next ``left`` calls that match: a refusal, or a delay of real seconds."""

    matches: Callable[[Call], bool]
    left: int
    problem: Problem | None = None
    delay_s: float = 0.0


class Hands:
    """The hands of one cluster. Each may be called from any thread; a Pod that is not there is a KeyError."""

    world: World
    tokens: Tokens
    objects: Objects
    kubelet: Kubelet
    runtime: Played | Booted

    def __init__(self) -> None:
        self.cuts = 0
        self._rules: list[Rule] = []
        self._sold_out: dict[str, Object] = {}

    # What a test sets up

    def make_namespace(self, name: str) -> None:
        """Make a namespace, with the account and the authority that every namespace has. Nothing happens when it is there."""
        with self.world.lock:
            if self.world.get("namespaces", "", name) is None:
                bootstrap.add_namespace(self.world, name)

    def add_webhook(self, webhook: Webhook) -> None:
        """Let a webhook change every Pod that is made from now on (``webhooks`` has those of the clouds)."""
        with self.world.lock:
            self.world.webhooks.append(webhook)

    def plant(self, obj: Mapping[str, Any], *, manager: str = "somebody") -> Object:
        """Make an object as an administrator does (somebody else's things); ``kind`` and ``apiVersion`` have to be in it."""
        with self.world.lock:
            self.world.advance()
            kind = self.world.catalogue.of(obj["apiVersion"], obj["kind"])
            if kind is None:
                raise KeyError(f"{obj['apiVersion']} {obj['kind']} is not served")
            target = Target(
                kind=kind, namespace=obj["metadata"].get("namespace", "default") if kind.is_namespaced else ""
            )
            made = self.objects.create(target, obj, Caller(field_manager=manager)).obj
            self.world.advance()
            return made

    def set_quota(self, namespace: str, hard: Mapping[str, str], *, name: str = "quota") -> None:
        """Limit a namespace; an empty mapping takes the limit away."""
        with self.world.lock:
            entry = self.world.get("resourcequotas", namespace, name)
            if not hard:
                if entry is not None:
                    self.world.store.remove(entry)
                return
            spec = {"hard": dict(hard)}
            if entry is not None:
                self.world.write(entry, spec=spec)
            else:
                bootstrap.make(self.world, "resourcequotas", namespace, name, {"spec": spec, "status": {}})

    def add_node(self, node: NodeSpec) -> None:
        """Let a node join."""
        with self.world.lock:
            bootstrap.add_node(self.world, node)

    def remove_node(self, name: str) -> None:
        """Take a node away, as the end of its machine does: its Pods go without a word."""
        with self.world.lock:
            node = self.world.get("nodes", "", name)
            if node is None:
                raise KeyError(f"there is no node {name}")
            self.world.store.remove(node)
            for pod in self.world.entries("pods"):
                if pod.obj["spec"].get("nodeName") == name:
                    self.world.store.remove(pod)

    def taint(self, node: str, key: str, value: str = "", *, effect: str = "NoSchedule") -> None:
        """Taint a node."""
        with self.world.lock:
            entry = self._node(node)
            spec = entry.obj.get("spec", {})
            self.world.write(
                entry, spec=spec | {"taints": [*spec.get("taints", ()), {"key": key, "value": value, "effect": effect}]}
            )

    def sell_out(self, zone: str = "") -> None:
        """Let no node of a zone (of all, when none is named) have room for one more Pod."""
        with self.world.lock:
            for node in self._nodes(zone):
                status = node.obj["status"]
                self._sold_out.setdefault(node.name, status["allocatable"])
                none = {word: "0" for word in status["allocatable"] if word != "pods"} | {
                    "pods": status["allocatable"]["pods"]
                }
                self.world.write(node, status=status | {"allocatable": none})

    def restock(self, zone: str = "") -> None:
        """Undo ``sell_out``."""
        with self.world.lock:
            for node in self._nodes(zone):
                if node.name in self._sold_out:
                    self.world.write(node, status=node.obj["status"] | {"allocatable": self._sold_out.pop(node.name)})

    def spoil_image(self, part: str, *, reason: str = "ErrImagePull") -> None:
        """Let images whose name contains a text not be pulled; an empty reason heals them."""
        with self.world.lock:
            self.kubelet.bad_images[part] = reason
            if not reason:
                del self.kubelet.bad_images[part]

    # What befalls Pods

    def kill(self, namespace: str, name: str) -> None:
        """Let a Pod be gone without a word, as with its node."""
        with self.world.lock:
            self.world.store.remove(self.pod(namespace, name))
            self.world.advance()

    def stop(
        self,
        namespace: str,
        name: str,
        *,
        reason: str = "Evicted",
        message: str = "The node was low on resource: memory.",
    ) -> None:
        """Let the kubelet end a Pod: phase Failed, with a reason."""
        with self.world.lock:
            pod = self.kubelet.fail(self.pod(namespace, name), reason=reason, message=message)
            events.record(self.world, pod, reason=reason, message=message, source="kubelet", sort=events.Sort.WARNING)
            self.world.advance()

    def exit(self, namespace: str, name: str, code: int = 0, *, container: str = "") -> None:
        """Let a container of a Pod end by itself, by default the first."""
        with self.world.lock:
            pod = self.pod(namespace, name)
            self.kubelet.end(pod, container or pod.obj["spec"]["containers"][0]["name"], code)
            self.world.advance()

    def announce(
        self, namespace: str, name: str, *, reason: str = "TerminationByKubelet",
        message: str = "Pod was terminated in response to imminent node shutdown.", grace: timedelta = timedelta(seconds=30),
    ) -> None:  # fmt: skip
        """Let a Pod's end be known beforehand: a DisruptionTarget condition and a deletion in ``grace``; until then it runs."""
        with self.world.lock:
            world, pod = self.world, self.pod(namespace, name)
            status = pod.obj["status"]
            conditions = with_condition(
                status.get("conditions", ()),
                "DisruptionTarget",
                "True",
                stamp=world.stamp,
                reason=reason,
                message=message,
            )
            end = world.now + grace
            meta = pod.meta | {
                "deletionTimestamp": timestamp(end), "deletionGracePeriodSeconds": int(grace.total_seconds()),
            }  # fmt: skip
            self.kubelet.hold(pod.uid, end)
            world.write(pod, metadata=meta, status=status | {"conditions": conditions})
            world.advance()

    def evict(self, namespace: str, name: str) -> None:
        """Evict a Pod through the API, as a drain does. Raises Problem 429 when a budget does not allow it."""
        with self.world.lock:
            evict(self.world, self.pod(namespace, name), {})

    def delete(self, namespace: str, name: str, **options: Any) -> None:
        """Delete a Pod as an administrator does, with DeleteOptions."""
        with self.world.lock:
            deletion.delete(self.world, self.pod(namespace, name), options)
            self.world.advance()

    def double(self, namespace: str, name: str, *, plural: str = "pods", group: str = "") -> str:
        """Let a second object with the same labels and annotations exist, under another name, which is returned."""
        with self.world.lock:
            entry = self.world.get(plural, namespace, name, group)
            if entry is None:
                raise KeyError(f"there is no {plural} {namespace}/{name}")
            twin = f"{name[:50]}-{self.world.letters(5)}"
            meta = entry.meta | {"name": twin, "uid": self.world.uid(), "creationTimestamp": self.world.stamp}
            spec = {key: value for key, value in entry.obj.get("spec", {}).items() if key != "nodeName"}
            parts = entry.obj | {"metadata": meta} | ({"spec": spec} if "spec" in entry.obj else {})
            if plural == "pods":
                parts["status"] = {"phase": "Pending"}
            self.world.put(entry.kind, namespace, twin, parts)
            self.world.advance()
            return twin

    def print(self, namespace: str, name: str, text: str) -> None:
        """Put a text in the log of a Pod that is only played."""
        with self.world.lock:
            if isinstance(self.runtime, Played):
                self.runtime.logs[self.pod(namespace, name).uid] = text

    # What befalls requests

    def throttle(self, count: int = 1, *, retry_after: int = 1, matches: Callable[[Call], bool] = EVERY_CALL) -> None:
        """Let priority and fairness refuse the next calls with 429."""
        self.refuse(throttled(retry_after), count=count, matches=matches)

    def refuse(self, problem: Problem, *, count: int = 1, matches: Callable[[Call], bool] = EVERY_CALL) -> None:
        """Refuse the next calls that match."""
        self._rules.append(Rule(matches=matches, left=count, problem=problem))

    def delay(self, seconds: float, *, count: int = 1, matches: Callable[[Call], bool] = EVERY_CALL) -> None:
        """Answer the next calls that match only after real seconds."""
        self._rules.append(Rule(matches=matches, left=count, delay_s=seconds))

    def cut_watches(self) -> None:
        """Break the connection of every watch, in the middle of it."""
        with self.world.lock:
            self.cuts += 1
            for wake in self.world.watchers:
                wake()

    def compact(self) -> None:
        """Forget the past: watches and pages that go on from it are told 410."""
        with self.world.lock:
            self.world.store.compact()

    # What is really there

    def token(
        self, namespace: str, account: str, *, audiences: tuple[str, ...] = (), pod: str = "", seconds: int = 3600
    ) -> str:
        """Return a token of a service account, bound to a Pod if one is named."""
        with self.world.lock:
            entry = self.world.get("serviceaccounts", namespace, account)
            if entry is None:
                raise KeyError(f"there is no service account {namespace}/{account}")
            bound = self.pod(namespace, pod) if pod else None
            return self.tokens.issue(entry, audiences=audiences, seconds=seconds, bound=bound)[0]

    def inventory(self, namespace: str = "") -> list[tuple[str, Object]]:
        """Return everything there is as pairs of plural and object, by kind and key; of a namespace, or of all."""
        with self.world.lock:
            self.world.advance()
            found = [entry for entry in self.world.store.all() if not namespace or entry.namespace == namespace]
            found.sort(key=lambda entry: (entry.kind.qualified, entry.namespace, entry.name))
            return [(entry.kind.plural, entry.obj) for entry in found]

    def pod(self, namespace: str, name: str) -> Entry:
        """Return a Pod as it is now. Raises KeyError."""
        with self.world.lock:
            self.world.advance()
            entry = self.world.get("pods", namespace, name)
            if entry is None:
                raise KeyError(f"there is no Pod {namespace}/{name}")
            return entry

    # What the server asks

    def delay_of(self, call: Call) -> float:
        """Return for how many real seconds a call is held up."""
        with self.world.lock:
            return next((rule.delay_s for rule in self._struck(call, refuses=False)), 0.0)

    def meet(self, call: Call) -> None:
        """Refuse a call that a hand wants refused. Raises its Problem."""
        for rule in self._struck(call, refuses=True):
            if rule.problem is not None:
                raise rule.problem

    def end_machines(self) -> None:
        """End whatever was booted."""
        with self.world.lock:
            self.runtime.close()

    def _struck(self, call: Call, *, refuses: bool) -> Iterator[Rule]:
        for rule in tuple(self._rules):
            if (rule.problem is not None) is refuses and rule.matches(call):
                rule.left -= 1
                if rule.left <= 0:
                    self._rules.remove(rule)
                yield rule
                return

    def _node(self, name: str) -> Entry:
        entry = self.world.get("nodes", "", name)
        if entry is None:
            raise KeyError(f"there is no node {name}")
        return entry

    def _nodes(self, zone: str) -> list[Entry]:
        return [
            node
            for node in self.world.entries("nodes")
            if not zone or node.labels.get("topology.kubernetes.io/zone") == zone
        ]
