"""The operator killed at each of its steps, and the plane at each of its transactions: nothing twice, nothing lost.

The steps of an operator: before and after each of its three routes, before and after each call to the cloud. They are counted on
an undisturbed run; ``MOST`` of them are tried, evenly spread, and all of them with ``PULL_SWEEP=all`` in the environment.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from anyscale_core.errors import Transient
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing import FakeCloud, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.watched import Killed, hasten, watch
from tests.controlplane.world import World
from tests.operator.pull import Dies, Pull

STEP, SWEEP = timedelta(seconds=3), timedelta(seconds=8)
LIMIT = 300
MOST = 10_000 if os.environ.get("PULL_SWEEP") == "all" else 12
BOOT = timedelta(seconds=6)


class Killer:
    """Counts positions, and kills at one of them, once: it is the operator that dies, and another one that comes."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.seen = at, 0
        self.is_armed = True

    def pass_by(self) -> None:
        if not self.is_armed:
            return
        self.seen += 1
        if self.seen == self.at:
            raise Killed


class Steps:
    """The operator's routes, with a killer before and after each."""

    def __init__(self, door: Any, killer: Killer) -> None:
        self._door, self._killer = door, killer

    def __getattr__(self, name: str) -> Any:
        route = getattr(self._door, name)

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self._killer.pass_by()
            answer = route(*args, **kwargs)
            self._killer.pass_by()
            return answer

        return stepped


@pytest.fixture(scope="module")
def pulls(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Pull]:
    """Make worlds in pull mode from one home whose store is migrated and whose keys are made."""
    folder = tmp_path_factory.mktemp("pull-sweep")
    Pull.new(folder / "template").world.plane.close()
    numbers = count()

    def make() -> Pull:
        home = folder / str(next(numbers))
        shutil.copytree(folder / "template", home)
        cloud = FakeCloud(ManualClock(), boot=BOOT, delete_takes=BOOT, exposes_in=BOOT, list_window=BOOT)
        pull = Pull.new(home, cloud=cloud, register=False)
        hasten(pull.world.plane.store)
        return pull

    return make


def start(world: World) -> Callable[[], bool]:
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    return lambda: world.phase() is ClusterPhase.RUNNING and len(world.ready()) == 2


def heal(world: World) -> Callable[[], bool]:
    lost = world.ready()[0]
    world.cloud.kill(lost.name)
    return lambda: len(world.ready()) == 2 and lost.name not in world.instances() and lost not in world.nodes()


def end(world: World) -> Callable[[], bool]:
    world.plane.terminate("demo", actor="tester")
    return lambda: world.phase() is ClusterPhase.TERMINATED


STORIES = {"start": start, "heal": heal, "end": end}


def tell_of_operators(pull: Pull, story: str, killer: Killer) -> None:
    """Play a story; when the operator is killed another one comes, and knows nothing of the first."""
    world = pull.world
    if story != "start":
        pull.until(start(world), step=STEP)
        pull.run(steps=3, step=STEP)
    pull.door, pull.who_dies = Steps(pull.door, killer), Dies.OPERATOR
    killer.is_armed = False
    pull.replace()
    pull.until(lambda: pull.operator.vitals.leads, step=STEP)
    killer.is_armed = True
    world.cloud.before("*", killer.pass_by, count=None)
    world.cloud.after("*", killer.pass_by, count=None)
    done = wished(pull, story)
    pull.until(done, steps=LIMIT, step=STEP)
    killer.is_armed = False
    pull.run(steps=5, step=SWEEP)
    assert done(), "and it stays so"


def tell_of_planes(pull: Pull, story: str, killer: Killer) -> None:
    """Play a story; when the plane is killed it is started again, and the operator lives on."""
    world = pull.world
    if story != "start":
        pull.until(start(world), step=STEP)
        pull.run(steps=3, step=STEP)
    unwatch = watch(world.plane.store, killer.pass_by)
    done: Callable[[], bool] | None = None
    try:
        done = STORIES[story](world)
        pull.until(done, steps=LIMIT, step=STEP)
    except Killed:
        pull.restart()
        hasten(world.plane.store)
    killer.is_armed = False
    unwatch()
    done = done or STORIES[story](world)  # a wish that was never answered is said again, as its user would
    pull.until(done, steps=LIMIT, step=STEP)
    pull.run(steps=5, step=SWEEP)
    assert done(), "and it stays so"


def wished(pull: Pull, story: str) -> Callable[[], bool]:
    """Say a story's wish; again when nobody could look at it because the operator had just died, as its user would."""
    for _ in range(LIMIT):
        try:
            return STORIES[story](pull.world)
        except Transient:
            pull.run(step=STEP)
    raise AssertionError(f"{story}: the wish was never accepted")


def state(world: World) -> tuple[ClusterPhase, Counter[tuple[str, str]], Counter[str]]:
    """Return what counts in the end: the phase, the live nodes, what the cloud has by kind."""
    nodes = Counter((node.group, node.phase.value) for node in world.nodes())
    assert sorted(node.name for node in world.nodes()) == world.instances(), "every instance has its node, once"
    return world.phase(), nodes, Counter(item.kind for item in world.cloud.inventory())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tell", [tell_of_operators, tell_of_planes])
@pytest.mark.parametrize("story", STORIES)
def test_whoever_is_killed_at_whatever_step_the_story_ends_as_if_nothing_had_happened(
    story: str, tell: Callable[[Pull, str, Killer], None], pulls: Callable[[], Pull]
) -> None:
    counted, undisturbed = Killer(), pulls()
    tell(undisturbed, story, counted)
    expected = state(undisturbed.world)
    undisturbed.world.plane.close()
    for position in range(1, counted.seen + 1, max(1, counted.seen // MOST)):
        pull, killer = pulls(), Killer(at=position)
        tell(pull, story, killer)
        assert killer.seen >= position, f"{story}: position {position} was never reached"
        assert state(pull.world) == expected, f"{story}: killed at position {position} of {counted.seen}"
        pull.world.plane.close()
    print(f"{story}: {counted.seen} positions")
