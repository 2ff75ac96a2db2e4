"""What the command reads from and writes to a cloud's bucket, with the rights that the control plane grants."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyscale_core.errors import CoreError
from anyscale_core.models.storage import StoreAccess

OWN = ("AWS_", "AZURE_", "GOOGLE_")
"""How the variables begin by which people tell obstore of their own accounts."""


class BucketError(CoreError):
    """The bucket did not take or give an object."""


class Store:
    """One prefix of a bucket."""

    def __init__(self, access: StoreAccess) -> None:
        from obstore.store import from_url

        options: dict[str, Any] = {key: value.reveal() for key, value in access.options.items()}
        if access.url.startswith("file://"):
            options["mkdir"] = True
        if options.get("endpoint", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}
        self.url = access.url
        try:
            with _nothing_else(access):
                self._store: Any = from_url(access.url, **options)
        except Exception as error:  # obstore has no common base for its errors
            raise self._failed("opened", error) from error

    def size(self, key: str) -> int | None:
        """Return an object's bytes; None when there is no such object. Raises BucketError."""
        try:
            return int(self._store.head(key)["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read", error) from error

    def put(self, key: str, data: bytes) -> None:
        """Store an object. Raises BucketError."""
        try:
            self._store.put(key, data)
        except Exception as error:
            raise self._failed("written", error) from error

    def read(self, key: str, *, start: int = 0) -> bytes | None:
        """Return an object from a byte on; None when there is no such object. Raises BucketError."""
        size = self.size(key)
        if size is None:
            return None
        if size <= start:
            return b""
        try:
            return bytes(self._store.get_range(key, start=start, end=size))
        except Exception as error:
            raise self._failed("read", error) from error

    def keys(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield the key and size of every object below a prefix, by key. Raises BucketError."""
        try:
            metas = [meta for page in self._store.list(prefix or None) for meta in page]
        except Exception as error:
            raise self._failed("listed", error) from error
        yield from sorted((str(meta["path"]), int(meta["size"])) for meta in metas)

    def _failed(self, done: str, error: Exception) -> BucketError:
        return BucketError(f"{self.url} could not be {done}: {type(error).__name__}: {error}")


@contextmanager
def _nothing_else(access: StoreAccess) -> Iterator[None]:
    """Hide a person's own variables where credentials are handed out: obstore would put some of them before those."""
    names = [name for name in os.environ if name.startswith(OWN)] if access.expires_at is not None else []
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
