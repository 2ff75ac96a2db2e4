"""What nodes hear and say: registration, heartbeats, orders. Writes node_status and the audit, nothing else."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from anyscale_core.clock import Clock
from anyscale_core.controlplane import beats
from anyscale_core.controlplane.beats import Said
from anyscale_core.controlplane.clouds import Clouds
from anyscale_core.controlplane.credentials import Bearer, Credentials, unproven
from anyscale_core.controlplane.grants import PACKAGES, Grants
from anyscale_core.controlplane.keys import JOIN, KeyRing
from anyscale_core.controlplane.rows import AuditRecord
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CloudError, Refused, Transient
from anyscale_core.models import wire
from anyscale_core.models.cluster import HeadRecovery
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.instance import Bootstrap, NodeKind
from anyscale_core.models.job import Job
from anyscale_core.models.node import (
    PROOF_AUDIENCE,
    Drain,
    DrainMode,
    GatewayConfig,
    GcsStorage,
    HeadAddress,
    HeadReport,
    Heartbeat,
    JobOrder,
    NodeConfig,
    NodeDrain,
    Orders,
    Package,
    RayStatus,
    Registered,
    Registration,
)
from anyscale_core.models.phases import CLUSTER_ENDED, JOB_ENDED, NODE_ENDED, NodePhase
from anyscale_core.models.records import ClusterRecord, NodeRecord, NodeStatus, Observed
from anyscale_core.models.secret import Secret
from anyscale_core.planning.candidates import PRESENT
from anyscale_core.planning.diff import current_head, head_report


@attrs.frozen(kw_only=True)
class View:
    """A cluster as its nodes are told of it: read once per version."""

    version: int
    record: ClusterRecord
    status: Mapping[NodeId, NodeStatus]
    nodes: Mapping[NodeId, NodeRecord]
    head: NodeRecord | None


@attrs.define(kw_only=True)
class Kept:
    """What is kept in memory of one live cluster; all of it can be had again."""

    view: View | None = None
    gateways: dict[NodeId, GatewayConfig] = attrs.field(factory=dict)
    ray_token: Secret[str] | None = None
    configs: dict[NodeId, tuple[NodeConfig, NodeConfig]] = attrs.field(factory=dict)
    """Configurations that were given: without their version, and with it."""


@attrs.frozen(kw_only=True)
class Taken:
    """A heartbeat that was recorded. ``version``: of its cluster when the orders were worked out; ``news``: as ``Heard``."""

    bearer: Bearer
    version: int
    orders: Orders
    news: bool


class Heartbeats:
    """The machine-facing half of the control plane. Threads may share it."""

    def __init__(
        self, *, store: Store, clouds: Clouds, grants: Grants, keys: KeyRing, clock: Clock, settings: Settings
    ) -> None:
        self._store, self._clouds, self._grants, self._keys = store, clouds, grants, keys
        self._clock, self._settings = clock, settings
        self.credentials = Credentials(keys, settings.credential_ttl)
        self._kept: dict[ClusterId, Kept] = {}

    # -- tokens --------------------------------------------------------------------------------------------------------

    def bootstrap(self, record: ClusterRecord, node: NodeRecord) -> Bootstrap:
        """Return what a node's instance is started with; equal for equal records, so that creates can be repeated."""
        claims = {"sub": node.id, "cluster": record.id, "name": node.name}
        cloud = self._clouds.get(record.cloud)
        return Bootstrap(
            url=self._settings.url,
            ca_pem=self._keys.ca_pem,
            node_id=node.id,
            join_token=self._keys.sign(
                JOIN, claims, issued=node.created_at, expires=node.created_at + self._settings.join_ttl
            ),
            identity_provider=cloud.prover,
            identity_settings=dict(cloud.spec.settings.get(cloud.prover, {})),
        )

    def ray_token(self, cluster_id: ClusterId) -> Secret[str]:
        """Return Ray's own token of a cluster: derived, so it is nowhere stored."""
        kept = self._kept.setdefault(cluster_id, Kept())
        if kept.ray_token is None:
            seed = self._keys.sign("anyscale-core/ray", {"sub": cluster_id}, issued=_DAWN, expires=_DAWN)
            kept.ray_token = Secret(hashlib.sha256(seed.reveal().encode()).hexdigest())
        return kept.ray_token

    # -- registration --------------------------------------------------------------------------------------------------

    def register(self, registration: Registration) -> Registered:
        """Turn a join token and a proof into a credential and a configuration.

        Raises Refused (forged, expired, foreign, replayed, unexpected, unproven), each refusal an audit record; Transient
        while there is no configuration to give.
        """
        now = self._clock.now()
        subject = "unknown"
        try:
            claims = self._keys.verify(JOIN, registration.join_token, now=now)
            subject = str(claims["sub"])
            node_id, cluster_id = NodeId(subject), ClusterId(str(claims["cluster"]))
            record, node = self.expected(node_id, cluster_id)
            self._prove(record, node, registration)
            self._admit(node_id, cluster_id, registration, now)
        except Refused as refusal:
            self._audit("register", subject, refusal)
            raise
        config = self._config(self._view(cluster_id, self._store.version(cluster_id)), node)
        if config is None:
            raise Transient("the control plane is not ready for this node yet; try again", reason="SERVER")
        credential, expires = self.credentials.issue(node_id, cluster_id, now=now)
        self._audit("register", node_id, None)
        return Registered(credential=credential, expires_at=expires, config=config)

    def expected(self, node_id: NodeId, cluster_id: ClusterId) -> tuple[ClusterRecord, NodeRecord]:
        """Return a node that may come, or is there. Raises Refused for one that is not expected (any more)."""
        record = self._store.load(cluster_id, history_from=self._clock.now())
        node = self._store.node(node_id)
        if record is None or node is None or node.cluster_id != cluster_id:
            raise Refused("foreign", "this control plane expects no such node")
        if node.phase in FORGOTTEN:
            raise Refused("unexpected", f"the node is {node.phase.value}: it is not expected any more")
        return record, node

    def _prove(self, record: ClusterRecord, node: NodeRecord, registration: Registration) -> None:
        cloud = self._clouds.get(record.cloud)
        if registration.proof.provider != cloud.prover:
            raise Refused("unproven", f"the proof is of {registration.proof.provider!r}, not of this cloud's provider")
        deadline = min(cloud.deadline(), self._clock.now() + PROVING)
        try:
            principal = cloud.identity.verify(registration.proof, audience=PROOF_AUDIENCE, deadline=deadline)
        except CloudError as error:
            raise unproven(error, "the node's proof") from error
        if principal.instance and principal.instance not in (node.name, node.instance_id):
            raise Refused("foreign", "the proof is about another instance")

    def _admit(self, node_id: NodeId, cluster_id: ClusterId, registration: Registration, now: datetime) -> None:
        nonce = hashlib.sha256(registration.nonce.reveal().encode()).hexdigest()
        status = NodeStatus(node_id=node_id, registered_at=now, seen_at=now)
        if self._store.register(status, cluster_id, nonce, now=now):
            return
        # The same agent repeats a lost answer; anybody else has stolen the token.
        if not hmac.compare_digest(self._store.nonce(node_id) or "", nonce):
            raise Refused("replayed", "the join token has been used already")

    # -- heartbeats ----------------------------------------------------------------------------------------------------

    def identify(self, credential: Secret[str]) -> Bearer:
        """Return whose credential this is. Raises Refused, with an audit record."""
        try:
            return self.credentials.verify(credential, now=self._clock.now())
        except Refused as refusal:
            self._audit("heartbeat", "unknown", refusal)
            raise

    def heartbeat(self, credential: Secret[str], beat: Heartbeat) -> Orders:
        """Record what a node says and return what it shall do. Raises Refused."""
        (taken,) = self.take([(self.identify(credential), beat)])
        if isinstance(taken, Exception):
            raise taken
        return taken.orders

    def take(self, said: Sequence[tuple[Bearer, Heartbeat]]) -> list[Taken | Exception]:
        """Record heartbeats in one transaction, and return what each node shall do, or what is wrong with its heartbeat.

        A cluster becomes due when one of its nodes says anything new.
        """
        now, timing = self._clock.now(), self._settings.timing
        batch = [Said(node_id=bearer.node_id, beat=beat) for bearer, beat in said]
        heard = beats.record(self._store, batch, now=now, timing=timing)
        out: list[Taken | Exception] = []
        for (bearer, beat), one in zip(said, heard, strict=True):
            try:
                if one is None:
                    raise Refused("foreign", "the node has never registered here")
                orders = self.orders(bearer, beat.config_version, version=one.version)
                out.append(Taken(bearer=bearer, version=one.version, orders=orders, news=one.news))
            except Refused as refusal:
                self._audit("heartbeat", bearer.node_id, refusal)
                out.append(refusal)
            except Exception as error:  # what is wrong with one node's orders is not the others' concern
                out.append(error)
        return out

    def orders(self, bearer: Bearer, config_version: str, *, version: int) -> Orders:
        """Return what a node shall do now; ``version``: its cluster's. Raises Refused."""
        view = self._view(bearer.cluster_id, version)
        node = view.nodes.get(bearer.node_id)
        if node is None or node.phase in FORGOTTEN:
            return FORGET
        config = self._config(view, node)
        fresh: Secret[str] | None = None
        expires: datetime | None = None
        now = self._clock.now()
        if self.credentials.is_aging(bearer, now=now):
            fresh, expires = self.credentials.issue(bearer.node_id, bearer.cluster_id, now=now)
        head = node if view.head is node else None
        return Orders(
            config=config if config is not None and config.version != config_version else None,
            drain=_drain(node),
            jobs=self._jobs(view, head) if head else (),
            stop_jobs=_stops(view, head) if head else (),
            drain_nodes=_node_drains(view) if head else (),
            unregister=_lost(view, head) if head else {},
            credential=fresh,
            credential_expires_at=expires,
        )

    # -- what they are told --------------------------------------------------------------------------------------------

    def _view(self, cluster_id: ClusterId, version: int) -> View:
        kept = self._kept.setdefault(cluster_id, Kept())
        if kept.view is not None and kept.view.version >= version:
            return kept.view
        # Read after its version: at worst it is newer than the number says, and is read again next time.
        record = self._store.load(cluster_id, history_from=self._clock.now() - self._settings.timing.history)
        if record is None:
            self.forget(cluster_id)
            raise Refused("foreign", "there is no such cluster here")
        view = kept.view = View(
            version=version, record=record, status=self._store.statuses(cluster_id),
            nodes={node.id: node for node in record.nodes}, head=current_head(record.nodes),
        )  # fmt: skip
        kept.configs = {id: known for id, known in kept.configs.items() if id in view.nodes}
        if record.phase in CLUSTER_ENDED:
            self.forget(cluster_id)
        return view

    def forget(self, cluster_id: ClusterId) -> None:
        """Drop what is kept of a cluster that has ended."""
        self._kept.pop(cluster_id, None)

    def _config(self, view: View, node: NodeRecord) -> NodeConfig | None:
        """Return a node's configuration; None while not all of it is at hand in this process (it is wanted then)."""
        record, timing = view.record, self._settings.timing
        store = self._grants.known(record, Access.WRITE)
        if store is None:
            self._grants.want(record.id)
            return None
        head, report = view.head, head_report(view.head, Observed(status=view.status))
        is_head = node.kind is NodeKind.HEAD
        address = report.gcs_address if report is not None else ""
        epoch: HeadAddress | None = None
        if is_head:
            epoch = HeadAddress(epoch=node.id, address="")
        elif head is not None and address:
            assert report is not None, "it gave the address"
            epoch = HeadAddress(epoch=head.id, address=address, ray_cluster_id=report.ray_cluster_id)
        config = NodeConfig(
            version="",
            cluster_id=record.id,
            cluster_name=record.name,
            node_id=node.id,
            instance_name=node.name,
            kind=node.kind,
            group=node.group,
            head=epoch,
            ray_token=self.ray_token(record.id),
            resources=node.resources,
            labels=node.labels,
            env_vars=self._env(record, node),
            store=store,
            heartbeat_interval=timing.heartbeat_interval,
            expected_workers=_expected_workers(record, node) if is_head else 0,
            gateway=self._gateway(node) if is_head else None,
            groups=_groups(record) if is_head else {},
            gcs_storage=_gcs_storage(record),
        )
        return self._versioned(config)

    def _versioned(self, config: NodeConfig) -> NodeConfig:
        """Return the configuration with its version, which is worked out once for equal ones."""
        kept = self._kept.setdefault(config.cluster_id, Kept()).configs
        before = kept.get(config.node_id)
        if before is None or before[0] != config:
            before = kept[config.node_id] = config, attrs.evolve(config, version=_digest(config))
        return before[1]

    def _env(self, record: ClusterRecord, node: NodeRecord) -> dict[str, str]:
        """Return the variables that every process of Ray sees, the spec's own last."""
        standard = {
            "ANYSCALE_CORE_CLUSTER_ID": record.id,
            "ANYSCALE_CORE_CLUSTER_NAME": record.name,
            "ANYSCALE_CORE_CLOUD": record.cloud,
            "ANYSCALE_CORE_NODE_ID": node.id,
            "ANYSCALE_CORE_NODE_GROUP": node.group,
        }
        return standard | dict(record.spec.env_vars)

    def _gateway(self, node: NodeRecord) -> GatewayConfig:
        kept = self._kept.setdefault(node.cluster_id, Kept()).gateways
        if node.id not in kept:
            certificate = self._keys.issue(node.cluster_id.replace("_", "-"), hosts=(), now=self._clock.now())
            kept[node.id] = GatewayConfig(
                cert_pem=certificate.cert_pem, key_pem=certificate.key_pem, token_key_pem=self._keys.public_pem
            )
        return kept[node.id]

    def _jobs(self, view: View, head: NodeRecord) -> tuple[JobOrder, ...]:
        orders = (
            self._job(view.record, job)
            for job in view.record.jobs
            if job.epoch == head.id and job.phase not in JOB_ENDED
        )
        return tuple(order for order in orders if order is not None)

    def _job(self, record: ClusterRecord, job: Job) -> JobOrder | None:
        package = None
        if job.spec.package is not None:
            store = self._grants.known(record, Access.READ, PACKAGES)
            if store is None:
                self._grants.want(record.id)
                return None
            package = Package(store=store, key=job.spec.package)
        return JobOrder(
            job_id=job.id,
            submission_id=job.submission_id,
            entrypoint=job.spec.entrypoint,
            env_vars=job.spec.env_vars,
            package=package,
            metadata=job.spec.metadata,
        )

    def _audit(self, action: str, subject: str, refusal: Refused | None) -> None:
        self._store.add_audit(
            AuditRecord(
                at=self._clock.now(),
                actor="node",
                action=action,
                subject=subject,
                outcome="allowed" if refusal is None else "refused",
                detail="" if refusal is None else f"{refusal.why}: {refusal}",
            )
        )


PROVING = timedelta(seconds=8)
"""How long the look at a node's proof may take: its agent waits for ten seconds, and others wait for the thread."""
FORGOTTEN = NODE_ENDED | {NodePhase.LOST, NodePhase.DELETING}
FORGET = Orders(forget=True)
_DAWN = datetime.fromisoformat("2020-01-01T00:00:00+00:00")


def _digest(config: NodeConfig) -> str:
    text = repr(wire.unstructure(attrs.evolve(config, gateway=None)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expected_workers(record: ClusterRecord, head: NodeRecord) -> int:
    """Return for how many workers the head's dashboard stands back: none when a job already waits for that dashboard."""
    if any(job.created_at <= head.created_at for job in record.jobs):
        return 0
    return sum(group.min_nodes for group in record.spec.worker_nodes)


def _groups(record: ClusterRecord) -> dict[str, Mapping[str, float]]:
    by_group = {node.group: node.resources for node in record.nodes if node.kind is NodeKind.WORKER}
    return {name: by_group[name] for name in sorted(by_group)}


def _gcs_storage(record: ClusterRecord) -> GcsStorage:
    if record.spec.head_recovery is not HeadRecovery.RESTART:
        return GcsStorage.MEMORY
    return GcsStorage.VOLUME if record.volume is not None else GcsStorage.NODE


def _drain(node: NodeRecord) -> Drain | None:
    if node.phase is not NodePhase.DRAINING or node.drain is None or node.drain_deadline is None:
        return None
    return Drain(mode=node.drain, deadline=node.drain_deadline)


def _stops(view: View, head: NodeRecord) -> tuple[str, ...]:
    """Return the submissions that were ended here while Ray may still run them."""
    reported = {job.submission_id: job for job in _report(view, head).jobs}
    return tuple(
        job.submission_id
        for job in view.record.jobs
        if job.phase in JOB_ENDED
        and job.submission_id in reported
        and reported[job.submission_id].phase not in JOB_ENDED
    )


def _node_drains(view: View) -> tuple[NodeDrain, ...]:
    """Return the drains that Ray has to be asked for; NOW is the node's own business."""
    out: list[NodeDrain] = []
    for node in view.record.nodes:
        status = view.status.get(node.id)
        order = _drain(node)
        if order is None or status is None or order.mode is DrainMode.NOW or node.kind is NodeKind.HEAD:
            continue
        if status.ray is RayStatus.ALIVE and status.ray_id:
            out.append(NodeDrain(ray_id=status.ray_id, mode=order.mode, deadline=order.deadline, reason=node.reason))
    return tuple(out)


def _lost(view: View, head: NodeRecord) -> dict[str, str]:
    """Return the nodes that Ray still believes in and that are lost: it is told at once."""
    believed = {ray.ray_id for ray in _report(view, head).ray_nodes if ray.status != "DEAD"}
    out: dict[str, str] = {}
    for node in view.record.nodes:
        status = view.status.get(node.id)
        given_up = node.phase not in PRESENT
        if status is not None and status.ray_id in believed and given_up and node.id != head.id:
            out[status.ray_id] = node.reason or "lost"
    return out


def _report(view: View, head: NodeRecord) -> HeadReport:
    status = view.status.get(head.id)
    return status.head if status is not None and status.head is not None else HeadReport(gcs_address="")
