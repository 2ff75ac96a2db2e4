import stat
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import obstore
import pytest
from anyscale_local.grants import GrantRecord
from anyscale_local.identity import LocalIdentity
from anyscale_local.state import State
from anyscale_local.storage import LocalStorage
from anyscale_local.testing import Machine, owned, soon
from obstore.store import from_url

from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Unsupported
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, UrlMethod

OTHER = owned(cloud="other")


@pytest.fixture
def driver(tmp_path: Path) -> LocalStorage:
    return LocalStorage(Machine(home=tmp_path / "plane").config())


def bucket(driver: LocalStorage, name: str = "data", token: str = "t1", adopt: str | None = None) -> Bucket:
    spec = BucketSpec(name=name, adopt=adopt)
    return driver.create(spec, owner=owned(), token=Token(token), deadline=soon())


def granted(driver: LocalStorage, prefix: str, name: str = "data") -> Grant:
    return driver.grant(
        name, prefix, identity="work", access=Access.WRITE, owner=owned(), token=Token(f"g-{prefix}"), deadline=soon()
    )


def test_a_bucket_is_a_private_folder_made_once_per_token_and_gone_after_its_delete(
    driver: LocalStorage, tmp_path: Path
) -> None:
    made = bucket(driver)
    folder = tmp_path / "plane" / "local" / "buckets" / "data"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert made.url == f"file://{folder}/"
    assert not made.public
    assert bucket(driver) == made
    assert driver.get("data", owner=owned(), deadline=soon()) == made
    assert driver.list(owned(), deadline=soon()) == (made,)
    with pytest.raises(AlreadyExists):
        bucket(driver, token="t2")
    assert driver.delete("data", owner=owned(), deadline=soon()) is Deletion.GONE
    assert not folder.exists()
    assert driver.delete("data", owner=owned(), deadline=soon()) is Deletion.ALREADY_ABSENT
    with pytest.raises(NotFound):
        driver.get("data", owner=owned(), deadline=soon())
    with pytest.raises(Conflict) as spent:
        bucket(driver)
    assert spent.value.reason == "TOKEN_SPENT"


def test_a_stranger_neither_sees_nor_takes_nor_deletes_a_bucket(driver: LocalStorage) -> None:
    bucket(driver)
    assert driver.list(OTHER, deadline=soon()) == ()
    assert driver.delete("data", owner=OTHER, deadline=soon()) is Deletion.ALREADY_ABSENT
    for call in (
        lambda: driver.get("data", owner=OTHER, deadline=soon()),
        lambda: driver.objects("data", owner=OTHER),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(AlreadyExists) as taken:
        driver.create(BucketSpec(name="data"), owner=OTHER, token=Token("t1"), deadline=soon())
    assert taken.value.reason == "FOREIGN"
    assert len(driver.list(owned(), deadline=soon())) == 1


def test_what_a_node_writes_by_its_grant_is_what_the_control_plane_reads(driver: LocalStorage) -> None:
    bucket(driver)
    grant = granted(driver, "clu_1/")
    assert grant.store.options == {}
    store = from_url(grant.store.url)
    obstore.put(store, "logs/one/agent.log", b"hello")

    ours = driver.objects("data", "clu_1/", owner=owned())
    assert bytes(obstore.get(ours, "logs/one/agent.log").bytes()) == b"hello"
    assert [item["path"] for item in obstore.list(driver.objects("data", owner=owned())).collect()] == [
        "clu_1/logs/one/agent.log"
    ]
    assert grant.store.url.endswith("/data/clu_1/")
    assert granted(driver, "clu_1/") == grant


def test_a_bucket_with_an_object_is_not_deleted_and_one_with_empty_folders_is(driver: LocalStorage) -> None:
    bucket(driver)
    store = driver.objects("data", "a/b/", owner=owned())
    obstore.put(store, "c/d", b"")
    with pytest.raises(Conflict) as error:
        driver.delete("data", owner=owned(), deadline=soon())
    assert error.value.reason == "NOT_EMPTY"
    assert bytes(obstore.get(store, "c/d").bytes()) == b""
    obstore.delete(store, "c/d")
    assert driver.delete("data", owner=owned(), deadline=soon()) is Deletion.GONE


def test_a_grant_is_remembered_until_it_is_revoked_or_its_bucket_or_its_identity_goes(
    driver: LocalStorage, tmp_path: Path
) -> None:
    config = Machine(home=tmp_path / "plane").config()
    identities = LocalIdentity(config)
    shelf = State(tmp_path / "plane" / "local", config.clock).shelf("grants", GrantRecord)
    bucket(driver)
    spec = IdentitySpec(name="work", owner=owned())
    for prefix in ("a/", "b/", "c/"):
        identities.create(spec, token=Token("i"), deadline=soon())
        for _ in range(2):
            granted(driver, prefix)
    assert sorted(record.name for record in shelf.all()) == ["data/a/", "data/b/", "data/c/"]
    revoke = partial(driver.revoke, "data", "a/", identity="work", deadline=soon())
    assert revoke(owner=OTHER) is Deletion.ALREADY_ABSENT
    assert [revoke(owner=owned()) for _ in range(2)] == [Deletion.GONE, Deletion.ALREADY_ABSENT]
    assert sorted(record.name for record in shelf.all()) == ["data/b/", "data/c/"]
    identities.delete("work", owner=owned(), deadline=soon())
    assert list(shelf.all()) == []
    granted(driver, "d/")
    driver.delete("data", owner=owned(), deadline=soon())
    assert list(shelf.all()) == []


@pytest.mark.parametrize("prefix", ["../", "a/../../", "/etc/", "a//", "./", "a", "a/..", "a\\b/", "\0/"])
def test_a_prefix_that_leads_out_of_its_bucket_is_refused(driver: LocalStorage, prefix: str) -> None:
    bucket(driver)
    with pytest.raises(InvalidRequest):
        granted(driver, prefix)
    with pytest.raises(InvalidRequest):
        driver.objects("data", prefix, owner=owned())


def test_a_link_that_leads_out_of_the_bucket_is_not_followed(driver: LocalStorage, tmp_path: Path) -> None:
    bucket(driver)
    (tmp_path / "plane" / "local" / "buckets" / "data" / "out").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest):
        granted(driver, "out/")
    with pytest.raises(Conflict):
        driver.delete("data", owner=owned(), deadline=soon())


def test_an_adopted_folder_is_used_and_let_go_of_untouched(driver: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / "precious").write_text("x")
    made = bucket(driver, adopt=f"file://{tmp_path}/my%20data")
    assert made.adopted
    assert made.url == f"file://{tmp_path}/my%20data/"
    obstore.put(from_url(granted(driver, "clu_1/").store.url), "k", b"v")
    assert (folder / "clu_1" / "k").read_text() == "v"
    assert driver.delete("data", owner=owned(), deadline=soon()) is Deletion.GONE
    assert (folder / "precious").read_text() == "x"
    assert (folder / "clu_1" / "k").read_text() == "v"


def test_only_a_folder_that_is_there_and_not_our_own_can_be_adopted(driver: LocalStorage, tmp_path: Path) -> None:
    bucket(driver)
    with pytest.raises(NotFound):
        bucket(driver, "x", "x", adopt=f"file://{tmp_path}/none")
    for url in ("s3://bucket", "relative", f"file://{tmp_path}/plane/local/buckets/data", "file://host/x"):
        with pytest.raises(InvalidRequest):
            bucket(driver, "x", "x", adopt=url)
    assert len(driver.list(owned(), deadline=soon())) == 1


def test_what_a_folder_cannot_do_is_refused_and_changes_nothing(driver: LocalStorage, tmp_path: Path) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: driver.create(BucketSpec(name="x", expire_days=3), owner=owned(), token=Token("x"), deadline=soon()),
        lambda: driver.create(
            BucketSpec(name="x", cors_origins=("*",)), owner=owned(), token=Token("x"), deadline=soon()
        ),
        lambda: driver.create(BucketSpec(name="../x"), owner=owned(), token=Token("x"), deadline=soon()),
    )
    for call in calls:
        with pytest.raises(InvalidRequest):
            call()
    with pytest.raises(Unsupported) as error:
        driver.signed_url(
            "data", "k", method=UrlMethod.GET, expires_in=timedelta(minutes=1), owner=owned(), deadline=soon()
        )
    assert error.value.reason == "storage.signed_urls"
    assert not (tmp_path / "plane").exists()
