"""One call of one method: what it asks, in which project and by whom; and the table of those who answer."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from anyscale_conformance.simulators.gcp.boundaries import Rule
from anyscale_conformance.simulators.gcp.schema import Json, Method
from anyscale_conformance.simulators.gcp.world import Project

if TYPE_CHECKING:
    from anyscale_conformance.simulators.gcp.cloud import Cloud


@attrs.frozen(kw_only=True)
class Caller:
    """Who calls: an IAM member (``serviceAccount:...``, ``principal://...``), empty for nobody."""

    member: str = ""
    sets: frozenset[str] = frozenset()
    """Of a federated principal: the ``principalSet://...`` that it belongs to."""
    boundary: tuple[Rule, ...] = ()
    """What the token may do at most; empty when it may do all that its member may."""

    @property
    def email(self) -> str:
        """Return the caller's address, as operations name their user."""
        return self.member.partition(":")[2] or self.member or "anonymous"


@attrs.frozen(kw_only=True)
class Call:
    """One call. ``params``: of the path and the query, by the schema's names."""

    cloud: "Cloud" = attrs.field(repr=False)
    project: Project = attrs.field(repr=False)
    method: Method
    params: Mapping[str, str]
    many: Mapping[str, list[str]] = attrs.field(factory=dict)
    """Parameters that were given more than once."""
    body: Json = attrs.field(factory=dict)
    caller: Caller = attrs.field(factory=Caller)
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def number(self, name: str, default: int) -> int:
        """Return a parameter as a number."""
        return int(self.params.get(name) or default)

    def flag(self, name: str) -> bool:
        """Return whether a parameter says yes."""
        return self.params.get(name) == "true"


Handler = Callable[[Call], Json | None]
HANDLERS: dict[str, Handler] = {}
"""By the vendor's method id."""


def handles(*ids: str) -> Callable[[Handler], Handler]:
    """Say which methods a function answers."""

    def known(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ids, handler))
        return handler

    return known


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """Return a resource after a patch: objects are merged, everything else is replaced, null takes away."""
    result = dict(old)
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
