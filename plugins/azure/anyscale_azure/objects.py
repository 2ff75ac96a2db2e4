"""The objects of a container, opened with obstore; loaded by the first call that needs it."""

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anyscale_azure.client import Azure

RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


def open_store(azure: Azure, container: str, prefix: str = "") -> Any:
    """Return the store of a container below a prefix, with the control plane's own rights. No call is made."""
    from obstore.store import AzureStore

    class Objects(AzureStore):
        """A container whose deletes succeed for what is not there, and whose listings begin where they are told to."""

        def put(self, path: str, *args: Any, **options: Any) -> Any:
            """Put an object. Raises InvalidPathError for a key with a backslash, which Azure takes for a slash."""
            _check_key(path)
            return super().put(path, *args, **options)

        async def put_async(self, path: str, *args: Any, **options: Any) -> Any:
            """Put an object."""
            _check_key(path)
            return await super().put_async(path, *args, **options)

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


def _each(paths: Any) -> Iterable[str]:
    return [paths] if isinstance(paths, str) else paths
