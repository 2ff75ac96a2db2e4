"""What is kept of a subscription: resources by path, operations by id, and what is to happen at which instant."""

import heapq
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.wire import Body, Target, parse
from anyscale_core.clock import Clock


@attrs.define(kw_only=True)
class Resource:
    """One resource. ``body`` is what was put, as the cloud shows it; ``hidden`` what it never shows (custom data, keys)."""

    id: str
    type: str
    name: str
    body: Body
    hidden: Body = attrs.field(factory=dict, repr=False)
    state: str = "Succeeded"
    """The provisioning state."""
    etag: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    made_at: datetime
    operation: str = ""
    """The id of the operation that is under way."""

    @property
    def target(self) -> Target:
        """What its id names."""
        return parse(self.id)

    @property
    def key(self) -> str:
        """What it is kept by."""
        return self.id.lower()

    @property
    def properties(self) -> Body:
        """What stands below ``properties``; made when there is none."""
        found: Body = self.body.setdefault("properties", {})
        return found

    @property
    def location(self) -> str:
        """Where it is, empty for what is everywhere."""
        return str(self.body.get("location", ""))

    @property
    def tags(self) -> dict[str, str]:
        """Its tags."""
        return dict(self.body.get("tags") or {})

    def touch(self) -> None:
        """Give it another etag: it has changed."""
        self.etag = str(uuid.uuid4())


@attrs.define(kw_only=True)
class Operation:
    """A long-running operation. ``result`` is the resource that a finished one leads to; empty after a delete."""

    id: str
    namespace: str
    location: str
    started: datetime
    ends: datetime
    key: str
    result: str = ""
    status: str = "InProgress"
    error: ArmError | None = None
    finished: datetime | None = None


@attrs.define
class Tombstone:
    """What is gone, for lists that lag behind."""

    resource: Resource
    at: datetime


class Store:
    """Resources, operations and events of one subscription. Every use holds ``lock``, after ``settle``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.resources: dict[str, Resource] = {}
        self.operations: dict[str, Operation] = {}
        self.tombstones: list[Tombstone] = []
        self.pace = 1.0
        """How long everything takes, as a part of what it takes in Azure: less, and tests that wait look less often."""
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._instant: datetime | None = None

    def now(self) -> datetime:
        """Return the present instant; while an event is carried out, the instant it was due at."""
        return self._instant or self.clock.now()

    def on(self, at: datetime, act: Callable[[], None]) -> None:
        """Have something happen at an instant."""
        heapq.heappush(self._events, (at, next(self._order), act))

    def settle(self) -> None:
        """Carry out everything that is due, in the order of its instants."""
        now = self.clock.now()
        try:
            while self._events and self._events[0][0] <= now:
                self._instant, _, act = heapq.heappop(self._events)
                act()
        finally:
            self._instant = None

    def find(self, id: str) -> Resource | None:
        """Return the resource of an id, in whichever case it is written."""
        return self.resources.get(id.lower())

    def add(self, resource: Resource) -> Resource:
        """Keep a resource."""
        self.resources[resource.key] = resource
        return resource

    def drop(self, resource: Resource) -> None:
        """Forget a resource, and whatever lies below it."""
        below = [found for key, found in self.resources.items() if key.startswith(f"{resource.key}/")]
        for gone in (*below, resource):
            if self.resources.pop(gone.key, None) is not None:
                self.tombstones.append(Tombstone(gone, self.now()))

    def all(self, type: str, *, below: str = "") -> Iterator[Resource]:
        """Yield the resources of a type, below a path or anywhere, in the order they were made in."""
        wanted, start = type.lower(), below.lower()
        for resource in tuple(self.resources.values()):
            if resource.type.lower() == wanted and resource.key.startswith(start):
                yield resource

    def begin(self, resource: Resource, takes: timedelta, *, result: str = "") -> Operation:
        """Start an operation on a resource; whoever does so also says what happens when it ends."""
        id = str(uuid.uuid4())
        namespace = resource.type.partition("/")[0]
        operation = Operation(
            id=id, namespace=namespace, location=resource.location or "global", started=self.now(),
            ends=self.now() + takes * self.pace, key=resource.key, result=result,
        )  # fmt: skip
        self.operations[id] = operation
        resource.operation = id
        return operation

    def end(self, operation: Operation, error: ArmError | None = None) -> None:
        """End an operation, well or badly."""
        operation.status, operation.error = ("Failed" if error else "Succeeded"), error
        operation.finished = self.now()

    def supersede(self, resource: Resource, error: ArmError) -> None:
        """End whatever is under way on a resource: something else has taken its place."""
        operation = self.operations.get(resource.operation)
        if operation is not None and operation.status == "InProgress":
            operation.status, operation.error, operation.finished = "Canceled", error, self.now()


def instant(at: datetime) -> str:
    """Render an instant as ARM does."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def merge(old: Any, new: Any) -> Any:
    """Return ``old`` changed as a merge patch (RFC 7386) says."""
    if not isinstance(new, dict):
        return new
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
