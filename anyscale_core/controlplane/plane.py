"""The control plane as a library: wishes in, status out, and the turns that do the work.

Embed it: build one, start a ``Runner`` on it (or call ``tick`` by hand), hand it specs. docs/embedding.md shows how.
"""

import os
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs
import structlog

from anyscale_core.clock import Clock, SystemClock
from anyscale_core.controlplane.certificates import ClusterAuthority
from anyscale_core.controlplane.clouds import Clouds, mint
from anyscale_core.controlplane.collector import Collector
from anyscale_core.controlplane.foundations import CloudStatus, Data, Foundations
from anyscale_core.controlplane.grants import PACKAGES, Grants, granted
from anyscale_core.controlplane.heartbeats import Heartbeats
from anyscale_core.controlplane.keys import KeyRing, share
from anyscale_core.controlplane.mailbox import Mailbox
from anyscale_core.controlplane.operators import Operators
from anyscale_core.controlplane.quotas import Quotas
from anyscale_core.controlplane.reconciler import Reconciler
from anyscale_core.controlplane.remote import RemoteDriver
from anyscale_core.controlplane.rows import AuditRecord, Event
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.drivers.base import Driver
from anyscale_core.drivers.layers import DeadlineLayer, Record, Trace, WireAction, layered, standard
from anyscale_core.errors import CloudError, Fault, LeaseLost, SpecError, UnknownName
from anyscale_core.models.actions import CreateNodes, Plan
from anyscale_core.models.cloud import CloudSpec, Workload, WorkloadType
from anyscale_core.models.cluster import ClusterSpec, nearest
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import ClusterId, JobId, NodeId, PlaneId, Token
from anyscale_core.models.instance import Offering
from anyscale_core.models.job import Job, JobSpec
from anyscale_core.models.node import (
    GATEWAY_AUDIENCE,
    CertificateRequest,
    Heartbeat,
    NodeCertificate,
    Orders,
    Registered,
    Registration,
)
from anyscale_core.models.order import OperatorToken
from anyscale_core.models.phases import CLUSTER_ENDED, JobPhase
from anyscale_core.models.quota import QuotaMode, QuotaSpec
from anyscale_core.models.records import ClusterRecord, EndCause, Goal, NodeStatus, Observed
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess
from anyscale_core.planning import shapes
from anyscale_core.planning.diff import diff
from anyscale_core.planning.identities import identity_for
from anyscale_core.planning.quotas import least, never
from anyscale_core.registry import Registry

log = structlog.get_logger(__name__)

RETURN = timedelta(seconds=5)
"""How long nodes may take to come back to a control plane that was away: the longest pause of their agents."""
Wrap = Callable[[Driver, str], Driver]
"""Puts a driver of a cloud (by name) behind its layers."""


@attrs.frozen(kw_only=True)
class ClusterStatus:
    """A cluster and what its nodes last said."""

    record: ClusterRecord
    nodes: Mapping[NodeId, NodeStatus]


@attrs.frozen(kw_only=True)
class ClusterAccess:
    """A way in to a cluster's dashboard and Jobs API: the URL, a token for it, and the name in its certificate."""

    url: str
    token: Secret[str]
    expires_at: datetime
    server_name: str
    ca_pem: str


@attrs.frozen(kw_only=True)
class PlannedNodes:
    """What ``plan`` would make of one group: ``price_per_hour`` for all ``count`` of them. ``holds``: requests of Ray's."""

    group: str
    count: int
    instance_type: str
    market_type: str
    zone: str
    price_per_hour: float
    reason: str = ""
    holds: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PlanPreview:
    """What applying a spec would make. ``price_per_hour``: of what would be made; ``_before`` and ``_after``: of the whole
    cluster; ``max_price_per_hour``: with every group at its maximum, of the dearest that will do for it. ``unmet``: what
    could not be, and why.
    """

    nodes: tuple[PlannedNodes, ...]
    price_per_hour: float
    max_price_per_hour: float
    price_per_hour_before: float
    price_per_hour_after: float
    unmet: tuple[str, ...]


class ControlPlane:
    """One control plane. Threads may share it; ``close`` it at the end."""

    def __init__(
        self, settings: Settings, *, registry: Registry | None = None, store: Store | None = None,
        clock: Clock | None = None, wrap: Wrap | None = None, on_call: Callable[[WireAction], object] | None = None,
    ) -> None:  # fmt: skip
        """``wrap`` replaces the standard layers; ``on_call`` hears of every driver call on the wire."""
        self.settings = settings
        self.clock = clock or SystemClock()
        self.registry = registry or Registry.load()
        self.store = store or _store(settings)
        self.id = PlaneId(self.store.meta("plane", mint("pln")))
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{mint('hld')[-6:]}"
        if settings.database is not None:
            share(settings.home / "keys", self.store.meta, now=self.clock.now(), issuer_key=settings.issuer_key)
        self.keys = KeyRing(
            settings.home / "keys", now=self.clock.now(), issuer=settings.issuer, issuer_key=settings.issuer_key
        )
        self.mailbox = Mailbox(plane=self.id, store=self.store, keys=self.keys, clock=self.clock)
        self.clouds = Clouds(
            plane=self.id, registry=self.registry, store=self.store, clock=self.clock, settings=settings,
            wrap=wrap or self._standard(on_call), mailbox=self.mailbox, keys=self.keys,
        )  # fmt: skip
        self.operators = Operators(
            plane=self.id, store=self.store, clouds=self.clouds, mailbox=self.mailbox, keys=self.keys, clock=self.clock,
            settings=settings,
        )  # fmt: skip
        self.foundations = Foundations(store=self.store, clouds=self.clouds, mailbox=self.mailbox, clock=self.clock)
        self.quotas = Quotas(store=self.store, clock=self.clock, every=settings.timing.sweep_ceiling)
        self.grants = Grants(clouds=self.clouds, clock=self.clock)
        self.heartbeats = Heartbeats(
            store=self.store,
            clouds=self.clouds,
            grants=self.grants,
            keys=self.keys,
            clock=self.clock,
            settings=settings,
        )
        self.reconciler = Reconciler(
            store=self.store, clouds=self.clouds, grants=self.grants, heartbeats=self.heartbeats, quotas=self.quotas,
            clock=self.clock, settings=settings,
        )  # fmt: skip
        self.collector = Collector(
            store=self.store, clouds=self.clouds, quotas=self.quotas, clock=self.clock, settings=settings
        )
        self._listeners: list[Callable[[], None]] = []
        self._attended: datetime | None = None
        self.attend()

    # -- clouds --------------------------------------------------------------------------------------------------------

    def register_cloud(self, spec: CloudSpec, *, actor: str) -> bool:
        """Register a cloud; return whether it is new. Raises SpecError with all faults, NameTaken."""
        is_new = self.foundations.register(spec)
        self._audit(actor, "cloud.register", spec.name)
        return is_new

    def set_up_cloud(self, name: str, *, actor: str) -> CloudStatus:
        """Make the next thing that a cloud's clusters share; return what there is then. Raises as ``Foundations.make``."""
        status = self.foundations.make(name)
        self._audit(actor, "cloud.setup", name)
        return status

    def delete_cloud(self, name: str, *, data: Data = Data.REFUSE, actor: str) -> CloudStatus | None:
        """Take away the next thing of a cloud; None when nothing is left. Raises as ``Foundations.take_down``."""
        self._audit(actor, "cloud.delete", name)
        return self.foundations.take_down(name, data=data)

    def operator_token(self, cloud: str, *, actor: str) -> OperatorToken:
        """Return a registration token for a cloud's operator. Raises UnknownName, SpecError for a cloud of another mode."""
        token = self.operators.token(cloud)
        self._audit(actor, "operator.token", cloud)
        return token

    def revoke_operator(self, cloud: str, *, actor: str) -> None:
        """Make all tokens and credentials of a cloud's operators worthless. Raises as ``operator_token``."""
        self.operators.revoke(cloud)
        self._audit(actor, "operator.revoke", cloud)

    # -- quotas --------------------------------------------------------------------------------------------------------

    def set_quota(self, spec: QuotaSpec, *, actor: str) -> bool:
        """Make or change a quota; return whether it is new. What runs goes on, also beyond it.

        Raises SpecError for a cloud that there is not: nothing would ever count against it.
        """
        self.clouds.check_name(spec.cloud, subject=f"quota {spec.name!r}")
        is_new = self.quotas.set(spec)
        self._audit(actor, "quota.set", spec.name)
        self.wake()
        return is_new

    def delete_quota(self, name: str, *, actor: str) -> QuotaSpec:
        """Forget a quota and return it; what it held back goes on at once. Raises UnknownName with the nearest name."""
        spec = self.quotas.delete(name)
        self._audit(actor, "quota.delete", name)
        self.wake()
        return spec

    # -- clusters ------------------------------------------------------------------------------------------------------

    def apply(self, spec: ClusterSpec, *, actor: str, job: JobSpec | None = None) -> ClusterRecord:
        """Record a wish: a new cluster, or a new generation of a live one of that name.

        Raises SpecError (what cannot be had in this cloud, or cannot be changed), UnknownName, PluginError, NameTaken.
        """
        now = self.clock.now()
        self.check(spec)
        live = self._live(spec.name)
        self._check_quotas(spec, live, actor)
        if live is None:
            purpose = WorkloadType.WORKSPACE if job is None else WorkloadType.JOB
            workload = Workload(user=actor, project=spec.project, type=purpose)
            record = ClusterRecord(
                id=ClusterId(mint("clu")), name=spec.name, cloud=spec.cloud, spec=spec, generation=1, goal=Goal.RUN,
                created_at=now, created_by=actor, phase_since=now,
                identity=identity_for(self.clouds.spec(spec.cloud), workload),
            )  # fmt: skip
            self.store.add_cluster(record, [self._job(record.id, job, now)] if job is not None else [])
            self._audit(actor, "cluster.create", spec.name)
            self._say(record.id, "cluster.created", f"{spec.name} was created by {actor}")
        else:
            self._change(live, spec, actor, now)
            if job is not None:
                self.store.add_job(self._job(live.id, job, now), now=now)
        self.wake()
        return self._required(spec.name)

    def check(self, spec: ClusterSpec) -> None:
        """Raise SpecError with everything that this cloud cannot give, UnknownName for a cloud that is not known."""
        cloud = self.clouds.get(spec.cloud)
        offerings = cloud.offerings()
        types = {offering.instance_type for offering in offerings}
        faults: list[Fault] = []
        shapes_by_path = {"head_node": spec.head_node} | {
            f"worker_nodes[{index}]": group for index, group in enumerate(spec.worker_nodes)
        }
        for path, shape in shapes_by_path.items():
            if shape.instance_type is not None and shape.instance_type not in types:
                hint = nearest(shape.instance_type, types) or f"; known: {', '.join(sorted(types))}"
                message = f"{spec.cloud} has no instance type {shape.instance_type!r}{hint}"
                faults.append(Fault(path=f"{path}.instance_type", message=message))
                continue
            fitting = shapes.offerings_that_fit(
                spec, shape, [attrs.evolve(offering, available=True) for offering in offerings],
                shortages=(), home_zone="", now=self.clock.now(),
            )  # fmt: skip
            if not fitting:
                faults.append(Fault(path=path, message=shapes.why_none(spec, shape, offerings, ())))
        if faults:
            raise SpecError(faults, subject=f"cluster {spec.name!r}")

    def terminate(self, name: str, *, actor: str, reason: str = "") -> ClusterRecord:
        """Record the wish that a cluster ends; ending what has ended changes nothing. Raises UnknownName."""
        record = self._required(name)
        if record.phase in CLUSTER_ENDED:
            return record
        why = reason or f"{actor} asked for it"
        if self.store.end_cluster(record.id, EndCause.REQUEST, why, now=self.clock.now()):
            self._audit(actor, "cluster.terminate", name)
            self._say(record.id, "cluster.ending", why)
        self.wake()
        return self._required(name)

    def status(self, name: str) -> ClusterStatus:
        """Return a live cluster, else the last one of that name. Raises UnknownName with the nearest name."""
        record = self._required(name)
        return ClusterStatus(record=record, nodes=self.store.statuses(record.id))

    def clusters(self) -> tuple[ClusterRecord, ...]:
        """Return the live clusters, oldest first."""
        found = (self.store.load(id) for id in self.store.names())
        return tuple(record for record in found if record is not None)

    def plan(self, spec: ClusterSpec, *, actor: str = "") -> PlanPreview:
        """Return what applying the spec would make now, and its price; nothing is recorded or made. Raises as apply.

        ``actor``: whose quotas a new cluster would count against, beside those of its cloud and project.
        """
        self.check(spec)
        cloud = self.clouds.get(spec.cloud)
        now = self.clock.now()
        live = self._live(spec.name)
        record = live or ClusterRecord(
            id=ClusterId("clu_planned"), name=spec.name, cloud=spec.cloud, spec=spec, generation=1, goal=Goal.RUN,
            created_at=now, created_by=actor, phase_since=now,
        )  # fmt: skip
        self._check_quotas(spec, live, actor)
        offerings = cloud.offerings()
        shortages = self.store.shortages(spec.cloud, now=now)
        quotas = cloud.quotas()
        wanted = attrs.evolve(record, spec=spec)
        observed = Observed(
            offerings=offerings, shortages=shortages, status=self.store.statuses(record.id),
            usage=self.quotas.usage_over(wanted), quotas=quotas.limits, quotas_at=quotas.read_at,
        )  # fmt: skip
        plan = diff(wanted, observed, now=now, timing=self.settings.timing)
        return _preview(spec, plan, offerings)

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def submit(self, name: str, spec: JobSpec, *, actor: str) -> Job:
        """Record a job for a live cluster; it is handed over once the cluster is RUNNING. Raises UnknownName."""
        live = self._live(name)
        if live is None:
            raise UnknownName(f"no live cluster {name!r}{nearest(name, list(self.store.names().values()))}")
        now = self.clock.now()
        job = self._job(live.id, spec, now)
        self.store.add_job(job, now=now)
        self._audit(actor, "job.submit", f"{name}/{job.id}")
        self.wake()
        return job

    def access(self, name: str, *, actor: str) -> ClusterAccess:
        """Return a token for a cluster's gateway. Raises UnknownName; SpecError while there is no way in yet."""
        record = self._required(name)
        if record.endpoint is None or not record.endpoint.url:
            why = f"{name} is {record.phase.value}: it has no endpoint now"
            raise SpecError([Fault(path="", message=why)], subject=name)
        now = self.clock.now()
        expires = now + self.settings.access_ttl
        token = self.keys.sign(GATEWAY_AUDIENCE, {"sub": record.id, "act": actor}, issued=now, expires=expires)
        self._audit(actor, "cluster.access", name)
        return ClusterAccess(
            url=record.endpoint.url, token=token, expires_at=expires,
            server_name=record.id.replace("_", "-"), ca_pem=self.keys.ca_pem,
        )  # fmt: skip

    def logs(self, name: str, *, actor: str) -> StoreAccess:
        """Return how to read a cluster's prefix in its bucket, also after its end. Raises UnknownName."""
        record = self._required(name)
        self._audit(actor, "cluster.logs", name)
        return self.grants.handed(record, Access.READ)

    def upload(self, cloud_name: str, *, actor: str) -> StoreAccess:
        """Return how to write working directories into a cloud's bucket. Raises UnknownName, CloudError."""
        cloud = self.clouds.get(cloud_name)
        grant = granted(cloud, PACKAGES, Access.WRITE, token=Token(f"grant-{cloud_name}-packages"))
        self._audit(actor, "cloud.upload", cloud_name)
        return grant.handed

    def events(self, name: str | None = None, *, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        """Return events in order; of one cluster, or of all. Raises UnknownName."""
        cluster_id = self._required(name).id if name is not None else None
        return self.store.events(cluster_id=cluster_id, after=after, limit=limit)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def register(self, registration: Registration) -> Registered:
        """Admit a node. Raises Refused."""
        registered = self.heartbeats.register(registration)
        self.wake()
        return registered

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        """Record a heartbeat and return orders, at once. Raises Refused."""
        orders = self.heartbeats.heartbeat(credential, heartbeat)
        self.wake()
        return orders

    def certify(self, credential: Secret[str], request: CertificateRequest) -> NodeCertificate:
        """Sign the certificate that a node's Ray shows to its cluster. Raises Refused, and SpecError for no such request."""
        bearer = self.heartbeats.identify(credential)
        record, _ = self.heartbeats.expected(bearer.node_id, bearer.cluster_id)
        authority = ClusterAuthority(self.keys, record.id, born=record.created_at)
        certificate = authority.certify(request, now=self.clock.now(), ttl=self.settings.timing.certificate_ttl)
        self._audit("node", "certify", bearer.node_id)
        return certificate

    # -- turns ---------------------------------------------------------------------------------------------------------

    def tick(self) -> int:
        """Do all that is due now, in this thread; return how many clusters were worked on."""
        self.notice_silence()
        worked = 0
        while self.work_once():
            worked += 1
            if worked >= 1000:
                break
        return worked

    def attend(self) -> None:
        """Say, at least every ``suspect_after``, that this process runs and can hear nodes.

        After its start, and after a longer time without (it was stopped, or the clock has jumped), no silence counts until
        the nodes have had the time to come back.
        """
        now = self.clock.now()
        if self._attended is None or now - self._attended > self.settings.timing.suspect_after:
            self.reconciler.listening_since = now + RETURN
        self._attended = now

    def notice_silence(self) -> int:
        """Make the clusters due in which a node has fallen silent; return how many."""
        self.operators.notice(listening_since=self.reconciler.listening_since)
        now = self.clock.now()
        before = now - self.settings.timing.suspect_after
        if before < self.reconciler.listening_since:
            return 0  # it would be noticed once, and count for nothing
        return self.store.notice_silence(before, now=now)

    def work_once(self) -> bool:
        """Do one thing that is due: have the grants that a node waits for, or take a cluster's lease and work on it.

        Returns False when nothing is due.
        """
        wanted = self.grants.wanted()
        if wanted is not None:
            self._fetch_grants(wanted)
            return True
        now = self.clock.now()
        lease = self.store.claim(self.holder, now=now, ttl=self.settings.lease_ttl)
        if lease is None:
            return False
        due: datetime | None = now + timedelta(seconds=5)  # should working on it fail in a way nobody foresaw
        try:
            due = self.reconciler.reconcile(lease)
        except LeaseLost:
            return True
        finally:
            self.store.release(lease, due_at=due)
            self.wake()
        return True

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` (from any thread) after every wish, report and turn that may have changed something."""
        self._listeners.append(listener)

    def close(self) -> None:
        self.clouds.close()
        self.store.close()

    def hear(self) -> None:
        """Another process has changed something: a cluster, an order, an outcome."""
        self.mailbox.hear()
        self.wake()

    def wake(self) -> None:
        """Tell the listeners that something may be due, or new for a node."""
        for listener in self._listeners:
            listener()

    # -- the plane's own -----------------------------------------------------------------------------------------------

    def _change(self, live: ClusterRecord, spec: ClusterSpec, actor: str, now: datetime) -> None:
        if live.goal is Goal.TERMINATE:
            why = "is being terminated; wait for its end or choose another name"
            raise SpecError([Fault(path="name", message=why)], subject=f"cluster {spec.name!r}")
        faults = [
            Fault(path=path, message="cannot be changed while the cluster is alive; take it down first")
            for path, differs in (
                ("cloud", spec.cloud != live.spec.cloud),
                ("project", spec.project != live.spec.project),
                ("head_node", spec.head_node != live.spec.head_node),
                ("image_uri", spec.image_uri != live.spec.image_uri),
                ("env_vars", spec.env_vars != live.spec.env_vars),
            )
            if differs
        ]
        if faults:
            raise SpecError(faults, subject=f"cluster {spec.name!r}")
        if spec == live.spec:
            return
        self.store.change_spec(live.id, spec, now=now)
        self._audit(actor, "cluster.change", spec.name)
        self._say(live.id, "cluster.changed", f"{spec.name} was changed by {actor}")

    def _fetch_grants(self, id: ClusterId) -> None:
        """Have what a cluster's nodes are told of its bucket; a node that still waits asks again."""
        record = self.store.load(id, history_from=self.clock.now())
        if record is None or record.goal is not Goal.RUN:
            return
        try:
            self.grants.ensure(record)
        except CloudError as error:
            log.warning("a grant could not be had; its nodes ask again", cluster=record.name, error=str(error))
            return
        self.store.touch(id, now=self.clock.now())  # a new version: nodes that are held are looked at again

    def _check_quotas(self, spec: ClusterSpec, live: ClusterRecord | None, actor: str) -> None:
        """Raise SpecError when what a spec needs at least could not exist under a hard quota even if nothing else did."""
        user = actor if live is None else live.created_by
        over = self.quotas.specs_over(cloud=spec.cloud, user=user, project=spec.project)
        hard = [quota for quota in over if quota.mode is QuotaMode.HARD]
        if not hard:
            return
        offerings, now = self.clouds.get(spec.cloud).offerings(), self.clock.now()
        had = {} if live is None else least(live.spec, offerings, now=now)
        faults = never(hard, least(spec, offerings, now=now), had=had)
        if faults:
            raise SpecError(faults, subject=f"cluster {spec.name!r}")

    def _job(self, cluster_id: ClusterId, spec: JobSpec, now: datetime) -> Job:
        id = JobId(mint("job"))
        return Job(
            id=id, cluster_id=cluster_id, spec=spec, phase=JobPhase.WAITING, attempt=1, submission_id=f"{id}-1",
            created_at=now,
        )  # fmt: skip

    def _live(self, name: str) -> ClusterRecord | None:
        id = self.store.find(name)
        record = self.store.load(id) if id is not None else None
        return record if record is not None and record.phase not in CLUSTER_ENDED else None

    def _required(self, name: str) -> ClusterRecord:
        id = self.store.find(name)
        record = self.store.load(id) if id is not None else None
        if record is None:
            raise UnknownName(f"no cluster {name!r}{nearest(name, self.store.known_names())}")
        return record

    def _standard(self, on_call: Callable[[WireAction], object] | None) -> Wrap:
        records = () if on_call is None else (Record(self.clock, on_call),)
        layers = standard(self.clock, self.clock.sleep, *records)
        # An operator retries by itself: repeating its outcomes would multiply the attempts.
        remote = (DeadlineLayer(self.clock), Trace(), *records)
        return lambda driver, cloud: layered(
            driver, *(remote if isinstance(driver, RemoteDriver) else layers), cloud=cloud
        )

    def _say(self, cluster_id: ClusterId, kind: str, message: str, **fields: Any) -> None:
        self.store.add_events(
            Event(at=self.clock.now(), kind=kind, message=message, cluster_id=cluster_id, fields=fields)
        )

    def _audit(self, actor: str, action: str, subject: str) -> None:
        self.store.add_audit(
            AuditRecord(at=self.clock.now(), actor=actor, action=action, subject=subject, outcome="allowed")
        )


def _store(settings: Settings) -> Store:
    if settings.database is None:
        return Store.at(settings.home / "plane.db")
    store = Store(settings.database)
    store.migrate()
    return store


def _preview(spec: ClusterSpec, plan: Plan, offerings: tuple[Offering, ...]) -> PlanPreview:
    nodes = tuple(
        PlannedNodes(
            group=action.group,
            count=action.count,
            instance_type=action.offering.instance_type,
            market_type=action.offering.market_type.value,
            zone=action.offering.zone,
            price_per_hour=action.offering.price_per_hour * action.count,
            reason=action.reason,
            holds=tuple(action.details.get("holds", ())),
        )
        for action in plan.actions
        if isinstance(action, CreateNodes)
    )
    most = 0.0
    for shape, count in [(spec.head_node, 1), *((group, group.max_nodes) for group in spec.worker_nodes)]:
        fitting = shapes.suitable(spec, shape, offerings, home_zone="")
        most += max((offering.price_per_hour for offering in fitting), default=0.0) * count
    return PlanPreview(
        nodes=nodes,
        price_per_hour=sum(node.price_per_hour for node in nodes),
        max_price_per_hour=most if spec.max_price_per_hour is None else min(most, spec.max_price_per_hour),
        price_per_hour_before=plan.price_per_hour,
        price_per_hour_after=plan.next_price_per_hour,
        unmet=plan.unmet,
    )
