"""A folder as the contract wants a bucket: lists in order, deletes of the absent that succeed, one winner of many writers.

obstore's own store for folders leaves these three out (object_store 0.13: PutMode::Update is not implemented for it).
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from obstore.exceptions import PreconditionError
from obstore.store import LocalStore


class Folder(LocalStore):
    """The objects below one folder. ``bucket``: the folder whose lock orders its conditional writers.

    Only its methods are so: the functions of the obstore module see a plain LocalStore.
    """

    @classmethod
    def of(cls, path: Path, bucket: Path) -> "Folder":
        """Return the store of a folder."""
        store = cls(prefix=path)
        store._bucket = bucket
        return store

    _bucket: Path

    def put(self, path: str, file: Any, *, mode: Any = None, **options: Any) -> Any:
        """Put an object; with ``mode`` an ETag that it must still have. Raises PreconditionError when it has not."""
        if not isinstance(mode, Mapping):
            return super().put(path, file, **({} if mode is None else {"mode": mode}), **options)
        with self._alone():
            try:
                now = self.head(path)["e_tag"]
            except FileNotFoundError:
                now = None
            if now is None or now != mode.get("e_tag"):
                raise PreconditionError(f"{path} is not what it was: its ETag is {now}, not {mode.get('e_tag')}")
            return super().put(path, file, **options)

    async def put_async(self, path: str, file: Any, *, mode: Any = None, **options: Any) -> Any:
        """Put an object."""
        if not isinstance(mode, Mapping):
            return await super().put_async(path, file, **({} if mode is None else {"mode": mode}), **options)
        return await asyncio.to_thread(self.put, path, file, mode=mode, **options)

    def delete(self, paths: Any) -> None:
        """Delete one object or many; there may be none."""
        for path in [paths] if isinstance(paths, str) else paths:
            with suppress(FileNotFoundError):
                super().delete(path)

    async def delete_async(self, paths: Any) -> None:
        """Delete one object or many; there may be none."""
        await asyncio.to_thread(self.delete, paths)

    def list(self, prefix: str | None = None, **options: Any) -> Any:
        """Return what is below a prefix, in the order of its keys, page by page."""
        if options.get("return_arrow"):
            return super().list(prefix, **options)
        size = options.get("chunk_size", 50)
        return Pages(sorted((meta for page in super().list(prefix, **options) for meta in page), key=_path), size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        handle = os.open(self._bucket, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Pages:
    """A listing, as obstore's own: to be gone through in either way, or collected."""

    def __init__(self, found: "list[Any]", size: int) -> None:
        self._pages = [found[start : start + size] for start in range(0, len(found), size)]

    def __iter__(self) -> Iterator["list[Any]"]:
        return iter(self._pages)

    async def __aiter__(self) -> AsyncIterator["list[Any]"]:
        for page in self._pages:
            yield page

    def collect(self) -> "list[Any]":
        """Return all of it at once."""
        return [meta for page in self._pages for meta in page]

    async def collect_async(self) -> "list[Any]":
        """Return all of it at once."""
        return self.collect()


def _path(meta: Mapping[str, Any]) -> str:
    return str(meta["path"])
