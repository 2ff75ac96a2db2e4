"""The control plane killed before and after every call and every transaction of a story, and every write of it disturbed.

Exhaustive over the positions of each story: the final state equals that of the undisturbed run, and the cloud's own inventory
shows nothing twice and nothing left over.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CapacityUnavailable, Scope, Throttled, Transient
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing import FaultRule
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World

LIMIT = 400
"""Steps of two seconds in which every story has to be at its end, however it was disturbed."""


class Killed(BaseException):
    """The control plane dies here: nothing catches it."""


class Killer:
    """Counts the positions at which the plane may die, and lets it die at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, 0

    def pass_by(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Killed


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


def shrink(world: World) -> Callable[[], bool]:
    world.plane.apply(a_spec("demo", workers(min_nodes=1, max_nodes=1), idle_worker_seconds=20), actor="tester")
    return lambda: len(world.nodes(group="workers")) == 1 and len(world.instances()) == 2


def end(world: World) -> Callable[[], bool]:
    world.plane.terminate("demo", actor="tester")
    return lambda: world.phase() is ClusterPhase.TERMINATED


STORIES = {"start": start, "grow": grow, "heal": heal, "lose the head": lose_the_head, "shrink": shrink, "end": end}


@contextmanager
def watched(world: World, killer: Killer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pass by the killer before and after every driver call and every fenced transaction."""
    fenced = Store.fenced

    @contextmanager
    def deadly(self: Store, *args: Any, **kwargs: Any) -> Iterator[Any]:
        killer.pass_by()
        with fenced(self, *args, **kwargs) as connection:
            yield connection
        killer.pass_by()

    rules = [
        world.cloud.before("*", killer.pass_by, count=None),
        world.cloud.after("*", killer.pass_by, count=None),
    ]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "fenced", deadly)
            yield
    finally:
        for rule in rules:
            rule.lift()


def tell(world: World, story: str, killer: Killer, monkeypatch: pytest.MonkeyPatch) -> int:
    """Play one story to its end; when the plane is killed, start it again and go on. Return how many calls came before it."""
    if story != "start":
        done = start(world)
        world.until(done, step=timedelta(seconds=2))
        world.run(steps=10, step=timedelta(seconds=2))
    before = len(world.cloud.calls)
    wished: Callable[[], bool] | None = None
    try:
        with watched(world, killer, monkeypatch):
            wished = STORIES[story](world)
            world.until(wished, steps=LIMIT, step=timedelta(seconds=2))
    except Killed:
        world.restart()
    # A wish that was never answered is said again, as its user would.
    done = wished or STORIES[story](world)
    world.until(done, steps=LIMIT, step=timedelta(seconds=2))
    world.run(steps=30, step=timedelta(seconds=2))
    assert done(), "and it stays so"
    return before


def state(world: World) -> tuple[ClusterPhase, Counter[tuple[str, str]], Counter[str]]:
    """Return what counts in the end: the phase, the live nodes by group and phase, what the cloud has by kind."""
    nodes = Counter((node.group, node.phase.value) for node in world.nodes())
    assert sorted(node.name for node in world.nodes()) == world.instances(), "every instance has its node, once"
    return world.phase(), nodes, Counter(item.kind for item in world.cloud.inventory())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_killed_at_any_position_of_a_story_it_ends_as_if_nothing_had_happened(
    story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Killer(at=None)
    undisturbed = World.new(tmp_path / "undisturbed")
    tell(undisturbed, story, counted, monkeypatch)
    expected = state(undisturbed)
    for position in range(1, counted.seen + 1):
        world = World.new(tmp_path / str(position))
        killer = Killer(at=position)
        tell(world, story, killer, monkeypatch)
        assert killer.seen >= position, f"{story}: position {position} was never reached"
        assert state(world) == expected, f"{story}: killed at position {position} of {counted.seen}"
        world.plane.close()
    print(f"{story}: killed at each of {counted.seen} positions")


WRITES = (
    "cluster.create", "cluster.delete", "networking.create", "networking.expose", "networking.withdraw",
    "storage.create", "storage.grant", "storage.revoke", "identity.create",
)  # fmt: skip


def throttled(world: World, action: str, nth: int) -> FaultRule:
    error = Throttled("slow down", reason="RATE", retry_after=timedelta(seconds=3))
    return world.cloud.refuse(action, error, skip=nth)


def lost_before(world: World, action: str, nth: int) -> FaultRule:
    return world.cloud.refuse(action, Transient("connection refused", reason="NETWORK"), count=6, skip=nth)


def lost_after(world: World, action: str, nth: int) -> FaultRule:
    return world.cloud.lose_response(action, nth=nth + 1)


def out_of_stock(world: World, action: str, nth: int) -> FaultRule:
    error = CapacityUnavailable("none left", reason="ZONE", scope=Scope.ZONE)
    return world.cloud.refuse(action, error, skip=nth)


FAULTS = {"throttled": throttled, "lost before": lost_before, "lost after the commit": lost_after}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_every_write_of_a_story_disturbed_once_changes_nothing_in_the_end(
    story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = World.new(tmp_path / "undisturbed")
    began = tell(undisturbed, story, Killer(at=None), monkeypatch)
    expected = state(undisturbed)
    actions = [call.action for call in undisturbed.cloud.calls if call.action in WRITES]
    own = [call.action for call in undisturbed.cloud.calls[began:] if call.action in WRITES]
    before, writes = Counter(actions) - Counter(own), Counter(own)
    fired = 0
    for action, count in sorted(writes.items()):
        faults = FAULTS | ({"out of stock": out_of_stock} if action == "cluster.create" else {})
        for nth, (name, fault) in product(range(before[action], before[action] + count), faults.items()):
            world = World.new(tmp_path / f"{action}-{nth}-{name}")
            rule = fault(world, action, nth)
            tell(world, story, Killer(at=None), monkeypatch)
            assert rule.fired, f"{story}: {name} at {action} {nth} never struck"
            assert state(world) == expected, f"{story}: {name} at {action} number {nth}"
            world.plane.close()
            fired += rule.fired
    print(f"{story}: {fired} faults fired at {sum(writes.values())} writes")
