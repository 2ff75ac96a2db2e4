"""A hard quota under everything that can go wrong at once: two control planes, threads, and death at any position."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.quotas import Quotas
from anyscale_core.controlplane.rows import Lease
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.records import ClusterRecord
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.test_crash_sweep import Killer, watched
from tests.controlplane.watched import Killed, hasten
from tests.controlplane.world import World, plane_on

LIMIT = 7
QUOTA = QuotaSpec(name="team-a", nodes=LIMIT)
STEP = timedelta(seconds=10)


def most_ever(world: World) -> list[int]:
    """Return a list that takes down how many instances there are after every create call."""
    seen = [0]
    world.cloud.after("cluster.create", lambda: seen.append(len(world.instances())), count=None)
    return seen


def test_another_plane_that_records_between_plan_and_record_takes_the_room_and_nothing_is_exceeded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every transaction of the first plane the second has a turn of its own."""
    other = plane_on(world)
    world.plane.set_quota(QUOTA, actor="admin")
    seen, refused = most_ever(world), list[bool]()
    names = [f"c{index}" for index in range(4)]
    for name in names:
        world.plane.apply(a_spec(name, workers(min_nodes=3)), actor="tester")
    fenced, admit = world.plane.store.fenced, world.plane.quotas.admit

    @contextmanager
    def interrupted(lease: Lease, **kwargs: Any) -> Iterator[Any]:
        other.work_once()
        with fenced(lease, **kwargs) as connection:
            yield connection

    def noted(*args: Any) -> Any:
        answer = admit(*args)
        refused.append(answer is None)
        return answer

    monkeypatch.setattr(world.plane.store, "fenced", interrupted)
    monkeypatch.setattr(world.plane.quotas, "admit", noted)
    world.until(lambda: any(world.phase(name) is ClusterPhase.RUNNING for name in names))
    assert any(refused), "what was planned had no room any more when it was to be recorded"
    assert max(seen) == 4, "one of them fits"
    phases = Counter(world.phase(name) for name in names)
    assert phases == {ClusterPhase.RUNNING: 1, ClusterPhase.STARTING: 3}
    other.close()


def test_planes_that_work_at_once_in_threads_never_exceed_a_quota_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six threads of three planes have all seen an empty quota before the first of them records anything."""
    planes = [world.plane, plane_on(world), plane_on(world)]
    world.plane.set_quota(QUOTA, actor="admin")
    seen = most_ever(world)
    names = [f"c{index}" for index in range(12)]
    for name in names:
        world.plane.apply(a_spec(name, workers(min_nodes=3)), actor="tester")
    everybody, first, failures = threading.Barrier(2 * len(planes)), threading.local(), list[BaseException]()
    usage_over = Quotas.usage_over

    def all_look_before_one_records(quotas: Quotas, record: ClusterRecord) -> Any:
        usage = usage_over(quotas, record)
        if not hasattr(first, "is_over"):
            first.is_over = True
            everybody.wait(timeout=30)
        return usage

    monkeypatch.setattr(Quotas, "usage_over", all_look_before_one_records)

    def work(plane: ControlPlane) -> None:
        try:
            while plane.work_once():
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(plane,)) for plane in planes for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    world.run()
    assert sum(len(world.nodes(name)) for name in names) == max(seen) == 4, "one of them fits, and one there is"
    for plane in planes[1:]:
        plane.close()


def prepare(world: World) -> None:
    world.plane.set_quota(QuotaSpec(name="team-a", nodes=1), actor="admin")
    world.plane.apply(a_spec("first"), actor="tester")
    world.until(lambda: world.phase("first") is ClusterPhase.RUNNING, step=STEP)
    world.plane.apply(a_spec("second"), actor="tester")
    world.run(step=STEP)
    assert world.record("second").held_by == ("team-a",)


def tell(world: World, killer: Killer, limits: list[int]) -> None:
    """One cluster ends and another that waits for its share starts; a dead plane is started again."""

    def done() -> bool:
        limits.append(len(world.instances()))
        return world.phase("second") is ClusterPhase.RUNNING and world.phase("first") is ClusterPhase.TERMINATED

    hasten(world.plane.store)
    prepare(world)
    try:
        with watched(world, killer):
            world.plane.terminate("first", actor="tester")
            world.until(done, step=STEP)
    except Killed:
        world.restart()
        world.plane.terminate("first", actor="tester")
        world.until(done, step=STEP)
    world.run(steps=2, step=STEP)


def state(world: World) -> tuple[object, ...]:
    (status,) = world.plane.quotas.all()
    nodes = Counter((node.group, node.phase.value) for node in world.nodes("second"))
    assert sorted(node.name for node in world.nodes("second")) == world.instances()
    return nodes, status.usage.used, status.holds, world.record("second").held_by


@pytest.mark.timeout(600)
def test_killed_at_any_position_the_share_of_an_ended_cluster_is_free_and_the_next_one_has_it(
    tmp_path: Path,
) -> None:
    counted, limits = Killer(at=None), list[int]()
    undisturbed = World.new(tmp_path / "undisturbed")
    tell(undisturbed, counted, limits)
    expected = state(undisturbed)
    for position in range(1, counted.seen + 1):
        world = World.new(tmp_path / str(position))
        killer = Killer(at=position)
        tell(world, killer, limits)
        assert killer.seen >= position, f"position {position} was never reached"
        assert state(world) == expected, f"killed at position {position} of {counted.seen}"
        world.plane.close()
    assert max(limits) == 1
    print(f"a share is handed on: killed at each of {counted.seen} positions")
