"""ClusterDriver: instances of Compute Engine, each made by an insert of its own.

bulkInsert makes many in one call, and gives all of them the same metadata: the startup script, in which each node has a join
token of its own, cannot go that way (docs/decisions/0022). Inserts of a batch go out at once, up to ``AT_ONCE``. Nothing is
waited for: an insert that fails at once is the item's outcome, one that fails late is shown STOPPED with Google's words.

Threads: a driver has no state but what it expects to see (``operations.Expected``), which has a lock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Retry,
    Scope,
)
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    InstanceState,
    NotCreated,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.networking import NetworkMode
from anyscale_core.models.owner import Owner
from anyscale_gcp import accounts, catalogue, instances, networks, operations
from anyscale_gcp.client import Client
from anyscale_gcp.compute import Compute
from anyscale_gcp.config import read_settings
from anyscale_gcp.instances import Place, Surroundings
from anyscale_gcp.tags import Note, brief, label_filter, parse, plain, request_id, resource_name

AT_ONCE = 16
"""Requests of one call that are on their way at the same time."""
PAGE = 500
"""The most that Compute Engine puts on a page."""

T = TypeVar("T")
R = TypeVar("R")
Raw = Mapping[str, Any]
"""An instance as Compute Engine sends it."""


class GcpCluster(ClusterDriver):
    """Instances of a region of a project. ``config.settings`` as explained in ``plugin``."""

    provider = "gcp"

    def __init__(self, config: DriverConfig, client: Client | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._region = config.region
        self._client = client or Client(self._settings, config.clock, identity_token=config.identity_token)
        self._expected = operations.Expected(self._client)
        self._project = self._settings.project
        self._compute = Compute(client=self._client, project=self._project)

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        if not specs:
            return ()
        refused = self._refused(specs)
        if len(refused) == len(specs):
            raise refused[specs[0].name]
        wanted = instances.wanted_of(specs)
        there = self._lookup(specs, token=token, wanted=wanted, deadline=deadline)
        new = [spec for spec in specs if spec.name not in refused and spec.name not in there]
        around = {
            key: self._around(spec, deadline=deadline) for key, spec in {_key_of(spec): spec for spec in new}.items()
        }
        zones = self._zones(deadline=deadline) if any(not spec.zones for spec in new) else ()
        made = at_once(
            partial(self._outcome, token=token, wanted=wanted, around=around, zones=zones, deadline=deadline), new
        )
        _raise_whole(made)
        found = there | {spec.name: outcome for spec, outcome in zip(new, made, strict=True)}
        return tuple(
            NotCreated(name=spec.name, error=refused[spec.name]) if spec.name in refused else found[spec.name]
            for spec in specs
        )

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        place = instances.place_of(id)
        raw = None if place is None else self._raw(place, deadline=deadline)
        if raw is not None and _is_owned(raw, owner):
            (instance,) = self._read([raw], deadline=deadline)
            self._expected.settled([instance])
            return instance
        if id in self._expected.of(owner):
            coming = self._expected.look(id, project=self._project, deadline=deadline)
            if coming is not None:
                return coming
        raise NotFound(f"there is no instance {id}", reason="RESOURCE", resource=id)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        listed = self._read(self._sweep(owner, deadline=deadline), deadline=deadline)
        self._expected.settled(listed)
        lost = set(self._expected.of(owner)) - {instance.id for instance in listed}
        coming = (self._expected.look(id, project=self._project, deadline=deadline) for id in sorted(lost))
        return (*listed, *(instance for instance in coming if instance is not None))

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        ids = tuple(dict.fromkeys(ids))
        raws = self._owned(ids, owner, deadline=deadline)
        found = {instance.id: instance for instance in self._read(raws, deadline=deadline)}
        lost = {id for id in self._expected.of(owner) if id in ids and id not in found}
        doomed = [id for id in ids if id in lost or (id in found and found[id].state is not InstanceState.DELETING)]
        answers = dict(zip(doomed, at_once(partial(self._delete, deadline=deadline), doomed), strict=True))
        errors = [answer for answer in answers.values() if isinstance(answer, CloudError)]
        self._expected.forget(id for id, answer in answers.items() if not isinstance(answer, CloudError))
        if errors:
            raise errors[0]
        ends = {id: answer for id, answer in answers.items() if isinstance(answer, Deletion)}
        return {id: ends.get(id, Deletion.GOING if id in found else Deletion.ALREADY_ABSENT) for id in ids}

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        return catalogue.offerings(self._client, zones=self._zones(deadline=deadline), deadline=deadline)

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        region = self._client.call(
            "compute.regions.get", project=self._project, region=self._region, deadline=deadline, fields="quotas"
        )
        return tuple(
            Quota(metric=each["metric"], scope=self._region, limit=float(each["limit"]), used=float(each["usage"]))
            for each in region.get("quotas", ())
            if "metric" in each
        )

    def close(self) -> None:
        self._client.close()

    # Create --------------------------------------------------------------------------------------------------------

    def _refused(self, specs: Sequence[InstanceSpec]) -> dict[str, CloudError]:
        """Return, by name, what can never work and why. Raises InvalidRequest for a batch that cannot work as a whole."""
        names = [spec.name for spec in specs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidRequest(
                f"the batch has {', '.join(twice)} twice", reason="NAME", hint="give each its own name"
            )
        if len({(spec.owner.plane, spec.owner.cloud) for spec in specs}) > 1:
            raise InvalidRequest("the batch is for two clouds", reason="COMBINATION", hint="make a batch for each")
        refused: dict[str, CloudError] = {}
        for spec in specs:
            try:
                instances.validate(spec, self._region)
            except CloudError as error:
                refused[spec.name] = error
        return refused

    def _lookup(
        self, specs: Sequence[InstanceSpec], *, token: Token, wanted: str, deadline: datetime
    ) -> dict[str, Outcome]:
        """Return the outcomes of what is there already, by name. Raises Conflict when the token stands for another batch."""
        clusters = {spec.owner.cluster for spec in specs}
        owner = specs[0].owner if len(clusters) == 1 else attrs.evolve(specs[0].owner, cluster=None)
        raws = [(raw, found) for raw in self._sweep(owner, deadline=deadline) if (found := _note(raw)) is not None]
        if any(found.token == brief(token) and found.wanted != wanted for _, found in raws):
            raise Conflict(
                "the token stands for another batch", reason="TOKEN_MISMATCH", hint="mint a token for each batch"
            )
        names = {spec.name for spec in specs}
        by_name: dict[str, list[tuple[Raw, Note]]] = {}
        for raw, found in raws:
            if found.name in names:
                by_name.setdefault(found.name, []).append((raw, found))
        return {name: self._known(name, alike, brief(token), deadline=deadline) for name, alike in by_name.items()}

    def _known(self, name: str, alike: Sequence[tuple[Raw, Note]], token: str, *, deadline: datetime) -> Outcome:
        """Return the outcome of a spec whose name is there already. ``token``: the hash of the call's."""
        if len(alike) > 1:
            error: CloudError = Conflict(
                f"there are {len(alike)} instances called {name}", reason="AMBIGUOUS", resource=name,
                hint="delete all but one of them by id",
            )  # fmt: skip
            return NotCreated(name=name, error=error)
        raw, found = alike[0]
        (instance,) = self._read([raw], deadline=deadline)
        is_mine = found.token == token
        if instance.state is InstanceState.DELETING:
            reason = "TOKEN_SPENT" if is_mine else "BEING_DELETED"
            error = Conflict(f"{name} is being deleted", reason=reason, resource=name)
            return NotCreated(name=name, error=error)
        if is_mine:
            return Created(instance=instance)
        error = AlreadyExists(
            f"there is an instance {name} already", reason="OWNED", resource=name, scope=Scope.RESOURCE,
            hint="delete it, or use another name",
        )  # fmt: skip
        return NotCreated(name=name, error=error)

    def _outcome(self, spec: InstanceSpec, **context: Any) -> Outcome:
        try:
            return self._create(spec, **context)
        except CloudError as error:
            if isinstance(error, QuotaExceeded) and error.metric and error.used is None:
                self._tell_usage(error, deadline=context["deadline"])
            return NotCreated(name=spec.name, error=error)

    def _create(
        self, spec: InstanceSpec, *, token: Token, wanted: str, around: Mapping[tuple[str, str], Surroundings],
        zones: Sequence[str], deadline: datetime,
    ) -> Outcome:  # fmt: skip
        """Insert in the first of the zones that has it. Raises what the last of them said."""
        note = instances.note_of(spec, token=token, wanted=wanted)
        candidates, missing = spec.zones or zones, 0
        for zone in candidates:
            body = instances.body_of(spec, note, around[_key_of(spec)], self._settings, zone=zone)
            try:
                return self._insert(spec, note, body, token=token, zone=zone, deadline=deadline)
            except CapacityUnavailable as error:
                missing += error.reason == "SKU"
                if error.scope is not Scope.ZONE:
                    raise
                if zone != candidates[-1]:
                    continue
                if missing == len(candidates) and not self._is_sold(spec, deadline=deadline):
                    raise _wrong_reference(spec, error) from error
                if len(candidates) > 1:
                    error.scope, error.reason = Scope.REGION, "REGION"
                raise
        raise InvalidRequest(f"the region {self._region} has no zones", reason="UNSUPPORTED_VALUE", resource=spec.name)

    def _insert(
        self, spec: InstanceSpec, note: Note, body: Mapping[str, Any], *, token: Token, zone: str, deadline: datetime
    ) -> Outcome:
        try:
            operation = self._client.call(
                "compute.instances.insert", project=self._project, zone=zone, body=body, about=spec.name,
                requestId=request_id(token, spec.name, zone, note.wanted), deadline=deadline,
            )  # fmt: skip
        except AlreadyExists:
            return self._taken(spec, note, zone=zone, deadline=deadline)
        except NotFound as error:  # what it refers to: a machine type, an image, a zone
            raise _wrong_reference(spec, error) from error
        is_done = operations.done(operation, resource=spec.name)
        number = str(operation.get("targetId", ""))
        place = Place(zone=zone, name=str(body["name"]), number=number)
        if is_done or not number:
            return self._made(spec, place, deadline=deadline)
        instance = instances.shown(
            note, place, state=InstanceState.PENDING, market=instances.market_of(spec), type=spec.instance_type,
            created=operation.get("insertTime"),
        )  # fmt: skip
        self._expected.add(instance, operation)
        return Created(instance=instance)

    def _made(self, spec: InstanceSpec, place: Place, *, deadline: datetime) -> Outcome:
        """Return what an insert that has ended made: a request that was known already may have made it long ago."""
        raw = self._raw(place, deadline=deadline)
        read = () if raw is None else self._read([raw], deadline=deadline)
        if not read or read[0].state is InstanceState.DELETING:
            raise Conflict(
                f"{spec.name} was made with this token and has been deleted", reason="TOKEN_SPENT", resource=spec.name,
                hint="mint a new token",
            )  # fmt: skip
        return Created(instance=read[0])

    def _taken(self, spec: InstanceSpec, note: Note, *, zone: str, deadline: datetime) -> Outcome:
        """Return the outcome of an insert whose name was taken, which the sweep before it had not shown."""
        name = resource_name(spec.owner, spec.name)
        raw = self._raw(Place(zone=zone, name=name, number=""), deadline=deadline)
        if raw is None:
            raise Conflict(f"{spec.name} is being deleted", reason="BEING_DELETED", resource=spec.name)
        found = _note(raw)
        if found is not None and found.token == note.token and found.wanted != note.wanted:
            raise Conflict("the token stands for another batch", reason="TOKEN_MISMATCH", resource=spec.name)
        if found is not None:
            return self._known(spec.name, [(raw, found)], note.token, deadline=deadline)
        raise AlreadyExists(
            f"the project has an instance {name} that is not ours", reason="FOREIGN", resource=spec.name,
            hint="use another name",
        )  # fmt: skip

    def _around(self, spec: InstanceSpec, *, deadline: datetime) -> Surroundings:
        """Return what the names of a spec's network and identity stand for; each is a read."""
        subnetwork = self._settings.subnetwork or networks.subnet_path(self._project, self._region, "default")
        account, is_public = "", False
        if spec.network:
            net = networks.find(self._compute, spec.network, owner=spec.owner, region=self._region, deadline=deadline)
            if net is None:
                raise InvalidRequest(
                    f"there is no network {spec.network}", reason="FIELD", resource=spec.name, hint="create it first"
                )
            subnetwork, is_public = net.subnetwork, net.mode is NetworkMode.PUBLIC
        if spec.identity:
            found = accounts.find(self._client, spec.identity, owner=spec.owner, deadline=deadline)
            if found is None:
                raise InvalidRequest(
                    f"there is no identity {spec.identity}", reason="FIELD", resource=spec.name, hint="create it first"
                )
            account = found.acting
        return Surroundings(subnetwork=subnetwork, service_account=account, is_public=is_public)

    def _is_sold(self, spec: InstanceSpec, *, deadline: datetime) -> bool:
        """Tell whether any zone of the project knows a machine type: one that none knows is no shortage."""
        machine = spec.instance_type.partition("+")[0]
        pages = self._client.pages(
            "compute.machineTypes.aggregatedList",
            project=self._project,
            filter=f'name = "{machine}"',
            deadline=deadline,
        )
        return any(
            found.get("name") == machine
            for page in pages
            for scoped in page.get("items", {}).values()
            for found in scoped.get("machineTypes", ())
        )

    def _tell_usage(self, error: QuotaExceeded, *, deadline: datetime) -> None:
        """Say in the error how much of the quota is used, which Compute Engine does not."""
        for quota in self.quotas(deadline=deadline):
            if quota.metric == error.metric:
                error.limit, error.used = quota.limit, quota.used

    def _zones(self, *, deadline: datetime) -> tuple[str, ...]:
        region = self._client.call(
            "compute.regions.get", project=self._project, region=self._region, deadline=deadline, fields="zones"
        )
        return tuple(sorted(plain(zone) for zone in region.get("zones", ())))

    # Reading -------------------------------------------------------------------------------------------------------

    def _sweep(self, owner: Owner, *, deadline: datetime) -> tuple[Raw, ...]:
        """Return the owner's instances, as they were sent, each once."""
        pages = self._client.pages(
            "compute.instances.aggregatedList", project=self._project, filter=label_filter(owner), maxResults=PAGE,
            fields=f"nextPageToken,unreachables,items/*/warning/code,items/*/instances({instances.FIELDS})",
            deadline=deadline,
        )  # fmt: skip
        raws = (
            raw
            for page in pages
            for scoped in operations.complete(page, "instances").get("items", {}).values()
            for raw in scoped.get("instances", ())
        )
        return tuple({str(raw["id"]): raw for raw in raws if _is_owned(raw, owner)}.values())

    def _owned(self, ids: Sequence[InstanceId], owner: Owner, *, deadline: datetime) -> tuple[Raw, ...]:
        """Return those of the ids that exist and are the owner's: by one read each, or by one sweep."""
        places = [place for place in map(instances.place_of, ids) if place is not None]
        if len(places) > 1:
            known = set(ids)
            return tuple(raw for raw in self._sweep(owner, deadline=deadline) if _place(raw).id in known)
        found = (self._raw(place, deadline=deadline) for place in places)
        return tuple(raw for raw in found if raw is not None and _is_owned(raw, owner))

    def _raw(self, place: Place, *, deadline: datetime) -> Raw | None:
        """Return an instance as it was sent; None when there is none of that name, or another one by now."""
        try:
            raw = self._client.call(
                "compute.instances.get", project=self._project, zone=place.zone, instance=place.name,
                fields=instances.FIELDS, about=place.name, deadline=deadline,
            )  # fmt: skip
        except NotFound:
            return None
        return raw if place.number in ("", str(raw["id"])) else None

    def _read(self, raws: Iterable[Raw], *, deadline: datetime) -> tuple[Instance, ...]:
        """Return instances. Whether one that is stopping is being deleted is asked for when there is one."""
        raws = tuple(raws)
        going: frozenset[str] = frozenset()
        if any(_going(raw) for raw in raws):
            going = operations.going(self._client, project=self._project, deadline=deadline)
        read = (instances.read(raw, is_going=str(raw["id"]) in going) for raw in raws)
        return tuple(instance for instance in read if instance is not None)

    # Delete --------------------------------------------------------------------------------------------------------

    def _delete(self, id: InstanceId, *, deadline: datetime) -> Deletion | CloudError:
        place = instances.place_of(id)
        if place is None:
            return Deletion.ALREADY_ABSENT
        try:
            operation = self._client.call(
                "compute.instances.delete", project=self._project, zone=place.zone, instance=place.name,
                requestId=request_id(Token(place.number), "delete"), about=place.name, deadline=deadline,
            )  # fmt: skip
            return Deletion.GONE if operations.done(operation, resource=place.name) else Deletion.GOING
        except NotFound:
            return Deletion.ALREADY_ABSENT
        except CloudError as error:
            return error


def at_once(act: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return what ``act`` makes of each item, in order, many at a time."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(items)), thread_name_prefix="gcp") as threads:
        return list(threads.map(act, items))


def _raise_whole(outcomes: Sequence[Outcome]) -> None:
    """Raise what struck a whole batch and may pass, so that whoever repeats calls can: a throttle, a broken line."""
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, NotCreated)]
    passing = [error for error in errors if error.retry in (Retry.SAME, Retry.WITH_TOKEN)]
    if errors and len(passing) == len(outcomes):
        passing[0].attempts = len(passing)
        raise passing[0]


def _key_of(spec: InstanceSpec) -> tuple[str, str]:
    return (spec.network or "", spec.identity or "")


def _note(raw: Raw) -> Note | None:
    return parse(raw.get("description"))


def _place(raw: Raw) -> Place:
    return Place(zone=plain(raw.get("zone")), name=str(raw["name"]), number=str(raw["id"]))


def _is_owned(raw: Raw, owner: Owner) -> bool:
    found = _note(raw)
    return found is not None and owner.owns(found.tags)


def _going(raw: Raw) -> bool:
    return raw.get("status") in ("STOPPING", "PENDING_STOP")


def _wrong_reference(spec: InstanceSpec, error: CloudError) -> InvalidRequest:
    return InvalidRequest(
        error.message, reason="UNSUPPORTED_VALUE", resource=spec.name, vendor=error.vendor,
        hint="mend the type, zone, image, network or identity that the message names",
    )  # fmt: skip
