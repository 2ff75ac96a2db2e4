"""The store: migrations, claims, and that the tables are what the migrations make."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from anyscale_core.controlplane.rows import Lease
from anyscale_core.controlplane.schema import Instant, metadata
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import SpecError, UnknownName
from anyscale_core.testing.builders import a_spec
from tests.controlplane.world import World


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    Store.at(tmp_path / "plane.db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'plane.db'}")

    def same_type(_: object, __: object, ___: object, inspected: object, ours: object) -> bool | None:
        return False if isinstance(ours, Instant) and "BIGINT" in str(inspected) else None

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": same_type})
        assert compare_metadata(context, metadata) == []


def test_opening_a_store_twice_changes_nothing(world: World) -> None:
    world.up(a_spec("demo"))
    again = Store.at(world.home / "plane.db")
    assert again.find("demo") == world.record().id
    assert again.meta("plane", "pln_other") == world.plane.id


def test_of_many_that_claim_at_once_each_cluster_is_held_by_one(world: World) -> None:
    for index in range(6):
        world.plane.apply(a_spec(f"c{index}"), actor="tester")
    store, now = world.plane.store, world.clock.now()
    leases: list[Lease] = []
    start = threading.Barrier(8)

    def claim(holder: str) -> None:
        start.wait()
        while (lease := store.claim(holder, now=now, ttl=timedelta(seconds=60))) is not None:
            leases.append(lease)

    threads = [threading.Thread(target=claim, args=(f"h{index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 6
    assert len({lease.cluster_id for lease in leases}) == 6


def test_a_wish_made_while_a_cluster_is_being_worked_on_is_not_slept_over(world: World) -> None:
    world.up(a_spec("demo"))
    store, now = world.plane.store, world.clock.now()
    store.touch(world.record().id, now=now)
    lease = store.claim("worker", now=now, ttl=timedelta(seconds=60))
    assert lease is not None
    world.plane.terminate("demo", actor="tester")
    store.release(lease, due_at=now + timedelta(hours=1))
    assert store.next_due(now=now) == now


def test_a_cluster_that_somebody_works_on_keeps_nobody_else_awake(world: World) -> None:
    world.plane.apply(a_spec("demo"), actor="tester")
    store, now = world.plane.store, world.clock.now()
    lease = store.claim("worker", now=now, ttl=timedelta(seconds=60))
    assert lease is not None
    store.touch(lease.cluster_id, now=now)
    assert store.next_due(now=now) == lease.until, "due, but not to be had before its lease ends"
    assert store.claim("other", now=now, ttl=timedelta(seconds=60)) is None
    store.release(lease, due_at=None)
    assert store.next_due(now=now) == now


def test_the_store_and_its_keys_are_for_their_owner_alone(world: World) -> None:
    for name in ("signing.pem", "ca-key.pem"):
        assert (world.home / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert (world.home / "keys").stat().st_mode & 0o777 == 0o700


def test_settings_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    env = {
        "ANYSCALE_CORE_HOME": str(tmp_path),
        "ANYSCALE_CORE_TIMING_LOST_AFTER": "soon",
        "ANYSCALE_CORE_TIMING_NAP": "3",
        "ANYSCALE_CORE_TIMING_START_ATTEMPTS": "3",
    }
    with pytest.raises(SpecError) as caught:
        Settings.from_env(env)
    assert [fault.path for fault in caught.value.faults] == [
        "ANYSCALE_CORE_TIMING_LOST_AFTER",
        "ANYSCALE_CORE_TIMING_NAP",
        "ANYSCALE_CORE_TIMING_START_ATTEMPTS",
    ]
    good = Settings.from_env({"ANYSCALE_CORE_HOME": str(tmp_path), "ANYSCALE_CORE_TIMING_LOST_AFTER": "7.5"})
    assert good.timing.lost_after == timedelta(seconds=7.5)


def test_what_has_ended_is_kept_for_its_time_and_forgotten_after_and_the_living_are_not(world: World) -> None:
    world.up(a_spec("old"))
    world.plane.terminate("old", actor="tester")
    world.until(lambda: world.phase("old").value == "TERMINATED")
    world.up(a_spec("alive", idle_termination_minutes=0))
    world.run(steps=28, step=timedelta(days=1))
    assert world.phase("old").value == "TERMINATED"
    world.run(steps=4, step=timedelta(days=1))
    with pytest.raises(UnknownName):
        world.plane.status("old")
    assert world.phase("alive").value in ("RUNNING", "RECOVERING")
    assert all(world.clock.now() - event.at <= timedelta(days=31) for event in world.plane.events(limit=5000))


def test_a_cluster_whose_holder_died_is_taken_over_when_the_lease_lapses(world: World) -> None:
    world.plane.apply(a_spec("demo"), actor="tester")
    store, now, ttl = world.plane.store, world.clock.now(), timedelta(seconds=60)
    dead = store.claim("dead", now=now, ttl=ttl)
    assert dead is not None
    assert store.claim("alive", now=now + ttl - timedelta(seconds=1), ttl=ttl) is None
    taken = store.claim("alive", now=now + ttl, ttl=ttl)
    assert taken is not None
    assert taken.token > dead.token
    store.release(dead, due_at=None)
    assert store.next_due(now=now + ttl) == taken.until, "who lost the lease releases nothing"
    renewed = store.renew(taken, now=now + ttl * 1.5, ttl=ttl)
    assert store.next_due(now=now + ttl * 1.5) == renewed.until
    store.release(renewed, due_at=None)
    assert store.next_due(now=now + ttl * 2) is None, "converged: nothing is due"
