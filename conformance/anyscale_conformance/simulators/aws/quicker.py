"""moto, quicker: what it works out anew at every request, and what it looks for in a list, is looked up. Nothing else changes."""

import functools
from typing import Any

import moto.backends
import moto.core.responses
from moto.ec2.models.tags import TagBackend
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

_slow: Any = TagBackend.describe_tags


def _describe_tags(self: Any, filters: dict[str, list[str]] | None = None) -> list[dict[str, str]]:
    """Return tags; of things that are named by their whole ids without looking through all others'."""
    ids = (filters or {}).get("resource-id", [])
    if len(filters or {}) != 1 or not ids or any("*" in id or "?" in id for id in ids):
        found: list[dict[str, str]] = _slow(self, filters)
        return found
    return [
        {"resource_id": id, "key": key, "value": value, "resource_type": EC2_PREFIX_TO_RESOURCE.get(get_prefix(id), "")}
        for id in ids
        for key, value in self.tags.get(id, {}).items()
    ]


def quicken() -> None:
    """Put the quicker ways in; more than once is once."""
    if TagBackend.describe_tags is _describe_tags:
        return
    modules = tuple(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: modules
    moto.core.responses.method_names_from_class = functools.cache(moto.core.responses.method_names_from_class)
    TagBackend.describe_tags = _describe_tags
