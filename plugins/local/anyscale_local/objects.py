"""A folder as an object store that does as a cloud's does. Imported when a bucket is first opened: obstore is not light."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from obstore.exceptions import PreconditionError
from obstore.store import LocalStore


class FolderStore(LocalStore):
    """obstore's LocalStore with what it leaves out and clouds have: ordered listings, put-if-unchanged, quiet deletes.

    Only its methods do; the functions of the obstore module see a plain LocalStore. One conditional put at a time passes, in
    whatever process it is made.
    """

    root: Path
    """The bucket's folder, whose lock orders conditional puts; the store's own folder may lie below it."""

    @classmethod
    def below(cls, root: Path, folder: Path) -> "FolderStore":
        """Return the store of a folder in the bucket at ``root``."""
        store = cls(prefix=folder)
        store.root = root
        return store

    def put(self, path: str, file: Any, *, mode: Any = None, **options: Any) -> Any:
        """Put an object. Raises PreconditionError when ``mode`` names an ETag that the object has not."""
        if not isinstance(mode, Mapping):
            return super().put(path, file, **options, **({} if mode is None else {"mode": mode}))
        with self._alone():
            if self._e_tag(path) != mode.get("e_tag"):
                raise PreconditionError(f"{path} has been changed, or is not there")
            return super().put(path, file, **options)

    async def put_async(self, path: str, file: Any, *, mode: Any = None, **options: Any) -> Any:
        """Put an object."""
        if isinstance(mode, Mapping):
            return await asyncio.to_thread(self.put, path, file, mode=mode, **options)
        return await super().put_async(path, file, **options, **({} if mode is None else {"mode": mode}))

    def delete(self, paths: str | Sequence[str]) -> None:
        """Delete one object or many; one that is not there is no error."""
        for path in [paths] if isinstance(paths, str) else paths:
            with suppress(FileNotFoundError):
                super().delete(path)

    async def delete_async(self, paths: str | Sequence[str]) -> None:
        """Delete one object or many; one that is not there is no error."""
        await asyncio.to_thread(self.delete, paths)

    def list(self, prefix: str | None = None, *, chunk_size: int = 50, **options: Any) -> Any:
        """Return the pages of a listing, by key. As a table of arrow (``return_arrow``) it has no order."""
        if options.get("return_arrow"):
            return super().list(prefix, chunk_size=chunk_size, **options)
        found = super().list(prefix, chunk_size=1000, **options).collect()
        return Pages(sorted(found, key=lambda meta: meta["path"]), chunk_size)

    def _e_tag(self, path: str) -> str | None:
        with suppress(FileNotFoundError):
            return self.head(path)["e_tag"]
        return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Pages:
    """A listing as obstore's ListStream gives it: an iterator of pages, or all of it."""

    def __init__(self, entries: list[Any], size: int) -> None:
        self._left = entries
        self._size = size

    def __iter__(self) -> Iterator[list[Any]]:
        return self

    def __next__(self) -> list[Any]:
        page, self._left = self._left[: self._size], self._left[self._size :]
        if not page:
            raise StopIteration
        return page

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        return self

    async def __anext__(self) -> list[Any]:
        for page in self:
            return page
        raise StopAsyncIteration

    def collect(self) -> list[Any]:
        """Return all that is left."""
        left, self._left = self._left, []
        return left

    async def collect_async(self) -> list[Any]:
        """Return all that is left."""
        return self.collect()
