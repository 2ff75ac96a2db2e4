"""What travels: a request as the rules see it, an answer, and what a path of ARM names."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

Body = dict[str, Any]


@attrs.frozen(kw_only=True)
class Target:
    """What a path names. ``type`` and ``key`` are in small letters: ARM compares paths without regard to case.

    ``words`` are the namespace and the words of the type as they were written, ``scope`` is what stands before the last
    ``/providers/``; ``group`` is empty outside resource groups.
    """

    path: str
    scope: str
    group: str
    words: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def type(self) -> str:
        """The type, in small letters."""
        return "/".join(self.words).lower()

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return self.path.lower()

    @property
    def is_collection(self) -> bool:
        """Whether it names all of a type, not one."""
        return self.type.count("/") > len(self.names)

    @property
    def name(self) -> str:
        """The last name, empty for a collection at the top."""
        return self.names[-1] if self.names else ""

    @property
    def last(self) -> str:
        """The last word of the path in small letters: an action, or a collection."""
        return self.path.rpartition("/")[2].lower()

    def above(self) -> "Target":
        """Return what the last word is said of."""
        return parse(self.path.rpartition("/")[0])


def parse(path: str) -> Target:
    """Return what a path of a subscription names."""
    path = "/" + "/".join(word for word in path.split("/") if word)
    found = re.match(r"/subscriptions/[^/]+/resourcegroups/([^/]+)", path, re.IGNORECASE)
    group = found[1] if found else ""
    at = path.lower().rfind("/providers/")
    if at < 0:
        words = path.split("/")[3:]
        return Target(
            path=path, scope=path, group=group, words=("Microsoft.Resources", *words[::2]), names=tuple(words[1::2])
        )  # fmt: skip
    namespace, *words = path[at + len("/providers/") :].split("/")
    return Target(path=path, scope=path[:at], group=group, words=(namespace, *words[::2]), names=tuple(words[1::2]))


@attrs.frozen(kw_only=True)
class Request:
    """One request. Header names and query names are in small letters; ``base`` is the server's address."""

    method: str
    path: str
    target: Target
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body | None
    base: str
    principal: str = ""
    """The object id of who asks."""

    @property
    def version(self) -> str:
        """The api-version."""
        return self.query.get("api-version", "")


@attrs.frozen(kw_only=True)
class Reply:
    """One answer."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Seen:
    """One request that arrived, for those who count calls. ``action``: ``Microsoft.Compute/virtualMachines.put``."""

    method: str
    path: str
    action: str
    query: Mapping[str, str]
    body: Body | None = attrs.field(repr=False)
    status: int
    code: str
    at: datetime
