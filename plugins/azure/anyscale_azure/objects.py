"""The objects of a container, opened with obstore; loaded by the first call that needs it."""

import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from anyscale_azure.client import Azure

RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
IN_MEMORY = 5 * 1024 * 1024
"""How many bytes of a source are kept in memory until it has been read to its end; more of it goes to a temporary file."""
PIECE = 1024 * 1024


def open_store(azure: Azure, container: str, prefix: str = "") -> Any:
    """Return the store of a container below a prefix, with the control plane's own rights. No call is made."""
    from obstore.store import AzureStore

    class Objects(AzureStore):
        """A container whose deletes succeed for what is not there, and whose listings begin where they are told to."""

        def put(self, path: str, file: Any, **options: Any) -> Any:
            """Put an object. Raises InvalidPathError for a key with a backslash, which Azure takes for a slash.

            A source that can break off is read to its end first: Azure does not take parts back that were sent. Until the
            key is put again, or for a week, they are paid for
            (https://learn.microsoft.com/rest/api/storageservices/put-block-list#remarks).
            """
            _check_key(path)
            if _is_whole(file):
                return super().put(path, file, **options)
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as whole:
                for piece in _pieces(file):
                    whole.write(piece)
                return super().put(path, _rewound(whole), **options)

        async def put_async(self, path: str, file: Any, **options: Any) -> Any:
            """Put an object, as ``put`` does; the source may be an asynchronous one."""
            _check_key(path)
            if _is_whole(file):
                return await super().put_async(path, file, **options)
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as whole:
                if isinstance(file, AsyncIterable):
                    async for piece in file:
                        whole.write(piece)
                else:
                    for piece in _pieces(file):
                        whole.write(piece)
                return await super().put_async(path, _rewound(whole), **options)

        def delete(self, paths: Any) -> None:
            """Delete one object or many; there may be none."""
            for path in _each(paths):
                try:
                    super().delete(path)
                except FileNotFoundError:
                    continue

        async def delete_async(self, paths: Any) -> None:
            """Delete one object or many; there may be none."""
            for path in _each(paths):
                try:
                    await super().delete_async(path)
                except FileNotFoundError:
                    continue

        def list(self, prefix: str | None = None, *, offset: str | None = None, **options: Any) -> Any:
            """Return what is below a prefix, in the order of its keys, page by page; from a key on, when one is given."""
            found = super().list(prefix, **options)
            return found if offset is None else After(found, offset)

    def credential() -> Any:
        token, ends = azure.token()
        return {"token": token, "expires_at": datetime.fromtimestamp(ends, UTC)}

    settings = azure.settings
    options: Any = {"timeout": "60 seconds"}
    if settings.ca_file:
        options["root_certificate"] = Path(settings.ca_file).read_bytes()
    where: Any = {"account_name": settings.storage_account, "endpoint": azure.blob_url(settings.storage_account)}
    return Objects(
        container, prefix=prefix.rstrip("/") or None, **where, credential_provider=credential, client_options=options,
        retry_config=RETRY,
    )  # fmt: skip


class After:
    """The pages of a listing from a key on, which is left out: not every version of the service knows where to begin."""

    def __init__(self, pages: Any, offset: str) -> None:
        self._pages, self._offset = pages, offset

    def __iter__(self) -> Iterator[list[Any]]:
        for page in self._pages:
            if rest := self._rest(page):
                yield rest

    async def __aiter__(self) -> AsyncIterator[list[Any]]:
        async for page in self._pages:
            if rest := self._rest(page):
                yield rest

    def collect(self) -> list[Any]:
        """Return all of it at once."""
        return [meta for page in self for meta in page]

    async def collect_async(self) -> list[Any]:
        """Return all of it at once."""
        return [meta async for page in self for meta in page]

    def _rest(self, page: Any) -> list[Any]:
        return [meta for meta in page if meta["path"] > self._offset]


def _check_key(path: str) -> None:
    from obstore.exceptions import InvalidPathError

    if "\\" in path:
        raise InvalidPathError(f"Azure would keep {path!r} under another key: it takes a backslash for a slash")


def _is_whole(file: Any) -> bool:
    """Tell whether a source is all there: bytes, the path of a file, or an open file that can be read again."""
    if isinstance(file, (bytes, bytearray, memoryview, Path)):
        return True
    if hasattr(file, "read"):
        return bool(getattr(file, "seekable", lambda: False)())
    return not isinstance(file, (Iterable, AsyncIterable))


def _pieces(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE), b"") if hasattr(file, "read") else iter(file)


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _each(paths: Any) -> Iterable[str]:
    return [paths] if isinstance(paths, str) else paths
