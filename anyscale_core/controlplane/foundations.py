"""A cloud's own life: what its clusters share is made, looked over and taken away.

In a cloud of mode operator its identity and its bucket are made from here, with the credentials of whoever sets it up, so the
operator needs no right to make such things; its network is made by the operator, at first use.

Each step is one driver call, recorded before it is made, so whoever repeats a step goes on where the last one ended. Nothing
here waits: what takes longer is asked for again.
"""

import enum
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from sqlalchemy import delete, select, update

from anyscale_core.clock import Clock
from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.clouds import SHARED, Cloud, Clouds, kinds_of, mapped_kind
from anyscale_core.controlplane.mailbox import Mailbox
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CloudError, Conflict, CoreError, Fault, NameTaken, NotFound, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec, Unmapped
from anyscale_core.models.identity import Identity
from anyscale_core.models.instance import Deletion, InstanceState
from anyscale_core.models.networking import Check, CheckStatus

PROBE = ".anyscale-core/"
"""Where in a bucket the objects lie that are written to see whether it can be written to."""
CHUNK = 1000
"""How many objects are deleted by one call: the most that S3 takes."""


class Data(enum.Enum):
    """What becomes of the objects in a bucket whose cloud is taken down."""

    REFUSE = "refuse"
    """The cloud is not taken down while there are any."""
    DELETE = "delete"
    KEEP = "keep"
    """The bucket is left as it is, and is nobody's business any more."""


@attrs.frozen(kw_only=True)
class Resource:
    """One thing that a cloud's clusters share. ``id``: the vendor's; empty until the cloud has answered."""

    kind: str
    name: str
    id: str = ""
    adopted: bool = False


@attrs.frozen(kw_only=True)
class CloudStatus:
    """A cloud and what there is of it. ``missing``: kinds that are not made yet; ``ends``: it is being taken down.

    ``identities``: those that are made, of what its nodes run as; its own first.
    """

    spec: CloudSpec
    identities: tuple[Identity, ...] = ()
    resources: tuple[Resource, ...] = ()
    missing: tuple[str, ...] = SHARED
    ends: bool = False


class Foundations:
    """Makes, looks over and takes away what the clusters of a cloud share. Threads may share it."""

    def __init__(self, *, store: Store, clouds: Clouds, mailbox: Mailbox, clock: Clock) -> None:
        self._store, self._clouds, self._mailbox, self._clock = store, clouds, mailbox, clock

    def register(self, spec: CloudSpec) -> bool:
        """Record a cloud; return whether it is new. Of one that is there, the identity rules may change and nothing else.

        Raises SpecError with all faults, NameTaken for a cloud of that name with another spec, or that is being taken down.
        """
        self._clouds.check(spec)
        try:
            self._store.add_cloud(spec, now=self._clock.now())
        except NameTaken:
            known = self._store.cloud(spec.name)
            if known is None or self._ends(spec.name) or _without_rules(known) != _without_rules(spec):
                raise
            if known != spec:
                self._change(spec)
            return False
        return True

    def status(self, name: str) -> CloudStatus:
        """Return a cloud with what is recorded of it; no call is made. Raises UnknownName."""
        spec = self._clouds.spec(name)
        with self._store.read() as connection:
            rows = (
                connection.execute(select(t.cloud_resources).where(t.cloud_resources.c.cloud == name)).mappings().all()
            )
            ends = connection.scalar(select(t.clouds.c.ends_at).where(t.clouds.c.name == name))
        docs = {row["kind"]: row for row in rows}
        kinds = list(dict.fromkeys((*kinds_of(spec), *sorted(docs))))
        wanted = [kind for kind in kinds_of(spec) if spec.mode is CloudMode.DIRECT or kind != "network"]
        made = [docs[kind]["doc"] for kind in kinds if kind.startswith("identity") and kind in docs]
        return CloudStatus(
            spec=spec,
            identities=tuple(wire.structure(doc, Identity) for doc in made if doc is not None),
            resources=tuple(_resource(kind, docs[kind]["name"], docs[kind]["doc"]) for kind in kinds if kind in docs),
            missing=tuple(kind for kind in wanted if kind not in docs or docs[kind]["doc"] is None),
            ends=ends is not None,
        )

    def make(self, name: str) -> CloudStatus:
        """Make the next thing that is missing; return the cloud as it stands then.

        Raises UnknownName, CloudError, SpecError for a cloud that is being taken down.
        """
        status = self.status(name)
        if status.ends:
            why = f"{name} is being taken down; wait for that, or `anyscale-core cloud delete {name}` again"
            raise SpecError([Fault(path="", message=why)], subject=f"cloud {name!r}")
        if not status.missing:
            return status
        with self._clouds.direct(name) as cloud:
            cloud.make(status.missing[0])
        return self.status(name)

    def verify(self, name: str) -> tuple[Check, ...]:
        """Look a cloud over with its own drivers; return each thing looked at, with the remedy of what did not pass.

        Nothing is made but an object in its bucket, which is deleted at once. Raises UnknownName.
        """
        status = self.status(name)
        checks: list[Check] = []
        away = self._mailbox.away(name) if status.spec.mode is CloudMode.OPERATOR else ""
        if away:
            checks.append(Check(id="cloud.operator", status=CheckStatus.SKIPPED, detail=away))
        else:
            cloud = self._clouds.get(name)
            checks += [*_cluster(cloud), *_account(cloud)]
        if status.missing:
            missing = ", ".join(status.missing)
            checks.append(
                Check(
                    id="cloud.setup", status=CheckStatus.FAILED, detail=f"not made yet: {missing}",
                    remedy=f"anyscale-core cloud setup -f SPEC, with the spec of {name}",
                )
            )  # fmt: skip
        made = {resource.kind: resource.name for resource in status.resources if resource.id}
        if "network" in made and not away:
            checks += _network(self._clouds.get(name), made["network"])
        with self._clouds.direct(name) as cloud:
            for kind, thing in made.items():
                if kind == "bucket":
                    checks += _bucket(cloud, thing)
                elif kind != "network":
                    checks += _identity(cloud, kind, thing)
            if cloud.is_composed:
                checks += map(_subjects, status.identities)
        return tuple(checks)

    def take_down(self, name: str, *, data: Data) -> CloudStatus | None:
        """Take away the next thing of a cloud; return what is left, or None when nothing is.

        From the first call on, it takes no new clusters. Raises UnknownName; SpecError while it has live clusters, and for a
        bucket that holds objects with ``Data.REFUSE``; CloudError.
        """
        self.status(name)
        self._begin_end(name)
        if not self._was_never_reached(name) and self._has_instances(self._clouds.get(name)):
            return self.status(name)
        status = self.status(name)
        if status.resources:
            resource = min(status.resources, key=_end_order)
            if self._unmake(status.spec, resource, data) is not Deletion.GOING:
                self._forget(name, resource.kind)
            return self.status(name)
        with self._store.write() as connection:
            for table in (t.orders, t.operators):
                connection.execute(delete(table).where(table.c.cloud == name))
            connection.execute(delete(t.clouds).where(t.clouds.c.name == name))
        self._clouds.forget(name)
        self._mailbox.forget_cloud(name)
        return None

    def _change(self, spec: CloudSpec) -> None:
        """Record other identity rules. Raises SpecError for an identity that was made, and would have to be another."""
        faults = []
        for index, rule in enumerate(spec.identity_rules):
            doc = self._store.made(spec.name, mapped_kind(rule.identity.name or ""))
            if doc is None:
                continue
            there = wire.structure(doc, Identity)
            if there.adopted != (rule.identity.adopt is not None) or set(there.subjects) != set(rule.identity.subjects):
                why = f"{there.name!r} was made otherwise; give the identity another name"
                faults.append(Fault(path=f"identity_rules[{index}].identity", message=why))
        if faults:
            raise SpecError(faults, subject=f"cloud {spec.name!r}")
        self._store.change_cloud(spec, now=self._clock.now())
        self._clouds.forget(spec.name)

    def _was_never_reached(self, name: str) -> bool:
        """Tell whether no operator has ever come: then there is nothing that only an operator could have made."""
        return self._clouds.spec(name).mode is CloudMode.OPERATOR and not self._mailbox.was_met(name)

    def _has_instances(self, cloud: Cloud) -> bool:
        """Delete the instances that nobody knows of; return whether there are any yet."""
        deadline = cloud.deadline()
        instances = cloud.cluster.list(cloud.owner, deadline=deadline)
        doomed = [one.id for one in instances if one.state is not InstanceState.DELETING]
        if doomed:
            cloud.cluster.delete(doomed, owner=cloud.owner, deadline=deadline)
        return bool(instances)

    def _unmake(self, spec: CloudSpec, resource: Resource, data: Data) -> Deletion:
        if resource.kind == "network":
            return self._clouds.get(spec.name).unmake(resource.kind, resource.name)
        with self._clouds.direct(spec.name) as cloud:
            if resource.kind != "bucket" or resource.adopted:
                return cloud.unmake(resource.kind, resource.name)
            return self._unmake_bucket(cloud, resource, data)

    def _unmake_bucket(self, cloud: Cloud, resource: Resource, data: Data) -> Deletion:
        if data is Data.KEEP:
            return Deletion.GONE
        try:
            return cloud.unmake(resource.kind, resource.name)
        except Conflict as error:
            if error.reason != "NOT_EMPTY":
                raise
        if data is Data.REFUSE:
            why = f"the bucket {resource.name} ({resource.id}) holds objects: say what becomes of them"
            fault = Fault(path="data", message=f"{why} (--delete-data or --keep-data)")
            raise SpecError([fault], subject=f"cloud {cloud.spec.name!r}")
        _empty(cloud, resource.name)
        return Deletion.GOING

    def _begin_end(self, name: str) -> None:
        """Record that a cloud ends, unless it has live clusters: in one transaction, as a cluster is recorded in one."""
        with self._store.write() as connection:
            connection.execute(
                update(t.clouds)
                .where(t.clouds.c.name == name, t.clouds.c.ends_at.is_(None))
                .values(ends_at=self._clock.now())
            )
            live = select(t.clusters.c.name).where(t.clusters.c.cloud == name, t.clusters.c.ended_at.is_(None))
            alive = connection.scalars(live.order_by(t.clusters.c.name)).all()
            if alive:
                # Raised inside: the transaction is undone, and the cloud goes on as it was.
                raise SpecError(
                    [Fault(path="", message=f"{name} has live clusters ({', '.join(alive)}); take them down first")],
                    subject=f"cloud {name!r}",
                )

    def _forget(self, name: str, kind: str) -> None:
        table = t.cloud_resources
        with self._store.write() as connection:
            connection.execute(delete(table).where(table.c.cloud == name, table.c.kind == kind))

    def _ends(self, name: str) -> bool:
        with self._store.read() as connection:
            return connection.scalar(select(t.clouds.c.ends_at).where(t.clouds.c.name == name)) is not None


def _without_rules(spec: CloudSpec) -> CloudSpec:
    return attrs.evolve(spec, identity_rules=(), unmapped=Unmapped.CLOUD_DEFAULT)


def _end_order(resource: Resource) -> tuple[bool, bool]:
    """The network first, and identities before the bucket: their grants on it go with them."""
    return resource.kind == "bucket", resource.kind != "network"


def _resource(kind: str, name: str, doc: Any) -> Resource:
    if doc is None:
        return Resource(kind=kind, name=name)
    id = doc.get("id") or doc.get("url") or doc.get("principal") or ""
    return Resource(kind=kind, name=doc["name"], id=id, adopted=doc["adopted"])


# -- what is looked at -------------------------------------------------------------------------------------------------


def _tried(id: str, look: Callable[[], str], *, remedy: str = "") -> Check:
    """Return how one look came out: what it says, or the error with its own remedy."""
    try:
        return Check(id=id, status=CheckStatus.PASSED, detail=look())
    except CloudError as error:
        return Check(id=id, status=CheckStatus.FAILED, detail=str(error), remedy=error.hint or remedy)
    except CoreError as error:
        return Check(id=id, status=CheckStatus.FAILED, detail=str(error), remedy=remedy)


def _cluster(cloud: Cloud) -> Iterator[Check]:
    def catalogue() -> str:
        offerings = cloud.cluster.offerings(deadline=cloud.deadline())
        types = {offering.instance_type for offering in offerings}
        if not types:
            raise NotFound("the catalogue is empty", reason="RESOURCE", hint="check the cloud's region")
        return f"{len(types)} instance types in {len({offering.zone for offering in offerings})} zones"

    def instances() -> str:
        return f"{len(cloud.cluster.list(cloud.owner, deadline=cloud.deadline()))} instances"

    yield _tried("cluster.offerings", catalogue)
    yield _tried("cluster.list", instances)


def _account(cloud: Cloud) -> Iterator[Check]:
    if not cloud.has_quotas:
        yield Check(id="cluster.quotas", status=CheckStatus.SKIPPED, detail="the provider does not tell its quotas")
        return

    def limits() -> str:
        return f"{len(cloud.cluster.quotas(deadline=cloud.deadline()))} limits of the account"

    yield _tried("cluster.quotas", limits)


def _network(cloud: Cloud, name: str) -> Iterator[Check]:
    try:
        yield from cloud.networking.check(name, owner=cloud.owner, deadline=cloud.deadline())
    except CloudError as error:
        yield Check(id="network", status=CheckStatus.FAILED, detail=str(error), remedy=error.hint)


def _identity(cloud: Cloud, kind: str, name: str) -> Iterator[Check]:
    def principal() -> str:
        return cloud.identity.get(name, owner=cloud.owner, deadline=cloud.deadline()).principal

    yield _tried(kind.replace("identity", "identity.get", 1), principal)


def _subjects(identity: Identity) -> Check:
    """Tell who may become an identity that machines of another provider are to run as."""
    if identity.subjects:
        return Check(id="identity.subjects", status=CheckStatus.PASSED, detail=", ".join(identity.subjects))
    return Check(
        id="identity.subjects", status=CheckStatus.WARNING, detail=f"nobody outside its cloud may become {identity.name}",
        remedy="give it subjects in the cloud's spec, unless what runs as it gets its rights in another way",
    )  # fmt: skip


def _bucket(cloud: Cloud, name: str) -> Iterator[Check]:
    def private() -> str:
        bucket = cloud.storage.get(name, owner=cloud.owner, deadline=cloud.deadline())
        if bucket.public:
            raise Conflict(f"{bucket.url} can be read by anybody", reason="STATE", hint="make it private")
        return f"{bucket.url} is private"

    yield _tried("storage.private", private)
    yield _tried("storage.objects", lambda: _write_and_read(cloud, name), remedy="let the control plane at the bucket")


def _write_and_read(cloud: Cloud, bucket: str) -> str:
    """Write an object, read it back and delete it. Raises CloudError, CoreError."""
    store = cloud.storage.objects(bucket, PROBE, owner=cloud.owner)
    key, value = f"verify-{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        store.put(key, value)
        back = bytes(store.get(key).bytes())
        store.delete([key])
    except CloudError:
        raise
    except Exception as error:  # a plugin's store may raise what it likes
        raise CoreError(f"an object cannot be written, read back and deleted: {error}") from None
    if back != value:
        raise CoreError(f"{PROBE}{key} was read back as something else than was written")
    return "an object was written, read back and deleted"


def _empty(cloud: Cloud, bucket: str) -> None:
    """Delete every object of a bucket."""
    store = cloud.storage.objects(bucket, owner=cloud.owner)
    for batch in store.list(chunk_size=CHUNK):
        store.delete([meta["path"] for meta in batch])
