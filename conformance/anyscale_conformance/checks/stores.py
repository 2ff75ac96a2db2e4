"""A bucket's objects as the checks use them: an error that nobody expected is the provider's failure, told with its call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anyscale_conformance.expect import CheckFailed
from anyscale_core.models.owner import Owner

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

BODY = b"kept by the conformance suite"


class Store:
    """An obstore store behind a guard. Every method raises CheckFailed for whatever the store raises."""

    def __init__(self, ctx: "Context", bucket: str, prefix: str = "", *, owner: Owner | None = None) -> None:
        with told(f"opening {bucket}/{prefix}"):
            self._store: Any = ctx.storage.objects(bucket, prefix, owner=owner or ctx.owner)

    def put(self, key: str, body: Any = BODY, **options: Any) -> None:
        """Put an object."""
        with told(f"putting {key!r}"):
            self._store.put(key, body, **options)

    def read(self, key: str = "key") -> bytes:
        """Return an object's bytes."""
        with told(f"reading {key!r}"):
            return bytes(self._store.get(key).bytes())

    def range(self, key: str, *, start: int, length: int) -> bytes:
        """Return a range of an object's bytes."""
        with told(f"reading {length} bytes from {start} on of {key!r}"):
            return bytes(self._store.get_range(key, start=start, length=length))

    def head(self, key: str) -> Any:
        """Return what is known of an object."""
        with told(f"asking for the head of {key!r}"):
            return self._store.head(key)

    def delete(self, keys: str | list[str]) -> None:
        """Delete one object or many."""
        with told(f"deleting {keys!r}"):
            self._store.delete(keys)

    def pages(self, prefix: str | None = None, **options: Any) -> list[list[str]]:
        """Return the keys of a listing, page by page."""
        with told(f"listing {prefix or 'all'}"):
            return [[meta["path"] for meta in page] for page in self._store.list(prefix, **options)]

    def keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys of a listing, sorted."""
        return sorted(key for page in self.pages(prefix) for key in page)

    def level(self, prefix: str | None = None) -> tuple[list[str], list[str]]:
        """Return the objects and the prefixes directly below a prefix, each sorted."""
        with told(f"listing {prefix or 'all'} with a delimiter"):
            found = self._store.list_with_delimiter(prefix)
            objects = sorted(meta["path"] for meta in found["objects"])
            return objects, sorted(prefix.rstrip("/") for prefix in found["common_prefixes"])


@contextmanager
def told(what: str) -> Iterator[None]:
    """Fail the check, saying what was done, when the block raises anything."""
    try:
        yield
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(f"{what} raised {type(error).__name__}: {error}") from error


def done(act: Callable[[], object]) -> bool:
    """Tell whether ``act`` ended without an error."""
    try:
        act()
    except Exception:
        return False
    return True


def fails(act: Callable[[], object], what: str) -> None:
    """Fail the check unless ``act`` raises."""
    if done(act):
        raise CheckFailed(f"{what} raised nothing")
