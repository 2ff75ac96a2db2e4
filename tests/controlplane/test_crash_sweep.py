"""The control plane killed before and after every call and every transaction of a story, and every write of it disturbed.

Exhaustive over the positions of each story, as the journal and the store themselves count them: the final state equals that
of the undisturbed run, and the cloud's own inventory shows nothing twice and nothing left over.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count, product

import pytest

from anyscale_core.drivers.layers import WRITES
from anyscale_core.errors import CapacityUnavailable, PermissionDenied, Scope, Throttled, Transient
from anyscale_core.models.instance import Notice, NoticeKind
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing import FakeCloud, FaultRule, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.watched import Killed, hasten, watch
from tests.controlplane.world import World

STEP = timedelta(seconds=3)
SWEEP = timedelta(seconds=8)
"""Five of these are longer than the longest time between two sweeps: what is left over would be met."""
LIMIT = 300
"""Steps in which every story has to be at its end, however it was disturbed."""


BOOT = timedelta(seconds=6)


class Killer:
    """Counts the positions at which the plane may die, and lets it die at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, 0

    def pass_by(self) -> None:
        self.seen += 1
        if self.at is not None and self.seen >= self.at:
            raise Killed  # again at whatever it tries on its way down: the dead write nothing


def start(world: World) -> Callable[[], bool]:
    world.plane.apply(a_spec("demo", workers(min_nodes=2, max_nodes=3), idle_worker_seconds=20), actor="tester")
    return lambda: world.phase() is ClusterPhase.RUNNING and len(world.ready()) == 2


def grow(world: World) -> Callable[[], bool]:
    world.agents.demand("demo", {"CPU": 4.0}, 4)
    return lambda: len(world.ready()) == 3


def heal(world: World) -> Callable[[], bool]:
    lost = world.ready()[0]
    world.cloud.kill(lost.name)
    return lambda: len(world.ready()) == 2 and lost.name not in world.instances() and lost not in world.nodes()


def lose_the_head(world: World) -> Callable[[], bool]:
    lost = world.head()
    world.cloud.kill(lost.name)
    return lambda: world.phase() is ClusterPhase.RUNNING and world.head().id != lost.id and len(world.ready()) == 2


def drain(world: World) -> Callable[[], bool]:
    taken = world.ready()[0]
    world.cloud.announce(taken.name, Notice(kind=NoticeKind.PREEMPTION, at=world.clock.now() + timedelta(seconds=60)))
    return lambda: len(world.ready()) == 2 and taken.name not in world.instances() and len(world.nodes()) == 3


def shrink(world: World) -> Callable[[], bool]:
    world.plane.apply(a_spec("demo", workers(min_nodes=1, max_nodes=1), idle_worker_seconds=20), actor="tester")
    return lambda: len(world.nodes(group="workers")) == 1 and len(world.instances()) == 2


def end(world: World) -> Callable[[], bool]:
    world.plane.terminate("demo", actor="tester")
    return lambda: world.phase() is ClusterPhase.TERMINATED


STORIES = {
    "start": start,
    "grow": grow,
    "heal": heal,
    "lose the head": lose_the_head,
    "drain": drain,
    "shrink": shrink,
    "end": end,
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """Make worlds from one home whose store is migrated and whose keys are made."""
    folder = tmp_path_factory.mktemp("sweep")
    World.new(folder / "template").plane.close()
    numbers = count()

    def make() -> World:
        home = folder / str(next(numbers))
        shutil.copytree(folder / "template", home)
        cloud = FakeCloud(ManualClock(), boot=BOOT, delete_takes=BOOT, exposes_in=BOOT, list_window=BOOT)
        world = World.new(home, cloud=cloud)
        hasten(world.plane.store)
        return world

    return make


@contextmanager
def watched(world: World, killer: Killer) -> Iterator[None]:
    """Pass by the killer before and after every driver call and every durable transaction of this plane."""
    unwatch = watch(world.plane.store, killer.pass_by)
    rules = [
        world.cloud.before("*", killer.pass_by, count=None),
        world.cloud.after("*", killer.pass_by, count=None),
    ]
    try:
        yield
    finally:
        unwatch()
        for rule in rules:
            rule.lift()


def tell(world: World, story: str, killer: Killer) -> int:
    """Play one story to its end; when the plane is killed, start it again and go on. Return how many calls came before it."""
    if story != "start":
        done = start(world)
        world.until(done, step=STEP)
        world.run(steps=3, step=STEP)
    before = len(world.cloud.calls)
    wished: Callable[[], bool] | None = None
    try:
        with watched(world, killer):
            done = wished = STORIES[story](world)
            world.until(lambda: done() or given_up(world), steps=LIMIT, step=STEP)
    except Killed:
        world.restart()
        hasten(world.plane.store)
    # A wish that was never answered is said again, as its user would.
    done = wished or STORIES[story](world)
    world.until(lambda: done() or given_up(world), steps=LIMIT, step=STEP)
    world.run(steps=5, step=SWEEP)
    assert done() or given_up(world), "and it stays so"
    return before


def given_up(world: World) -> bool:
    """Tell whether the cluster has failed for a reason that it names: what a refusal may come to."""
    return world.phase() is ClusterPhase.FAILED and "not allowed" in world.record().reason


def state(world: World) -> tuple[ClusterPhase, Counter[tuple[str, str]], Counter[str]]:
    """Return what counts in the end: the phase, the live nodes by group and phase, what the cloud has by kind."""
    nodes = Counter((node.group, node.phase.value) for node in world.nodes())
    assert sorted(node.name for node in world.nodes()) == world.instances(), "every instance has its node, once"
    return world.phase(), nodes, Counter(item.kind for item in world.cloud.inventory())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_killed_at_any_position_of_a_story_it_ends_as_if_nothing_had_happened(
    story: str, worlds: Callable[[], World]
) -> None:
    counted = Killer(at=None)
    undisturbed = worlds()
    tell(undisturbed, story, counted)
    expected = state(undisturbed)
    undisturbed.plane.close()
    for position in range(1, counted.seen + 1):
        world = worlds()
        killer = Killer(at=position)
        tell(world, story, killer)
        assert killer.seen >= position, f"{story}: position {position} was never reached"
        assert state(world) == expected, f"{story}: killed at position {position} of {counted.seen}"
        world.plane.close()
    print(f"{story}: killed at each of {counted.seen} positions")


def throttled(world: World, action: str, nth: int) -> FaultRule:
    error = Throttled("slow down", reason="RATE", retry_after=timedelta(seconds=3))
    return world.cloud.refuse(action, error, skip=nth)


def refused(world: World, action: str, nth: int) -> FaultRule:
    return world.cloud.refuse(action, PermissionDenied("not allowed", reason="POLICY"), skip=nth)


def lost_before(world: World, action: str, nth: int) -> FaultRule:
    return world.cloud.refuse(action, Transient("connection refused", reason="NETWORK"), count=6, skip=nth)


def lost_after(world: World, action: str, nth: int) -> FaultRule:
    return world.cloud.lose_response(action, count=6, nth=nth + 1)


def out_of_stock(world: World, action: str, nth: int) -> FaultRule:
    error = CapacityUnavailable("none left", reason="ZONE", scope=Scope.ZONE)
    return world.cloud.refuse(action, error, skip=nth)


FAULTS = {"refused": refused, "throttled": throttled, "lost before": lost_before, "lost after the commit": lost_after}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_every_write_of_a_story_disturbed_changes_nothing_in_the_end(story: str, worlds: Callable[[], World]) -> None:
    undisturbed = worlds()
    began = tell(undisturbed, story, Killer(at=None))
    expected = state(undisturbed)
    undisturbed.plane.close()
    # Which calls write is the layers' own list: a new verb is swept as soon as it is called.
    actions = [call.action for call in undisturbed.cloud.calls if call.verb in WRITES]
    own = [call.action for call in undisturbed.cloud.calls[began:] if call.verb in WRITES]
    before, writes = Counter(actions) - Counter(own), Counter(own)
    fired: Counter[str] = Counter()
    for action, number in sorted(writes.items()):
        faults = FAULTS | ({"out of stock": out_of_stock} if action == "cluster.create" else {})
        for nth, (name, fault) in product(range(before[action], before[action] + number), faults.items()):
            world = worlds()
            rule = fault(world, action, nth)
            tell(world, story, Killer(at=None))
            assert rule.fired, f"{story}: {name} at {action} {nth} never struck"
            if given_up(world):
                assert name == "refused", f"{story}: {name} at {action} number {nth} is no reason to give up"
                assert not {"instance", "endpoint"} & {item.kind for item in world.cloud.inventory()}
            else:
                assert state(world) == expected, f"{story}: {name} at {action} number {nth}"
            world.plane.close()
            fired[name] += rule.fired
    print(f"{story}: {sum(fired.values())} faults fired at {sum(writes.values())} writes: {dict(fired)}")
