"""The store on a real PostgreSQL: the tables, the stories of the crash sweep, what is claimed once, and what is heard of."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from litestar.testing import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from anyscale_core.api.app import create_app
from anyscale_core.controlplane.keys import SHARED, USER
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.postgres import url_of
from anyscale_core.controlplane.schema import metadata
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import LeaseLost
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.test_crash_sweep import STORIES, Killer, state, tell
from tests.controlplane.world import World

WAIT = 20.0


def test_processes_that_open_an_empty_store_at_once_make_its_tables_once(database: str) -> None:
    stores = [Store(database) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Store.migrate, stores))
    for store in stores:
        store.close()
    with sqlalchemy.create_engine(url_of(database)).connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), metadata)
    assert difference == []


def test_the_migrations_can_be_taken_back_and_made_again(database: str) -> None:
    from alembic import command
    from alembic.config import Config

    engine = sqlalchemy.create_engine(url_of(database))
    config = Config()
    config.set_main_option("script_location", "anyscale_core.controlplane:migrations")
    for step in (command.upgrade, command.downgrade, command.upgrade):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            step(config, "base" if step is command.downgrade else "head")
        tables = set(sqlalchemy.inspect(engine).get_table_names()) - {"alembic_version"}
        assert tables == (set() if step is command.downgrade else set(metadata.tables))


@pytest.mark.parametrize("story", STORIES)
def test_every_story_ends_on_postgresql_as_on_sqlite(story: str, database: str, tmp_path: Path) -> None:
    embedded = World.new(tmp_path / "sqlite")
    tell(embedded, story, Killer(at=None))
    served = World.new(tmp_path / "postgresql", database=database)
    tell(served, story, Killer(at=None))
    assert state(served) == state(embedded)
    served.plane.close()


def two_planes(tmp_path: Path, database: str) -> tuple[ControlPlane, ControlPlane]:
    clock = ManualClock()
    registry = Registry.of(FakeProvider(FakeCloud(clock)).provider())
    first, second = (
        ControlPlane(
            Settings(home=tmp_path / name, database=database, url="https://plane.test"), registry=registry, clock=clock
        )
        for name in ("first", "second")
    )
    return first, second


def test_two_planes_with_homes_of_their_own_have_one_identity_and_one_set_of_keys(
    database: str, tmp_path: Path
) -> None:
    first, second = two_planes(tmp_path, database)
    assert first.id == second.id
    assert first.holder != second.holder
    keys = [[(tmp_path / home / "keys" / name).read_text() for name in SHARED] for home in ("first", "second")]
    assert keys[0] == keys[1]
    now = first.clock.now()
    token = first.keys.sign("tests", {"sub": "x"}, issued=now, expires=now + timedelta(minutes=1))
    assert second.keys.verify("tests", token, now=now)["sub"] == "x"
    first.close()
    second.close()


def test_every_due_cluster_is_claimed_once_whoever_asks(database: str, tmp_path: Path) -> None:
    first, second = two_planes(tmp_path, database)
    for number in range(40):
        first.apply(a_spec(f"demo-{number}", workers()), actor="tester")
    now, ttl = first.clock.now(), timedelta(seconds=90)

    def claim_all(plane: ControlPlane) -> list[str]:
        leases = iter(lambda: plane.store.claim(plane.holder, now=now, ttl=ttl), None)
        return [lease.cluster_id for lease in leases]

    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(claim_all, (first, second, first, second)))
    every = [id for ids in claimed for id in ids]
    assert len(every) == len(set(every)) == 40
    print(f"40 clusters claimed by 4 threads of 2 planes: {[len(ids) for ids in claimed]}")
    first.close()
    second.close()


def test_a_holder_whose_lease_has_lapsed_can_write_nothing_more(database: str, tmp_path: Path) -> None:
    first, second = two_planes(tmp_path, database)
    first.apply(a_spec("demo", workers()), actor="tester")
    now, ttl = first.clock.now(), timedelta(seconds=90)
    lease = first.store.claim(first.holder, now=now, ttl=ttl)
    assert lease is not None
    later = now + ttl + timedelta(seconds=1)
    assert second.store.claim(second.holder, now=later, ttl=ttl) is not None
    # Even by a clock that stands still: what counts is the token, which has grown.
    with pytest.raises(LeaseLost), first.store.fenced(lease, now=now):
        raise AssertionError("the fence has let a lapsed lease in")
    first.close()
    second.close()


def test_a_holder_that_stands_still_in_the_middle_of_a_transaction_keeps_nobody_out_for_ever(
    database: str, tmp_path: Path
) -> None:
    first, second = two_planes(tmp_path, database)
    first.apply(a_spec("demo", workers()), actor="tester")
    now, ttl = first.clock.now(), timedelta(seconds=90)
    lease = first.store.claim(first.holder, now=now, ttl=ttl)
    assert lease is not None

    def stand_still() -> None:
        with first.store.fenced(lease, now=now) as connection:
            # Here a SIGSTOP has struck the first: it says nothing more, and its row is locked.
            until, later = time.monotonic() + WAIT, now + ttl + timedelta(seconds=1)
            while (taken := second.store.claim(second.holder, now=later, ttl=ttl)) is None:
                assert time.monotonic() < until, "nobody could take the cluster over"
                time.sleep(0.05)
            assert taken.cluster_id == lease.cluster_id
            connection.execute(text("SELECT 1"))  # it has woken up

    with pytest.raises(DBAPIError, match="idle-in-transaction"):
        stand_still()
    assert first.status("demo").record.name == "demo", "its next transaction has a connection that works"
    first.close()
    second.close()


def test_a_wish_said_to_one_plane_is_heard_by_the_other(database: str, tmp_path: Path) -> None:
    first, second = two_planes(tmp_path, database)
    heard = threading.Semaphore(0)
    listener = second.store.listen(heard.release)
    assert listener is not None
    assert heard.acquire(timeout=WAIT), "once connected it says so"

    def told(what: str, act: Callable[[], object]) -> None:
        act()
        assert heard.acquire(timeout=WAIT), f"{what} was not heard of"

    told("a new cluster", lambda: first.apply(a_spec("demo", workers(min_nodes=1)), actor="tester"))
    told("its end", lambda: first.terminate("demo", actor="tester"))
    listener.close()
    first.close()
    second.close()


def test_a_listener_that_was_cut_off_connects_again_and_says_so(database: str, postgres: str, tmp_path: Path) -> None:
    import psycopg

    first, second = two_planes(tmp_path, database)
    heard = threading.Semaphore(0)
    listener = second.store.listen(heard.release)
    assert listener is not None
    assert heard.acquire(timeout=WAIT)
    with psycopg.connect(postgres, autocommit=True) as connection:
        cut = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        ).fetchone()
    assert cut is not None
    assert cut[0] >= 1
    assert heard.acquire(timeout=WAIT), "what was missed meanwhile is made up for by a look after connecting again"
    first.apply(a_spec("demo", workers()), actor="tester")
    assert heard.acquire(timeout=WAIT)
    listener.close()
    first.close()
    second.close()


def test_a_plane_that_cannot_reach_its_store_says_so_and_is_well_again_when_it_can(
    database: str, tmp_path: Path
) -> None:
    import psycopg

    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE ROLE cut_off LOGIN SUPERUSER")
        plane, other = two_planes(tmp_path, database.replace("postgres:@", "cut_off:@"))
        now = plane.clock.now()
        token = plane.keys.sign(USER, {"sub": "tester"}, issued=now, expires=now + timedelta(hours=1))
        headers = {"Authorization": f"Bearer {token.reveal()}"}
        with TestClient(create_app(plane)) as client:
            assert client.get("/v1/clusters", headers=headers).status_code == 200
            admin.execute("ALTER ROLE cut_off NOLOGIN")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cut_off'")
            refused = client.get("/v1/clusters", headers=headers)
            assert (refused.status_code, refused.json()["category"]) == (503, "Transient")
            assert "cannot reach its store" in refused.text
            assert "cut_off" not in refused.text, "an outage tells nothing of the database"
            admin.execute("ALTER ROLE cut_off LOGIN")
            assert client.get("/v1/clusters", headers=headers).status_code == 200
        plane.close()
        other.close()
