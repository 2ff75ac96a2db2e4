"""An object store by order: each call is made by the operator, with its rights, and answered with the object itself.

For the small objects that a control plane has to do with. Whatever is large goes to the bucket directly, by a grant.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.owner import Owner

LARGEST = 16 * 1024 * 1024
"""Bytes of one object."""
RAISED: Mapping[str, type[Exception]] = {
    "NotFoundError": FileNotFoundError, "AlreadyExistsError": FileExistsError, "PermissionDeniedError": PermissionError,
}  # fmt: skip
"""obstore's exceptions by the ones of Python that they are."""


class Got:
    """What ``get`` returns."""

    def __init__(self, body: bytes, meta: dict[str, Any]) -> None:
        self._body, self.meta = body, meta

    def bytes(self) -> bytes:
        """Return the object."""
        return self._body


class RemoteObjects:
    """A store with the methods of obstore's, rooted at a prefix of a bucket. ``call(verb, arguments)`` orders one call.

    Raises FileNotFoundError, FileExistsError, PermissionError, else OSError for what the store refuses; CloudError when the
    order did not come through; InvalidRequest(FIELD) for an object that is too large.
    """

    def __init__(
        self, call: Callable[[str, Mapping[str, Any]], Any], *, bucket: str, prefix: str, owner: Owner
    ) -> None:
        self._call, self._where = call, {"bucket": bucket, "prefix": prefix, "owner": owner}

    def __repr__(self) -> str:
        return f"RemoteObjects({self._where['bucket']!r}, {self._where['prefix']!r})"

    def put(self, path: str, file: Any, **options: Any) -> dict[str, Any]:
        """Put an object: bytes, an open file, or parts."""
        read = getattr(file, "read", None)
        body = (
            read() if read is not None else file if isinstance(file, bytes | bytearray | memoryview) else b"".join(file)
        )
        if len(body) > LARGEST:
            message = f"{path!r} has {len(body)} bytes; orders carry {LARGEST} at most"
            raise InvalidRequest(message, reason="FIELD", resource=path, hint="use a grant and go to the bucket itself")
        return dict(self._said("put", path=path, body=base64.b64encode(bytes(body)).decode(), options=options))

    def get(self, path: str, **options: Any) -> Got:
        """Get an object whole."""
        said = self._said("get", path=path, options=options)
        return Got(base64.b64decode(said["body"]), _meta(said["meta"]))

    def get_range(self, path: str, **options: Any) -> bytes:
        """Get a range of an object."""
        return base64.b64decode(self._said("get_range", path=path, options=options))

    def head(self, path: str) -> dict[str, Any]:
        """Return what is known of an object."""
        return _meta(self._said("head", path=path))

    def list(self, prefix: str | None = None, **options: Any) -> Iterator[list[dict[str, Any]]]:
        """Yield the objects below a prefix, page by page."""
        for page in self._said("list", path=prefix, options=options):
            yield [_meta(meta) for meta in page]

    def list_with_delimiter(self, prefix: str | None = None) -> dict[str, Any]:
        """Return the objects and the prefixes directly below a prefix."""
        said = self._said("list_with_delimiter", path=prefix)
        return {"common_prefixes": said["common_prefixes"], "objects": [_meta(meta) for meta in said["objects"]]}

    def delete(self, paths: Any) -> None:
        """Delete one object or many."""
        self._said("delete", path=paths if isinstance(paths, str) else [*paths])

    def copy(self, from_: str, to: str, **options: Any) -> None:
        """Copy an object."""
        self._said("copy", path=from_, to=to, options=options)

    def rename(self, from_: str, to: str, **options: Any) -> None:
        """Move an object."""
        self._said("rename", path=from_, to=to, options=options)

    def _said(self, verb: str, **arguments: Any) -> Any:
        said = self._call(verb, {**self._where, **arguments})
        refused = said.get("refused")
        if refused is not None:
            raise RAISED.get(refused["error"], OSError)(refused["message"])
        return said["result"]


def _meta(said: Mapping[str, Any]) -> dict[str, Any]:
    return {**said, "last_modified": datetime.fromisoformat(said["last_modified"])}
