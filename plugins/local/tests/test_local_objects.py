import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from anyscale_local.objects import Folder
from obstore.exceptions import PreconditionError

WRITERS = 8


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path, tmp_path)


def pages(found: Any) -> list[list[str]]:
    return [[meta["path"] for meta in page] for page in found]


def test_a_listing_is_in_the_order_of_keys_page_by_page_and_from_a_key_on(store: Folder) -> None:
    keys = [f"{number % 3}/{number:02d}" for number in range(25)]
    for key in reversed(keys):
        store.put(key, b"")
    wanted = sorted(keys)
    assert pages(store.list(chunk_size=10)) == [wanted[:10], wanted[10:20], wanted[20:]]
    assert pages(store.list("1", offset="1/13", chunk_size=10)) == [["1/16", "1/19", "1/22"]]
    assert [meta["path"] for meta in store.list().collect()] == wanted
    assert pages(store.list("none")) == []

    async def collected() -> list[str]:
        return [meta["path"] async for page in store.list() for meta in page]

    assert asyncio.run(collected()) == wanted


def test_of_many_who_put_if_unchanged_one_wins_whatever_folder_they_opened(tmp_path: Path) -> None:
    root = Folder.of(tmp_path, tmp_path)
    root.put("a/k", b"first")
    below = Folder.of(tmp_path / "a", tmp_path)
    tag, barrier, won = root.head("a/k")["e_tag"], threading.Barrier(WRITERS), list[bytes]()

    def write(number: int) -> None:
        store, path = (root, "a/k") if number % 2 else (below, "k")
        barrier.wait()
        try:
            store.put(path, str(number).encode(), mode={"e_tag": tag})
        except PreconditionError:
            return
        won.append(str(number).encode())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bytes(root.get("a/k").bytes()) == won[0]


def test_put_if_unchanged_of_what_is_not_there_or_has_changed_is_refused(store: Folder) -> None:
    with pytest.raises(PreconditionError):
        store.put("k", b"0", mode={"e_tag": "nothing"})
    tag = store.put("k", b"1")["e_tag"]
    asyncio.run(store.put_async("k", b"2", mode={"e_tag": tag}))
    with pytest.raises(PreconditionError):
        asyncio.run(store.put_async("k", b"3", mode={"e_tag": tag}))
    assert bytes(store.get("k").bytes()) == b"2"


def test_deleting_what_is_not_there_is_no_error_alone_or_among_others(store: Folder) -> None:
    for key in ("a", "b", "c"):
        store.put(key, b"")
    store.delete("none")
    store.delete(["a", "none", "b"])
    asyncio.run(store.delete_async(["none", "c"]))
    assert pages(store.list()) == []
