"""The cloud as a whole: its projects, who is who, and what hands have been laid on it."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import attrs

from anyscale_conformance.simulators.gcp import catalogue
from anyscale_conformance.simulators.gcp.compute.images import publish
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.keys import Keys
from anyscale_conformance.simulators.gcp.power import Power
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.tokens import Guard, Tokens
from anyscale_conformance.simulators.gcp.world import Bucket, Project, Timings
from anyscale_core.clock import Clock, SystemClock

GLOBAL = frozenset({"backendServices", "firewalls", "healthChecks", "images", "networks", "routes"})
REGIONAL = frozenset(
    {"addresses", "backendServices", "forwardingRules", "healthChecks", "routers", "subnetworks", "targetPools"}
)
PER_ZONE = frozenset(
    {"acceleratorTypes", "disks", "instanceGroups", "instances", "machineTypes", "networkEndpointGroups"}
)
OWNER = "user:owner@example.com"
"""Who owns every project from the beginning."""


@attrs.frozen(kw_only=True)
class Journaled:
    """A request as it was answered. ``method``: the vendor's id; of objects ``storage.xml.get`` and so on."""

    at: datetime
    project: str
    method: str
    http: str
    path: str
    request_id: str
    status: int
    caller: str
    reason: str = ""
    """Of a refusal."""


@attrs.define(kw_only=True)
class Refusal:
    """A refusal that was planned: of calls of a method (empty: of all), so many times."""

    method: str
    error: ApiError
    times: int


@attrs.define(kw_only=True)
class Cloud:
    """Everything there is. One lock guards it all; who answers a request holds it once."""

    clock: Clock = attrs.field(factory=SystemClock)
    projects: dict[str, Project] = attrs.field(factory=dict)
    journal: dict[str, list[Journaled]] = attrs.field(factory=dict)
    """By project; by the empty string what was for none that there is."""
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    stockouts: set[tuple[str, str, str]] = attrs.field(factory=set)
    """Project, zone (empty: all) and machine type (empty: all) of what is sold out."""
    refusals: dict[str, list[Refusal]] = attrs.field(factory=dict)
    """By project."""
    guard: Guard = Guard.TOKENS
    tokens: Tokens = attrs.field(factory=Tokens)
    keys: Keys = attrs.field(factory=Keys)
    libraries: dict[str, Project] = attrs.field(factory=dict)
    power: Power = attrs.field(factory=Power)
    """What really runs."""
    _numbers: "itertools.count[int]" = attrs.field(factory=lambda: itertools.count(100_000_000_001))

    def add_project(self, id: str, *, clock: Clock | None, timings: Timings | None) -> Project:
        """Let a project be there. Raises ValueError when it is already."""
        if id in self.projects:
            raise ValueError(f"there is a project {id} already")
        project = Project(id=id, number=next(self._numbers), clock=clock or self.clock, timings=timings or Timings())
        owners = {"role": "roles/owner", "members": [OWNER]}
        project.policies[""] = {"version": 1, "etag": "BwXhqDtRsNs=", "bindings": [owners]}
        self.projects[id] = project
        return project

    def project(self, name: str) -> Project | None:
        """Return a project by its id or number."""
        if name.isdigit():
            return next((project for project in self.projects.values() if str(project.number) == name), None)
        return self.projects.get(name)

    def scopes(self, collection: str) -> Sequence[str]:
        """Return the scopes that a collection's things lie in."""
        zones = [f"zones/{zone}" for zones in catalogue.ZONES.values() for zone in zones]
        regions = [f"regions/{region}" for region in catalogue.ZONES]
        if collection == "operations":
            return ["global", *regions, *zones]
        return [
            *(["global"] if collection in GLOBAL else []),
            *(regions if collection in REGIONAL else []),
            *(zones if collection in PER_ZONE else []),
        ]

    def library(self, name: str) -> Project | None:
        """Return one of Google's own projects of public images."""
        if name not in catalogue.IMAGES:
            return None
        if name not in self.libraries:
            self.libraries[name] = Project(id=name, number=next(self._numbers), clock=self.clock)
            publish(self.libraries[name])
        return self.libraries[name]

    def home_of(self, bucket: str) -> str:
        """Return the project that a bucket is in; empty when there is no such bucket. Names are the whole cloud's."""
        return next((id for id, project in self.projects.items() if bucket in project.buckets), "")

    def bucket(self, name: str) -> Bucket:
        """Return a bucket of any project. Raises 404."""
        home = self.projects.get(self.home_of(name))
        if home is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.", code="NoSuchBucket")
        return home.buckets[name]

    def account(self, email: str) -> Json | None:
        """Return a service account of any project."""
        return next((found for project in self.projects.values() if (found := project.accounts.get(email))), None)

    def is_sold_out(self, project: str, zone: str, machine: str) -> bool:
        """Return whether a zone has no machine of that type now."""
        return any(sold_out in self.stockouts for sold_out in itertools.product((project,), ("", zone), ("", machine)))

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Let others in while an answer waits for somebody else: an issuer may well be who waits for another answer."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def note(self, entry: Journaled) -> None:
        """Write a request down."""
        with self.lock:
            self.journal.setdefault(entry.project, []).append(entry)

    def refused(self, project: str, method: str) -> ApiError | None:
        """Return the refusal that was planned for a call, and count it."""
        for refusal in self.refusals.get(project, ()):
            if refusal.times > 0 and refusal.method in ("", method):
                refusal.times -= 1
                return refusal.error
        return None
