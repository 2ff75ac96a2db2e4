"""What every type of resource has in common: who may be put, what happens then, and how it goes. The rules are subclasses."""

import enum
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

if TYPE_CHECKING:
    from anyscale_conformance.simulators.azure.subscription import Subscription


class Flow(enum.Enum):
    """How a request that takes time is answered, and where its progress is seen."""

    SYNC = "sync"
    """It does not take time."""
    BODY = "body"
    """By the resource's provisioningState alone, without a header."""
    ASYNC_OPERATION = "azure-asyncoperation"
    LOCATION = "location"
    BOTH = "azure-asyncoperation and location"


Action = Callable[["Subscription", Resource, Request], Reply]


class Kind:
    """One type of resource. A subclass says what is particular about it; nothing here is kept between requests."""

    type: ClassVar[str]
    shape: ClassVar[str] = ""
    """The model of the SDK that a body is checked against (``shapes``)."""
    patch: ClassVar[str] = ""
    """The model of a PATCH; empty when there is none. ``tags`` for one that changes tags alone."""
    put_flow: ClassVar[Flow] = Flow.ASYNC_OPERATION
    delete_flow: ClassVar[Flow] = Flow.BOTH
    takes: ClassVar[timedelta] = timedelta(seconds=2)
    goes: ClassVar[timedelta] = timedelta(seconds=4)
    created_status: ClassVar[int] = 201
    has_location: ClassVar[bool] = True
    name_pattern: ClassVar[str] = r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,78}[A-Za-z0-9_])?"
    actions: ClassVar[Mapping[str, Action]] = {}
    """What a POST may do to one, by the last word of its path in small letters."""
    views: ClassVar[Mapping[str, Callable[["Subscription", Resource, Request], Any]]] = {}
    """What a GET may show below one that is no resource of its own."""

    def check(self, at: "Subscription", request: Request, body: Body, old: Resource | None) -> None:
        """Refuse a body that cannot be, before anything has changed. Raises ArmError."""

    def put(self, at: "Subscription", resource: Resource, old: Body | None) -> None:
        """Complete what was put, and do what comes along with it. ``old`` is the body before, for an update."""

    def duration(self, at: "Subscription", resource: Resource) -> timedelta:
        """Return how long it takes until it is there."""
        return self.takes

    def finish(self, at: "Subscription", resource: Resource) -> ArmError | None:
        """Do what the end of the operation brings; return what it failed with."""
        return None

    def check_delete(self, at: "Subscription", resource: Resource, request: Request) -> None:
        """Refuse to delete what is used. Raises ArmError."""

    def leave(self, at: "Subscription", resource: Resource) -> None:
        """Do what its going brings, at the instant it is gone."""

    def view(self, at: "Subscription", resource: Resource, request: Request | None) -> Body:
        """Return what a GET shows."""
        return shown(resource)

    def look(self, at: "Subscription", path: str) -> None:
        """Bring what is kept up to date before it is shown: of types that are really somewhere else."""

    def filtered(self, at: "Subscription", found: list[Resource], request: Request) -> list[Resource]:
        """Return those of a list that its filter asks for. Raises ArmError for a filter that it does not know."""
        return found

    def links(self, body: Body) -> Iterable[tuple[str, str]]:
        """Yield what a write of this refers to: an id, and the action that is needed on it besides."""
        return ()


def shown(resource: Resource) -> Body:
    """Return a resource as ARM shows it: what was put, its names, its etag and its provisioning state."""
    properties = {**resource.properties, "provisioningState": resource.state}
    return {
        "id": resource.id, "name": resource.name, "type": resource.type, "etag": f'W/"{resource.etag}"',
        **resource.body, "properties": properties,
    }  # fmt: skip


def references(body: Any, key: str) -> list[str]:
    """Return the ids that stand below ``key`` anywhere in a body (``{key: {"id": ...}}`` or a list of such)."""
    found: list[str] = []
    if isinstance(body, dict):
        for name, value in body.items():
            if name == key:
                items = value if isinstance(value, list) else [value]
                found += [str(item["id"]) for item in items if isinstance(item, dict) and "id" in item]
            found += references(value, key)
    if isinstance(body, list):
        for item in body:
            found += references(item, key)
    return found


def fits(pattern: str, text: str) -> bool:
    """Tell whether all of a text is of a pattern."""
    return re.fullmatch(pattern, text) is not None
