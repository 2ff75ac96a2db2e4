"""The store: SQLAlchemy Core on SQLite (WAL) or PostgreSQL.

What must not be lost (intents, outcomes, wishes) is committed with full durability; heartbeats, which may be lost with the
machine, are not. Whoever writes status holds the cluster's lease, and every such write checks it (``fenced``).

On PostgreSQL several control planes may share a store. Writes run at READ COMMITTED and begin with the row that they depend
on; reads of several rows run at REPEATABLE READ, so that what is read together was true together.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import (
    Connection,
    bindparam,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from anyscale_core.controlplane import queries as q
from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.rows import AuditRecord, Event, Lease, Status, add_event, record_of, save_job, touch
from anyscale_core.controlplane.spending import settle
from anyscale_core.errors import Fault, LeaseLost, NameTaken, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.ids import ClusterId, NodeId, Token
from anyscale_core.models.job import Job
from anyscale_core.models.records import (
    ClusterRecord,
    EndCause,
    Goal,
    Launch,
    NodeRecord,
    NodeStatus,
    Shortage,
)

if TYPE_CHECKING:
    from anyscale_core.controlplane.postgres import Listener

MIGRATION = "0006"
"""The newest migration; the store is brought up to it when it is opened."""


class Store:
    """One database. Threads may share it; ``close`` gives its connections back."""

    def __init__(self, url: str) -> None:
        self._is_embedded = url.startswith("sqlite")
        if self._is_embedded:
            self._durable = _embedded(url, synchronous="FULL")
            self._loose = _embedded(url, synchronous="NORMAL")
            self._reader = _embedded(url, begin="BEGIN")
        else:
            self._durable = _server(url)
            self._loose = _server(url, synchronous_commit="off")
            self._reader = _server(url, isolation_level="REPEATABLE READ")

    @classmethod
    def at(cls, path: Path) -> "Store":
        """Return the SQLite store in a file, made and migrated as needed."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = cls(f"sqlite:///{path}")
        store.migrate()
        return store

    def migrate(self) -> None:
        """Bring the tables up to date; loads Alembic only when there is something to do."""
        with self._durable.connect() as connection:
            has_version = inspect(connection).has_table("alembic_version")
            if has_version and connection.scalar(text("SELECT version_num FROM alembic_version")) == MIGRATION:
                return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "anyscale_core.controlplane:migrations")
        with self._durable.begin() as connection:
            if not self._is_embedded:
                from anyscale_core.controlplane.postgres import lock_migrations

                lock_migrations(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self._durable.dispose()
        self._loose.dispose()
        self._reader.dispose()

    def listen(self, heard: Callable[[], object]) -> "Listener | None":
        """Call ``heard`` from now on when any process has changed a cluster; None on an embedded store, which has but one."""
        if self._is_embedded:
            return None
        from anyscale_core.controlplane.postgres import Listener

        return Listener(self._durable.url, heard)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A durable transaction."""
        with self._durable.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One view of the store, for looking only."""
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def fenced(self, lease: Lease, *, now: datetime) -> Iterator[Connection]:
        """A durable transaction that only the holder of a live lease may make. Raises LeaseLost."""
        with self._durable.begin() as connection:
            alive = connection.execute(q.FENCE, {"cluster": lease.cluster_id, "token": lease.token, "now": now})
            if alive.rowcount != 1:
                raise LeaseLost(f"{lease.cluster_id}: lease {lease.token} of {lease.holder} is no longer valid")
            yield connection

    # -- meta and clouds -----------------------------------------------------------------------------------------------

    def meta(self, key: str, default: str) -> str:
        """Return a value that is set once: the first default wins, in any process."""
        query = select(t.meta.c.value).where(t.meta.c.key == key)
        try:
            with self.write() as connection:
                found = connection.scalar(query)
                if found is not None:
                    return str(found)
                connection.execute(insert(t.meta).values(key=key, value=default))
                return default
        except IntegrityError:  # another process was first
            with self._reader.connect() as connection:
                return str(connection.scalar(query))

    def cloud(self, name: str) -> CloudSpec | None:
        with self._reader.connect() as connection:
            doc = connection.scalar(select(t.clouds.c.spec).where(t.clouds.c.name == name))
        return None if doc is None else wire.structure(doc, CloudSpec)

    def cloud_since(self, name: str) -> datetime | None:
        """Return since when the cloud of that name is as it is; None when there is none."""
        since = func.coalesce(t.clouds.c.changed_at, t.clouds.c.created_at)
        with self._reader.connect() as connection:
            found: datetime | None = connection.scalar(select(since).where(t.clouds.c.name == name))
            return found

    def clouds(self) -> tuple[CloudSpec, ...]:
        with self._reader.connect() as connection:
            docs = connection.scalars(select(t.clouds.c.spec).order_by(t.clouds.c.name)).all()
        return tuple(wire.structure(doc, CloudSpec) for doc in docs)

    def add_cloud(self, spec: CloudSpec, *, now: datetime) -> None:
        """Record a cloud. Raises NameTaken."""
        try:
            with self.write() as connection:
                values = {"name": spec.name, "spec": wire.unstructure_revealed(spec), "created_at": now}
                connection.execute(insert(t.clouds).values(**values))
        except IntegrityError:
            raise NameTaken(f"a cloud {spec.name!r} exists already") from None

    def change_cloud(self, spec: CloudSpec, *, now: datetime) -> None:
        """Record a cloud's spec anew, unless it is being taken down."""
        c = t.clouds.c
        with self.write() as connection:
            connection.execute(
                update(t.clouds)
                .where(c.name == spec.name, c.ends_at.is_(None))
                .values(spec=wire.unstructure_revealed(spec), changed_at=now)
            )

    def cloud_resource(self, cloud: str, kind: str, *, name: str, token: Token) -> tuple[str, Token, Any]:
        """Return the recorded (name, token, doc) of a cloud's resource, recording the ones given if there is none."""
        table = t.cloud_resources
        key = (table.c.cloud == cloud) & (table.c.kind == kind)
        try:
            with self.write() as connection:
                row = connection.execute(select(table).where(key)).mappings().first()
                if row is None:
                    connection.execute(insert(table).values(cloud=cloud, kind=kind, name=name, token=token))
                    return name, token, None
        except IntegrityError:  # another process was first
            with self._reader.connect() as connection:
                row = connection.execute(select(table).where(key)).mappings().one()
        return row["name"], Token(row["token"]), row["doc"]

    def made(self, cloud: str, kind: str) -> Any:
        """Return the doc of a cloud's resource; None while the cloud has not answered."""
        table = t.cloud_resources
        with self._reader.connect() as connection:
            return connection.scalar(select(table.c.doc).where(table.c.cloud == cloud, table.c.kind == kind))

    def set_cloud_resource(self, cloud: str, kind: str, doc: Any) -> None:
        table = t.cloud_resources
        with self.write() as connection:
            connection.execute(update(table).where(table.c.cloud == cloud, table.c.kind == kind).values(doc=doc))

    # -- wishes --------------------------------------------------------------------------------------------------------

    def add_cluster(self, record: ClusterRecord, jobs: Iterable[Job] = ()) -> None:
        """Record a new cluster and its first jobs, due at once.

        Raises NameTaken for the name of a live one, SpecError for a cloud that is being taken down.
        """
        values = {
            "id": record.id, "name": record.name, "cloud": record.cloud, "spec": wire.unstructure(record.spec),
            "generation": record.generation, "goal": record.goal.value, "end_cause": "", "end_reason": "",
            "created_at": record.created_at, "created_by": record.created_by, "phase": record.phase.value,
            "project": record.spec.project or "", "identity": record.identity,
            "status": wire.unstructure(Status.of(record)), "due_at": record.created_at,
        }  # fmt: skip
        try:
            with self.write() as connection:
                # Locked: a cloud does not begin to end between this look and the insert.
                ends = select(t.clouds.c.ends_at).where(t.clouds.c.name == record.cloud).with_for_update()
                if connection.scalar(ends) is not None:
                    fault = Fault(path="cloud", message=f"{record.cloud} is being taken down")
                    raise SpecError([fault], subject=f"cluster {record.name!r}")
                connection.execute(insert(t.clusters).values(**values))
                for job in jobs:
                    save_job(connection, job)
        except IntegrityError:
            raise NameTaken(f"a cluster {record.name!r} is alive; take it down first or choose another name") from None

    def change_spec(self, id: ClusterId, spec: ClusterSpec, *, now: datetime) -> None:
        """Record a new generation of the wish."""
        self._wish(id, now, spec=wire.unstructure(spec), generation=t.clusters.c.generation + 1)

    def end_cluster(self, id: ClusterId, cause: EndCause, reason: str, *, now: datetime) -> bool:
        """Change the goal to TERMINATE; return whether it was RUN before (the first cause stands)."""
        return self._wish(
            id, now, where=t.clusters.c.goal == Goal.RUN.value,
            goal=Goal.TERMINATE.value, end_cause=cause.value, end_reason=reason,
        )  # fmt: skip

    def _wish(self, id: ClusterId, now: datetime, *, where: Any = True, **values: Any) -> bool:
        with self.write() as connection:
            changed = connection.execute(
                update(t.clusters)
                .where(t.clusters.c.id == id, t.clusters.c.ended_at.is_(None), where)
                .values(version=t.clusters.c.version + 1, due_at=now, **values)
            )
        return changed.rowcount == 1

    def add_job(self, job: Job, *, now: datetime) -> None:
        with self.write() as connection:
            save_job(connection, job)
            touch(connection, job.cluster_id, now)

    # -- reading -------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> ClusterId | None:
        """Return the live cluster of a name, else the last one that ended."""
        order = (t.clusters.c.ended_at.is_(None).desc(), t.clusters.c.created_at.desc())
        with self._reader.connect() as connection:
            found = connection.scalar(
                select(t.clusters.c.id).where(t.clusters.c.name == name).order_by(*order).limit(1)
            )
        return None if found is None else ClusterId(found)

    def names(self) -> dict[ClusterId, str]:
        """Return the live clusters, by id."""
        query = select(t.clusters.c.id, t.clusters.c.name).where(t.clusters.c.ended_at.is_(None))
        with self._reader.connect() as connection:
            return {ClusterId(row.id): row.name for row in connection.execute(query.order_by(t.clusters.c.created_at))}

    def known_names(self) -> list[str]:
        """Return every cluster name ever used, newest first, for a helpful error."""
        with self._reader.connect() as connection:
            query = select(t.clusters.c.name).order_by(t.clusters.c.created_at.desc()).limit(200)
            return list(dict.fromkeys(connection.scalars(query)))

    def version(self, id: ClusterId) -> int:
        """Return the cluster's version: unchanged means that nothing nodes are told has changed."""
        with self._reader.connect() as connection:
            return connection.scalar(select(t.clusters.c.version).where(t.clusters.c.id == id)) or 0

    def versions(self, ids: Collection[ClusterId]) -> dict[ClusterId, int]:
        """Return the versions of many clusters; those that are not there are left out."""
        c = t.clusters.c
        with self._reader.connect() as connection:
            return {
                ClusterId(row.id): row.version
                for batch in _batches(sorted(ids), 500)
                for row in connection.execute(select(c.id, c.version).where(c.id.in_(batch)))
            }

    def load(self, id: ClusterId, *, history_from: datetime | None = None) -> ClusterRecord | None:
        """Return one cluster whole, ended nodes only since ``history_from`` (None: all)."""
        cluster = {"cluster": id}
        with self._reader.connect() as connection:
            row = connection.execute(q.CLUSTER, cluster).mappings().first()
            if row is None:
                return None
            if history_from is None:
                docs = connection.scalars(q.NODES, cluster).all()
            else:
                docs = connection.scalars(q.NODES_SINCE, cluster | {"since": history_from}).all()
            launches = connection.scalars(q.LAUNCHES, cluster).all()
            jobs = connection.scalars(q.JOBS, cluster).all()
        nodes = [wire.structure(doc, NodeRecord) for doc in docs]
        return record_of(
            row,
            nodes=tuple(sorted(nodes, key=lambda node: (node.created_at, node.id))),
            launches=tuple(wire.structure(doc, Launch) for doc in launches),
            jobs=tuple(wire.structure(doc, Job) for doc in jobs),
        )

    def statuses(self, id: ClusterId) -> dict[NodeId, NodeStatus]:
        with self._reader.connect() as connection:
            rows = connection.execute(q.STATUSES, {"cluster": id}).all()
        # The document is written when it says something new, these two every time.
        found = [attrs.evolve(wire.structure(doc, NodeStatus), seen_at=seen_at, seq=seq) for doc, seen_at, seq in rows]
        return {status.node_id: status for status in found}

    def node(self, id: NodeId) -> NodeRecord | None:
        with self._reader.connect() as connection:
            doc = connection.scalar(q.NODE, {"node": id})
        return None if doc is None else wire.structure(doc, NodeRecord)

    def node_names(self, cloud: str, *, since: datetime) -> set[str]:
        """Return the names of all nodes that may have existed in a cloud since an instant: for the collector of orphans."""
        query = (
            select(t.nodes.c.name)
            .join(t.clusters, t.clusters.c.id == t.nodes.c.cluster_id)
            .where(t.clusters.c.cloud == cloud, or_(t.nodes.c.ended_at.is_(None), t.nodes.c.ended_at >= since))
        )
        with self._reader.connect() as connection:
            return set(connection.scalars(query))

    def phases(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many live clusters, and nodes of live clusters, are in each phase."""
        c, n = t.clusters.c, t.nodes.c
        clusters = select(c.phase, func.count()).where(c.ended_at.is_(None)).group_by(c.phase)
        nodes = (
            select(n.phase, func.count())
            .join(t.clusters, c.id == n.cluster_id)
            .where(c.ended_at.is_(None))
            .group_by(n.phase)
        )
        with self._reader.connect() as connection:
            found = [connection.execute(query).all() for query in (clusters, nodes)]
        return {row[0]: row[1] for row in found[0]}, {row[0]: row[1] for row in found[1]}

    def clusters_of(self, names: Collection[str]) -> set[ClusterId]:
        """Return the clusters that nodes of these names belong to."""
        with self._reader.connect() as connection:
            return {
                ClusterId(id)
                for batch in _batches(sorted(names), 500)
                for id in connection.scalars(select(t.nodes.c.cluster_id).where(t.nodes.c.name.in_(batch)))
            }

    # -- heartbeats ----------------------------------------------------------------------------------------------------

    def nonce(self, id: NodeId) -> str | None:
        """Return the hashed nonce that a node registered with; None if it has not."""
        with self._reader.connect() as connection:
            return connection.scalar(select(t.node_status.c.nonce).where(t.node_status.c.node_id == id))

    def register(self, status: NodeStatus, cluster_id: ClusterId, nonce: str, *, now: datetime) -> bool:
        """Record a first registration, durably; return False when the node has registered before."""
        values = {
            "node_id": status.node_id, "cluster_id": cluster_id, "seen_at": now, "nonce": nonce,
            "doc": wire.unstructure(status), "noticed": 0,
        }  # fmt: skip
        try:
            with self.write() as connection:
                touch(connection, cluster_id, now)  # the cluster's row first, as everywhere: nobody waits in a circle
                connection.execute(insert(t.node_status).values(**values))
        except IntegrityError:
            return False
        return True

    @contextmanager
    def telemetry(self) -> Iterator[Connection]:
        """A transaction that may be lost with the machine, though not with the process."""
        with self._loose.begin() as connection:
            yield connection

    def notice_silence(self, before: datetime, *, now: datetime) -> int:
        """Make the clusters due in which a node has been silent since ``before``; each silence counts once."""
        silent = (t.node_status.c.noticed == 0) & (t.node_status.c.seen_at < before)
        with self._reader.connect() as connection:
            if connection.scalar(select(t.node_status.c.node_id).where(silent).limit(1)) is None:
                return 0  # a read is cheap; taking the write lock for nothing is not
        with self._loose.begin() as connection:
            ids = set(connection.scalars(select(t.node_status.c.cluster_id).where(silent)))
            for id in sorted(ids):  # in one order everywhere: two processes never wait for each other
                touch(connection, ClusterId(id), now)
            told = silent & t.node_status.c.cluster_id.in_(ids)
            connection.execute(update(t.node_status).where(told).values(noticed=1))
        return len(ids)

    # -- work ----------------------------------------------------------------------------------------------------------

    def touch(self, id: ClusterId, *, now: datetime) -> None:
        """Make a cluster due."""
        with self._loose.begin() as connection:
            touch(connection, id, now)

    def claim(self, holder: str, *, now: datetime, ttl: timedelta) -> Lease | None:
        """Take the lease of the cluster that has been due longest; None when none is.

        While it is held the cluster is due when the lease lapses: should its holder die, somebody else goes on.
        """
        first = self.next_due(now=now)
        if first is None or first > now:
            return None  # a read is cheap; taking the write lock for nothing is not
        with self._durable.begin() as connection:
            row = connection.execute(q.DUE, {"now": now}).first()
            if row is None:
                return None
            values = {"cluster": row.id, "holder": holder, "token": row.lease_token + 1, "until": now + ttl}
            connection.execute(q.TAKE, values)
        return Lease(cluster_id=ClusterId(row.id), holder=holder, token=row.lease_token + 1, until=now + ttl)

    def renew(self, lease: Lease, *, now: datetime, ttl: timedelta) -> Lease:
        """Make a lease last longer. Raises LeaseLost."""
        c, until = t.clusters.c, now + ttl
        due_at = case((c.due_at == lease.until, bindparam("until", until, type_=t.Instant)), else_=c.due_at)
        with self.fenced(lease, now=now) as connection:
            connection.execute(
                update(t.clusters).where(c.id == lease.cluster_id).values(lease_until=until, due_at=due_at)
            )
        return attrs.evolve(lease, until=until)

    def release(self, lease: Lease, *, due_at: datetime | None) -> None:
        """Give a lease back if it is still held; ``due_at`` stands unless something made the cluster due sooner meanwhile."""
        c = t.clusters.c
        mine = (c.id == lease.cluster_id) & (c.lease_token == lease.token)
        sooner = c.due_at < (lease.until if due_at is None else min(lease.until, due_at))
        due = case((sooner, c.due_at), else_=bindparam("due", due_at, type_=t.Instant))
        with self._durable.begin() as connection:
            connection.execute(update(t.clusters).where(mine).values(lease_until=None, lease_holder=None, due_at=due))

    def next_due(self, *, now: datetime) -> datetime | None:
        """Return when there is next something to claim: a cluster that is held counts from the end of its lease."""
        with self._reader.connect() as connection:
            times = [connection.scalar(query, {"now": now}) for query in (q.FREE, q.HELD)]
        return min((time for time in times if isinstance(time, datetime)), default=None)

    def break_leases(self, *, now: datetime) -> int:
        """Make every leased cluster due and free: at the start of the only process on an embedded store."""
        c = t.clusters.c
        with self._durable.begin() as connection:
            values = {"lease_until": None, "lease_holder": None, "lease_token": c.lease_token + 1, "due_at": now}
            done = connection.execute(update(t.clusters).where(c.ended_at.is_(None)).values(**values))
        return done.rowcount

    # -- shortages, events, audit --------------------------------------------------------------------------------------

    def shortages(self, cloud: str, *, now: datetime) -> tuple[Shortage, ...]:
        with self._reader.connect() as connection:
            docs = connection.scalars(q.SHORTAGES, {"cloud": cloud, "now": now}).all()
        return tuple(wire.structure(doc, Shortage) for doc in docs)

    def events(self, *, cluster_id: ClusterId | None = None, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        """Return events in order, those with an id above ``after``."""
        query = select(t.events).where(t.events.c.id > after).order_by(t.events.c.id).limit(limit)
        if cluster_id is not None:
            query = query.where(t.events.c.cluster_id == cluster_id)
        with self._reader.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(Event(**{**row, "node": row["node"] or ""}) for row in rows)

    def add_events(self, *events: Event) -> None:
        with self.write() as connection:
            for one in events:
                add_event(connection, one)

    def audit(self, *, after: int = 0, limit: int = 500) -> tuple[AuditRecord, ...]:
        with self._reader.connect() as connection:
            rows = connection.execute(
                select(t.audit).where(t.audit.c.id > after).order_by(t.audit.c.id).limit(limit)
            ).mappings()
            return tuple(AuditRecord(**{k: v for k, v in row.items() if k != "id"}) for row in rows)

    def prune(self, before: datetime) -> int:
        """Forget what ended before an instant, clusters with all that belongs to them, and older events and audit records.

        What the nodes cost stays known. Returns how many rows went.
        """
        ended = select(t.clusters.c.id).where(t.clusters.c.ended_at < before)
        old = or_(t.nodes.c.ended_at < before, t.nodes.c.cluster_id.in_(ended))
        went = 0
        with self.write() as connection:
            settle(connection, old)
            nodes = select(t.nodes.c.id).where(old)
            went += connection.execute(delete(t.node_status).where(t.node_status.c.node_id.in_(nodes))).rowcount
            went += connection.execute(delete(t.nodes).where(old)).rowcount
            for table in (t.node_status, t.launches, t.jobs):
                went += connection.execute(delete(table).where(table.c.cluster_id.in_(ended))).rowcount
            went += connection.execute(delete(t.clusters).where(t.clusters.c.ended_at < before)).rowcount
            for table in (t.events, t.audit):
                went += connection.execute(delete(table).where(table.c.at < before)).rowcount
            went += connection.execute(delete(t.shortages).where(t.shortages.c.until < before)).rowcount
        return went

    def add_audit(self, record: AuditRecord) -> None:
        with self.write() as connection:
            connection.execute(insert(t.audit).values(**attrs.asdict(record)))


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Split a list: databases bound how many values one statement may carry."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _server(url: str, *, synchronous_commit: str = "on", isolation_level: str = "READ COMMITTED") -> Engine:
    """Return an engine on a database server; connections that broke while nobody used them are replaced."""
    from anyscale_core.controlplane.postgres import session_options, url_of

    return create_engine(
        url_of(url), pool_pre_ping=True, pool_size=5, max_overflow=5, isolation_level=isolation_level,
        connect_args={"options": session_options(synchronous_commit=synchronous_commit)},
    )  # fmt: skip


def _embedded(url: str, *, synchronous: str = "FULL", begin: str = "BEGIN IMMEDIATE") -> Engine:
    """Return an engine on SQLite. A transaction that may write takes the write lock first: it never fails half-way."""
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy says BEGIN, not the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
