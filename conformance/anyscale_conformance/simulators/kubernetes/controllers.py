"""The controllers: each is told of changes, and does its part when the world is next looked at."""

from collections.abc import Callable, Hashable

from anyscale_conformance.simulators.kubernetes import budgets, deletion, events, quantities
from anyscale_conformance.simulators.kubernetes.admission import used_of
from anyscale_conformance.simulators.kubernetes.collector import Collector
from anyscale_conformance.simulators.kubernetes.services import Services
from anyscale_conformance.simulators.kubernetes.settings import Settings
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.ways import Ways
from anyscale_conformance.simulators.kubernetes.workloads import Workloads
from anyscale_conformance.simulators.kubernetes.world import World

Enqueue = Callable[[Hashable, Callable[[], None]], None]


class Queue:
    """Work that is due once, however often it is asked for before it is done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due: set[Hashable] = set()

    def add(self, key: Hashable, act: Callable[[], None]) -> None:
        """Do something soon, once for all who ask under its key."""
        if key in self._due:
            return
        self._due.add(key)

        def do() -> None:
            self._due.discard(key)
            act()

        self._world.soon(do)


class Controllers:
    """All controllers of one world."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._queue = Queue(world)
        for part in (Collector(world, self._queue.add), Services(world, self._queue.add), Workloads(world, self._queue.add),
                     Ways(world, settings)):  # fmt: skip
            world.reactors.append(part.react)
        world.reactors.append(self._react)

    def _react(self, change: Change) -> None:
        entry, world = change.last, self._world
        if entry.kind.plural == "events" and change.after is not None:
            world.later(events.TTL, lambda: self._forget(entry))
        if entry.kind.plural == "namespaces" and "deletionTimestamp" in entry.meta and change.after is not None:
            self._queue.add(("namespace", entry.name), lambda: self._empty(entry.name))
        if entry.namespace:
            namespace = world.get("namespaces", "", entry.namespace)
            if change.after is None and namespace is not None and "deletionTimestamp" in namespace.meta:
                self._queue.add(("namespace", entry.namespace), lambda: self._empty(entry.namespace))
            if entry.kind.plural != "events" and world.entries("resourcequotas", entry.namespace):
                self._queue.add(("quota", entry.namespace), lambda: self._count(entry.namespace))
        if entry.kind.plural in ("pods", "poddisruptionbudgets") and world.entries(
            "poddisruptionbudgets", entry.namespace, "policy"
        ):
            self._queue.add(("budget", entry.namespace), lambda: self._budget(entry.namespace))

    def _forget(self, event: Entry) -> None:
        if self._world.store.get(event.kind, event.namespace, event.name) is event:
            self._world.store.remove(event)

    def _empty(self, name: str) -> None:
        """Delete what is in a namespace that ends; when nothing is left it goes."""
        namespace = self._world.get("namespaces", "", name)
        if namespace is None:
            return
        left = [entry for entry in self._world.store.all() if entry.namespace == name]
        for entry in left:
            if "deletionTimestamp" not in entry.meta and self._world.store.get(entry.kind, name, entry.name) is entry:
                deletion.delete(self._world, entry, {})
        if not left:
            deletion.settle(self._world, self._world.write(namespace, spec={"finalizers": []}))

    def _count(self, namespace: str) -> None:
        for quota in self._world.entries("resourcequotas", namespace):
            hard = quota.obj.get("spec", {}).get("hard", {})
            used = {
                word: quantities.show_binary(amount)
                if word.endswith(("memory", "storage"))
                else quantities.show(amount)
                for word, amount in used_of(self._world, quota, hard).items()
            }
            self._world.write(quota, status={"hard": dict(hard), "used": used})

    def _budget(self, namespace: str) -> None:
        for budget in self._world.entries("poddisruptionbudgets", namespace, group="policy"):
            status = budgets.state(self._world, budget).status | {
                "observedGeneration": budget.meta.get("generation", 1)
            }
            self._world.write(budget, status=budget.obj.get("status", {}) | status)
