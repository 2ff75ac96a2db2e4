"""What exists in the simulated cloud: projects, each with a clock, an agenda of what will happen, and its resources."""

import base64
import enum
import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs

from anyscale_conformance.simulators.gcp.errors import ApiError, not_found, singular
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_core.clock import Clock

PACIFIC = timezone(timedelta(hours=-8))
"""Compute writes its timestamps in the time of its home."""
LINK = "https://www.googleapis.com/compute/v1/"
SERVICES = frozenset(
    f"{name}.googleapis.com"
    for name in ("cloudresourcemanager", "compute", "container", "iam", "iamcredentials", "storage", "sts")
)


@attrs.define(kw_only=True)
class Timings:
    """How long things take, counted from the request."""

    insert: timedelta = timedelta(seconds=12)
    """Of an instance: until its operation is done and it runs."""
    stockout: timedelta = timedelta(seconds=4)
    """Until an operation fails for want of machines."""
    stop: timedelta = timedelta(seconds=20)
    delete: timedelta = timedelta(seconds=30)
    """Of an instance."""
    preemption: timedelta = timedelta(seconds=30)
    """Between the notice and the end."""
    network: timedelta = timedelta(seconds=10)
    """Of networks, subnetworks, routers and all that belongs to load balancers."""
    change: timedelta = timedelta(seconds=3)
    """Of labels, metadata, tags and firewalls."""
    cluster: timedelta = timedelta(minutes=5)
    """Of GKE clusters and their node pools."""
    healthy: timedelta = timedelta(seconds=15)
    """Until a new backend that answers counts as healthy."""

    @classmethod
    def none(cls) -> "Timings":
        """Return timings by which everything has happened when its request is answered."""
        return cls(**{field.name: timedelta() for field in attrs.fields(cls)})


class QuotaAnswer(enum.Enum):
    """How an instance is refused that would pass a quota; the real API does either."""

    AT_ONCE = "at once"
    """403 ``quotaExceeded``."""
    LATE = "late"
    """An operation that fails with ``QUOTA_EXCEEDED``."""


@attrs.frozen(kw_only=True)
class Failure:
    """How an operation is going to fail."""

    code: str
    message: str
    http: int


@attrs.define(kw_only=True)
class Resource:
    """One thing of Compute Engine. ``scope``: ``global``, ``regions/R`` or ``zones/Z``. ``body`` as the API shows it."""

    project: str
    scope: str
    collection: str
    name: str
    body: Json
    created_at: datetime
    hidden: dict[str, Any] = attrs.field(factory=dict)
    """What the cloud knows and does not show."""

    @property
    def path(self) -> str:
        """Return its name in messages: ``projects/P/zones/Z/instances/N``."""
        return f"projects/{self.project}/{self.scope}/{self.collection}/{self.name}"

    @property
    def link(self) -> str:
        """Return its URL, as the API writes references."""
        return LINK + self.path

    @property
    def key(self) -> str:
        """Return what it is stored by."""
        return f"{self.scope}/{self.name}"


@attrs.define(kw_only=True)
class Blob:
    """An object of Cloud Storage. ``md5`` as base64."""

    name: str
    data: bytes = attrs.field(repr=False)
    generation: int
    md5: str
    created_at: datetime
    headers: dict[str, str] = attrs.field(factory=dict)
    """Of its content: type, encoding, language, disposition, cache control."""
    metadata: dict[str, str] = attrs.field(factory=dict)
    metageneration: int = 1


@attrs.define(kw_only=True)
class Upload:
    """An upload in parts that is not finished."""

    id: str
    name: str
    started_at: datetime
    headers: dict[str, str]
    metadata: dict[str, str]
    parts: dict[int, bytes] = attrs.field(factory=dict, repr=False)


@attrs.define(kw_only=True)
class Bucket:
    """A bucket of Cloud Storage. ``body`` as the API shows it."""

    name: str
    body: Json
    objects: dict[str, Blob] = attrs.field(factory=dict)
    uploads: dict[str, Upload] = attrs.field(factory=dict)
    is_damaged: bool = False
    """Whether the next object that travels to or from it arrives with a byte changed."""

    def carried(self, data: bytes) -> bytes:
        """Return data as they arrive."""
        if not self.is_damaged or not data:
            return data
        self.is_damaged = False
        return bytes([data[0] ^ 1]) + data[1:]


@attrs.define(kw_only=True, order=False)
class Project:
    """One project. What is in it is read and written under the lock of the whole cloud."""

    id: str
    number: int
    clock: Clock
    timings: Timings = attrs.field(factory=Timings)
    services: set[str] = attrs.field(factory=lambda: set(SERVICES))
    """The APIs that are enabled."""
    things: dict[str, dict[str, Resource]] = attrs.field(factory=dict)
    """By collection, then by scope and name."""
    limits: dict[tuple[str, str], float] = attrs.field(factory=dict)
    """Quotas that were changed, by region (empty: of the project) and metric."""
    failures: dict[str, list[Failure]] = attrs.field(factory=dict)
    """Those that were planned, by the kind of operation."""
    quotas: QuotaAnswer = QuotaAnswer.AT_ONCE
    accounts: dict[str, Json] = attrs.field(factory=dict)
    """Service accounts by e-mail address."""
    pools: dict[str, Json] = attrs.field(factory=dict)
    roles: dict[str, Json] = attrs.field(factory=dict)
    policies: dict[str, Json] = attrs.field(factory=dict)
    """IAM policies by resource; the project's own by the empty string."""
    buckets: dict[str, Bucket] = attrs.field(factory=dict)
    clusters: dict[str, Json] = attrs.field(factory=dict)
    cluster_keys: dict[str, Json] = attrs.field(factory=dict)
    """The public keys of GKE clusters (a JWK set), by location and name, for those that issue tokens."""
    lag: timedelta = timedelta()
    """How old lists are."""
    deleted: dict[str, Json] = attrs.field(factory=dict)
    """Service accounts that were deleted, by their numbers."""
    longrunning: dict[str, Json] = attrs.field(factory=dict)
    """Operations of other APIs than Compute Engine, by name."""
    made: dict[str, datetime] = attrs.field(factory=dict)
    """When service accounts were made."""
    propagation: timedelta = timedelta()
    """How long it takes until policies know a new service account."""
    generation: int = 0
    """The newest object's."""
    asked: set[str] = attrs.field(factory=set)
    """The permissions that requests have needed so far."""
    xpn_host: str = ""
    """The host project of a shared VPC."""
    now: datetime = attrs.field(init=False)
    """The instant of what is happening: of the request, or of an event of the agenda."""
    _agenda: list[tuple[datetime, int, Callable[[], None]]] = attrs.field(factory=list)
    _serial: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    requests: dict[str, "Remembered"] = attrs.field(factory=dict)
    """Requests with an id, by it."""

    def __attrs_post_init__(self) -> None:
        self.now = self.clock.now()

    def is_known(self, email: str) -> bool:
        """Return whether word of a service account has got around: policies do not know it before."""
        made = self.made.get(email)
        return made is None or made + self.propagation <= self.now

    def settle(self) -> None:
        """Let everything happen that was due by now, in its order and at its time."""
        now = self.clock.now()
        while self._agenda and self._agenda[0][0] <= now:
            self.now, _, happen = heapq.heappop(self._agenda)
            happen()
        self.now = now

    def later(self, after: timedelta, happen: Callable[[], None]) -> None:
        """Let something happen in a while."""
        heapq.heappush(self._agenda, (self.now + after, next(self._serial), happen))

    def new_id(self) -> str:
        """Return a number that nothing else in the project has."""
        return str(self.number * 10**7 + next(self._serial))

    def add(self, collection: str, scope: str, name: str, body: Mapping[str, Any], **hidden: Any) -> Resource:
        """Let a thing be there, with the fields that all have."""
        thing = Resource(
            project=self.id, scope=scope, collection=collection, name=name, body={}, created_at=self.now, hidden=hidden
        )
        thing.body = {
            **body,
            "kind": f"compute#{singular(collection)}",
            "id": self.new_id(),
            "name": name,
            "creationTimestamp": stamp(self.now),
            "selfLink": thing.link,
        }
        place, _, where = scope.partition("/")
        if where:
            thing.body[place.removesuffix("s")] = f"{LINK}projects/{self.id}/{scope}"
        self.things.setdefault(collection, {})[thing.key] = thing
        return thing

    def find(self, collection: str, scope: str, name: str) -> Resource | None:
        """Return a thing, or None."""
        return self.things.get(collection, {}).get(f"{scope}/{name}")

    def get(self, collection: str, scope: str, name: str) -> Resource:
        """Return a thing. Raises 404."""
        found = self.find(collection, scope, name)
        if found is None:
            raise not_found(f"projects/{self.id}/{scope}/{collection}/{name}")
        return found

    def remove(self, thing: Resource) -> None:
        """Let a thing be gone; one of that name that was made since stays."""
        shelf = self.things.get(thing.collection, {})
        if shelf.get(thing.key) is thing:
            del shelf[thing.key]

    def all(self, collection: str, scope: str = "") -> list[Resource]:
        """Return the things of a collection, of one scope or of all, by name within each scope."""
        found = self.things.get(collection, {}).values()
        return sorted((thing for thing in found if scope in ("", thing.scope)), key=lambda thing: thing.key)


@attrs.frozen(kw_only=True)
class Remembered:
    """A request that was accepted under an id: what it asked for, and the operation that it led to."""

    asked: str
    operation: Resource
    at: datetime


def stamp(at: datetime) -> str:
    """Return an instant as Compute writes it."""
    return at.astimezone(PACIFIC).isoformat(timespec="milliseconds")


def fingerprint(*parts: object) -> str:
    """Return a fingerprint of a content: base64 of 8 bytes."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()


def words_of(reference: str) -> list[str]:
    """Return the words of a full or partial URL: from ``projects`` on, or from the scope on."""
    for start in (LINK, "https://compute.googleapis.com/compute/v1/", "//compute.googleapis.com/"):
        reference = reference.removeprefix(start)
    return [word for word in reference.split("/") if word]


def path_of(link: str) -> str:
    """Return a link as messages name it."""
    return "/".join(words_of(link))


def must_be_current(given: object, current: object, what: str = "fingerprint") -> None:
    """Raise 412 for a fingerprint that is not the present one."""
    if given != current:
        raise ApiError(
            412, "conditionNotMet",
            f"Invalid fingerprint: the supplied {what} does not match the current one." if given
            else f"{what} either invalid or resource labels have changed",
        )  # fmt: skip
