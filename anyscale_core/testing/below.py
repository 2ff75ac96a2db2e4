"""A prefix of an in-memory obstore store as a store of its own; obstore's MemoryStore cannot be rooted at one."""

from collections.abc import Iterator, Mapping
from typing import Any


class Below:
    """What is below ``prefix`` of an obstore store, with the methods of one (and their ``_async`` twins).

    The functions of the obstore module want obstore's own classes; use the methods.
    """

    def __init__(self, store: Any, prefix: str) -> None:
        self._store = store
        self._prefix = f"{prefix.strip('/')}/"

    def __repr__(self) -> str:
        return f"Below({self._prefix!r})"

    def __getattr__(self, name: str) -> Any:
        verb = name.removesuffix("_async")
        if verb not in ("put", "get", "head", "get_range", "get_ranges"):
            raise AttributeError(f"a store below a prefix has no {name}")
        call = getattr(self._store, name)
        return lambda path, *args, **kwargs: call(self._prefix + path, *args, **kwargs)

    def delete(self, paths: str | list[str]) -> None:
        """Delete one path or many."""
        self._store.delete(self._absolute(paths))

    async def delete_async(self, paths: str | list[str]) -> None:
        """Delete one path or many."""
        await self._store.delete_async(self._absolute(paths))

    def copy(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """Copy an object."""
        self._store.copy(self._prefix + from_, self._prefix + to, overwrite=overwrite)

    def rename(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """Move an object."""
        self._store.rename(self._prefix + from_, self._prefix + to, overwrite=overwrite)

    def list(self, prefix: str | None = None, **kwargs: Any) -> Iterator[list[dict[str, Any]]]:
        """Yield pages of what is below ``prefix``, with paths relative to this store."""
        offset = kwargs.pop("offset", None)
        if offset is not None:
            kwargs["offset"] = self._prefix + offset
        for page in self._store.list(self._prefix + (prefix or ""), **kwargs):
            yield [self._relative(meta) for meta in page]

    def list_with_delimiter(self, prefix: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return the objects and the common prefixes directly below ``prefix``."""
        found = self._store.list_with_delimiter(self._prefix + (prefix or ""), **kwargs)
        return {
            "common_prefixes": [path.removeprefix(self._prefix) for path in found["common_prefixes"]],
            "objects": [self._relative(meta) for meta in found["objects"]],
        }

    def _absolute(self, paths: Any) -> Any:
        return self._prefix + paths if isinstance(paths, str) else [self._prefix + path for path in paths]

    def _relative(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        return {**meta, "path": meta["path"].removeprefix(self._prefix)}
