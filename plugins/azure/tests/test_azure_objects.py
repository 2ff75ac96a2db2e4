import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from anyscale_azure.containers import container_of
from anyscale_azure.objects import IN_MEMORY, PIECE
from anyscale_azure.testing import OWNER, World
from obstore.exceptions import PermissionDeniedError
from obstore.store import from_url

from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.instance import Created
from anyscale_core.models.storage import BucketSpec, Grant, StoreAccess

PART = 5 * 1024 * 1024
LONG = b"0123456789abcdef" * (IN_MEMORY // 16 + 1)


class Broken(Exception):
    """The source breaks off."""


class BrokenFile(io.RawIOBase):
    """A file that cannot be read again and breaks off after three parts."""

    left = 3 * PART // PIECE

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise Broken
        return b"x" * size


def pieces() -> Iterator[bytes]:
    yield from (b"x" * PART for _ in range(3))
    raise Broken


async def later() -> AsyncIterator[bytes]:
    for piece in (b"x" * PART for _ in range(3)):
        yield piece
    raise Broken


def bucket(world: World) -> str:
    """Return the path of a new bucket's container."""
    account = world.settings.storage_account
    world.at.hands.storage_account("rg", account)
    world.storage.create(BucketSpec(name="data"), owner=OWNER, token=world.token(), deadline=world.soon())
    return f"{account}/{container_of('data', OWNER)}"


def listed(world: World, container: str) -> int:
    """Return how many blobs there are, those of which only parts have been sent among them."""
    words = "restype=container&comp=list&include=uncommittedblobs"
    return world.at.blobs.call(world.at, "GET", f"{container}?{words}").count(b"<Blob>")


@pytest.mark.parametrize("source", [pieces, BrokenFile, later])
def test_a_source_that_breaks_off_after_three_parts_leaves_no_part_in_the_container(
    world: World, source: Callable[[], Any]
) -> None:
    container = bucket(world)
    store = world.storage.objects("data", owner=OWNER)
    one_by_one = {"chunk_size": PART, "max_concurrency": 1}
    with pytest.raises(Broken):
        asyncio.run(store.put_async("key", source(), **one_by_one))
    if source is not later:
        with pytest.raises(Broken):
            store.put("key", source(), **one_by_one)
    assert listed(world, container) == 0


def test_a_source_without_a_length_comes_back_as_it_was_put_whether_it_fits_into_memory_or_not(world: World) -> None:
    bucket(world)
    store = world.storage.objects("data", owner=OWNER)
    for body in (b"", b"short", LONG):
        store.put("iterator", iter([body[:3], body[3:]]))
        read, write = os.pipe()
        with os.fdopen(read, "rb") as file, os.fdopen(write, "wb") as end:
            end.write(body[:1000])
            end.close()
            store.put("pipe", file)
        asyncio.run(store.put_async("later", io.BytesIO(body)))
        found = [bytes(store.get(key).bytes()) for key in ("iterator", "pipe", "later")]
        assert found == [body, body[:1000], body]


@pytest.fixture
def granted(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Grant]:
    """A grant to write below ``mine/``, on the service that asks for roles, and the machine whose identity has it."""
    world.clock.sleep(datetime.now(UTC) - world.clock.now())  # signatures run by this machine's time
    world.more["blob_endpoint"] = f"{world.simulator.front.url}/{{account}}"
    world.at.hands.storage_account("rg", world.settings.storage_account)
    driver, now = world.storage, world.soon
    driver.create(BucketSpec(name="data"), owner=OWNER, token=world.token(), deadline=now())
    world.identity.create(IdentitySpec(name="ray", owner=OWNER), token=world.token(), deadline=now())
    made = driver.grant(
        "data", "mine/", identity="ray", access=Access.WRITE, owner=OWNER, token=world.token(), deadline=now()
    )
    (outcome,) = world.cluster.create([world.spec(identity="ray")], token=world.token(), deadline=now())
    assert isinstance(outcome, Created)
    world.clock.sleep(timedelta(minutes=2))
    machine = outcome.instance.id.rpartition(".")[0]
    monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{world.at.hands.metadata_url(machine)}/metadata/identity/oauth2/token")
    monkeypatch.setenv("SSL_CERT_FILE", str(world.simulator.ca_path))
    driver.objects("data", owner=OWNER).put("mine/told", b"by the control plane")
    driver.objects("data", owner=OWNER).put("theirs/told", b"by the control plane")
    return world, made


def opened(access: StoreAccess) -> Any:
    """Return the store as nodes and people open it."""
    options: dict[str, Any] = {key: value.reveal() for key, value in access.options.items()}
    return from_url(access.url, **options)


def test_a_machine_reads_and_writes_its_prefix_by_its_managed_identity_and_nothing_beside_it(
    granted: tuple[World, Grant],
) -> None:
    world, made = granted
    store = opened(made.store)
    assert bytes(store.get("told").bytes()) == b"by the control plane"
    store.put("log", b"by the machine")
    assert [meta["path"] for page in store.list() for meta in page] == ["log", "told"]
    beside = opened(attrs.evolve(made.store, url=made.store.url.replace("mine/", "theirs/")))
    with pytest.raises(PermissionDeniedError):
        beside.get("told")
    with pytest.raises(PermissionDeniedError):
        beside.put("log", b"")
    principal = world.identity.get("ray", owner=OWNER, deadline=world.soon()).principal
    last = [used for used in world.simulator.front.journal if used.who == principal]
    assert [(used.action, used.path, used.status) for used in last] == [
        ("read", "mine/told", 200), ("write", "mine/log", 201), ("list", "mine/", 200),
        ("read", "theirs/told", 403), ("write", "theirs/log", 403),
    ]  # fmt: skip


def test_a_person_is_handed_a_signature_for_the_prefix_alone_that_ends(granted: tuple[World, Grant]) -> None:
    world, made = granted
    assert made.elsewhere is not None
    assert made.elsewhere.expires_at == made.handed.expires_at
    store = opened(made.handed)
    store.put("sent", b"by a person")
    assert [meta["path"] for page in store.list() for meta in page] == ["sent", "told"]
    assert store.head("sent")["size"] == 11
    beside = opened(attrs.evolve(made.handed, url=made.handed.url.replace("mine/", "theirs/")))
    with pytest.raises(PermissionDeniedError):
        beside.get("told")
    reading = world.storage.grant(
        "data", "mine/", identity="ray", access=Access.READ, owner=OWNER, token=world.token(), deadline=world.soon()
    )
    assert bytes(opened(reading.handed).get("told").bytes()) == b"by the control plane"
    with pytest.raises(PermissionDeniedError):
        opened(reading.handed).put("told", b"")


def test_an_account_without_folders_hands_a_person_nothing_but_the_identity(world: World) -> None:
    world.more["hierarchical_namespace"] = False
    bucket(world)
    world.identity.create(IdentitySpec(name="ray", owner=OWNER), token=world.token(), deadline=world.soon())
    made = world.storage.grant(
        "data", "a/", identity="ray", access=Access.READ, owner=OWNER, token=world.token(), deadline=world.soon()
    )
    assert made.elsewhere is None
    assert made.handed == made.store
    assert opened(made.store).prefix == "a"
