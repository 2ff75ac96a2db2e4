"""A control plane on a fake cloud and a clock moved by hand: what every engine test stands on."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import attrs

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.models.records import ClusterRecord, NodeRecord, Timing
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock

STEP = timedelta(seconds=1)


@attrs.define
class World:
    """``home`` outlives the plane in it: ``restart`` is a control plane killed and started again.

    ``providers``: the names that the one fake cloud goes by, so that a cloud can be composed of several.
    """

    home: Path
    clock: ManualClock
    cloud: FakeCloud
    plane: ControlPlane
    agents: FakeAgents
    timing: Timing
    database: str | None = None
    providers: tuple[str, ...] = ("fake",)

    @classmethod
    def new(
        cls, home: Path, *, database: str | None = None, cloud: FakeCloud | None = None,
        providers: tuple[str, ...] = ("fake",), **timing: timedelta,
    ) -> "World":  # fmt: skip
        cloud = cloud or FakeCloud(ManualClock())
        clock = cloud.clock
        times = attrs.evolve(Timing(), **timing)  # type: ignore[arg-type]
        plane = _plane(home, clock, cloud, times, database, providers)
        agents = FakeAgents(cloud, plane, ray_start=timedelta(seconds=5))
        return cls(home, clock, cloud, plane, agents, times, database, providers)

    def restart(self) -> None:
        """Drop the plane without a word, as SIGKILL would, and open another on the same store."""
        self.plane.close()
        self.plane = plane_on(self)
        self.plane.store.break_leases(now=self.clock.now())
        self.agents.plane = self.plane

    def run(self, *, steps: int = 1, step: timedelta = STEP) -> None:
        """Let time pass: each step moves the clock, lets every agent speak once, and gives the plane its turns."""
        for _ in range(steps):
            self.clock.advance(step)
            self.agents.step()
            self.plane.tick()
            self.plane.collector.collect()

    def until(self, condition: Callable[[], bool], *, steps: int = 600, step: timedelta = STEP) -> int:
        """Run until the condition holds; return how many steps it took. Fails with the events when it never does."""
        for taken in range(steps):
            if condition():
                return taken
            self.run(step=step)
        lines = "\n".join(f"{event.at:%M:%S} {event.kind} {event.message}" for event in self.plane.events()[-40:])
        raise AssertionError(f"not within {steps} steps; what happened last:\n{lines}")

    def up(self, spec: ClusterSpec, job: JobSpec | None = None) -> ClusterRecord:
        """Apply a spec and run until the cluster is RUNNING."""
        self.plane.apply(spec, actor="tester", job=job)
        self.until(lambda: self.phase(spec.name) is ClusterPhase.RUNNING)
        return self.record(spec.name)

    def record(self, name: str = "demo") -> ClusterRecord:
        return self.plane.status(name).record

    def phase(self, name: str = "demo") -> ClusterPhase:
        return self.record(name).phase

    def nodes(self, name: str = "demo", *phases: NodePhase, group: str | None = None) -> list[NodeRecord]:
        """Return the nodes of a cluster in these phases (all but ended ones by default)."""
        wanted = phases or tuple(set(NodePhase) - {NodePhase.GONE, NodePhase.FAILED})
        nodes = self.record(name).nodes
        return [node for node in nodes if node.phase in wanted and group in (None, node.group)]

    def ready(self, name: str = "demo", group: str = "workers") -> list[NodeRecord]:
        return self.nodes(name, NodePhase.READY, group=group)

    def head(self, name: str = "demo") -> NodeRecord:
        return next(node for node in self.nodes(name) if node.kind is NodeKind.HEAD)

    def node(self, id: NodeId, name: str = "demo") -> NodeRecord:
        return next(node for node in self.record(name).nodes if node.id == id)

    def kinds(self, name: str = "demo") -> list[str]:
        """Return the kinds of a cluster's events, in order."""
        return [event.kind for event in self.plane.events(name)]

    def instances(self) -> list[str]:
        """Return the names of all instances that exist, by the cloud's own inventory."""
        return sorted(item.name for item in self.cloud.inventory("instance"))

    def creates(self) -> int:
        """Return how many create calls the cloud has heard for instances."""
        return sum(1 for call in self.cloud.calls if call.action == "cluster.create")


def plane_on(world: World) -> ControlPlane:
    """Return another control plane on the same store, as a second process would open it."""
    return _plane(world.home, world.clock, world.cloud, world.timing, world.database, world.providers)


def _plane(
    home: Path, clock: ManualClock, cloud: FakeCloud, timing: Timing, database: str | None, providers: tuple[str, ...]
) -> ControlPlane:
    registry = Registry.of(*(FakeProvider(cloud, name).provider() for name in providers))
    settings = Settings(home=home, timing=timing, url="https://plane.test", database=database)
    return ControlPlane(settings, registry=registry, clock=clock)
