import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from anyscale_azure.containers import container_of
from anyscale_azure.objects import IN_MEMORY, PIECE
from anyscale_azure.testing import OWNER, World

from anyscale_core.models.storage import BucketSpec

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
    with pytest.raises(Broken):
        if source is later:
            asyncio.run(store.put_async("key", source(), chunk_size=PART, max_concurrency=1))
        else:
            store.put("key", source(), chunk_size=PART, max_concurrency=1)
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
