"""What the control plane remembers, and what it sees: the inputs of every decision.

Records are written by one party each. Users write the wish (spec, goal); the reconciler writes nodes, jobs and status;
heartbeats write NodeStatus. So nobody overwrites another's word.
"""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.cluster import ClusterSpec, MarketType
from anyscale_core.models.ids import ClusterId, InstanceId, NodeId, Token
from anyscale_core.models.instance import Instance, NodeKind, Offering, Quota
from anyscale_core.models.job import Job
from anyscale_core.models.networking import Endpoint
from anyscale_core.models.node import DrainMode, HeadReport, RayStatus
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.models.quota import QuotaUsage
from anyscale_core.models.resources import Resources


class Goal(enum.Enum):
    RUN = "run"
    TERMINATE = "terminate"


class EndCause(enum.Enum):
    """Why a cluster was told to end."""

    NONE = ""
    REQUEST = "request"
    IDLE = "idle"
    UPTIME = "uptime"
    JOB_ENDED = "job_ended"
    FAILURE = "failure"
    """It cannot go on: the reason says why; the cluster ends FAILED."""


@attrs.frozen(kw_only=True)
class NodeRecord:
    """One node as recorded. ``name`` is also its instance's name. ``launch`` is the token of the batch it was made in.

    ``shape`` is the fingerprint of the part of the spec that it was made for: when that changes it is replaced.
    ``resources`` are what Ray on it is told, ``capacity`` what its instance has by the catalogue.
    """

    id: NodeId
    cluster_id: ClusterId
    name: str
    kind: NodeKind
    group: str
    phase: NodePhase
    phase_since: datetime
    created_at: datetime
    launch: Token
    shape: str
    instance_type: str
    market_type: MarketType
    zone: str
    price_per_hour: float
    resources: Resources
    labels: Mapping[str, str]
    capacity: Resources = attrs.field(factory=dict)
    instance_id: InstanceId | None = None
    ready_at: datetime | None = None
    """When it was READY first; None: never."""
    drain: DrainMode | None = None
    drain_deadline: datetime | None = None
    reason: str = ""


@attrs.frozen(kw_only=True)
class NodeStatus:
    """What a node last said of itself; written by registration and heartbeats alone."""

    node_id: NodeId
    registered_at: datetime
    seen_at: datetime
    seq: int = 0
    ray: RayStatus = RayStatus.WAITING
    ray_id: str = ""
    epoch: str = ""
    detail: str = ""
    config_version: str = ""
    renew_at: datetime | None = None
    """When its Ray's certificate should be replaced."""
    head: HeadReport | None = None


@attrs.frozen(kw_only=True)
class Launch:
    """A batch of nodes that was recorded before the cloud heard of it. The same call is repeated until it is answered."""

    token: Token
    node_ids: tuple[NodeId, ...]
    recorded_at: datetime
    attempts: int = 0
    retry_at: datetime | None = None
    """Not to be repeated before; None: not answered and due at once."""
    called_until: datetime | None = None
    """No call of this batch is under way after this instant (the deadline of the last one)."""
    error: str = ""


@attrs.frozen(kw_only=True)
class EndpointRecord:
    """The way in to the cluster's head: recorded before it is made, gone only when the cloud says so."""

    name: str
    token: Token
    target: str
    """``address:port`` that it was made for."""
    tried_at: datetime
    """When it was last asked for; a PENDING one is asked for again."""
    url: str = ""
    withdrawn_at: datetime | None = None
    """When it was last told to go."""


@attrs.frozen(kw_only=True)
class VolumeRecord:
    """What outlives a cluster's head: recorded before the create that makes it, gone only when the cloud says so."""

    name: str
    deleted_at: datetime | None = None
    """When it was last told to go."""


@attrs.frozen(kw_only=True)
class ClusterRecord:
    """One cluster: the wish, how far it is met, and all that belongs to it (ended nodes only for a while)."""

    id: ClusterId
    name: str
    cloud: str
    spec: ClusterSpec
    generation: int
    goal: Goal
    created_at: datetime
    created_by: str = ""
    identity: str = ""
    """The name of the mapped identity that its nodes run as; empty: the one that the cloud's clusters share."""
    end_cause: EndCause = EndCause.NONE
    end_reason: str = ""
    # written by the reconciler
    observed_generation: int = 0
    phase: ClusterPhase = ClusterPhase.STARTING
    phase_since: datetime
    reason: str = ""
    running_at: datetime | None = None
    active_at: datetime | None = None
    """When work was last seen on it."""
    ended_at: datetime | None = None
    held_by: tuple[str, ...] = ()
    """Names of the quotas that hold its growth back, sorted."""
    endpoint: EndpointRecord | None = None
    revoking_at: datetime | None = None
    """When taking its grants away was last tried."""
    revoked: bool = False
    """At its end: nothing is granted at its prefix of the bucket any more."""
    volume: VolumeRecord | None = None
    """Where its heads keep what their GCS knows: recorded before the first create that names it, until it is seen gone."""
    nodes: tuple[NodeRecord, ...] = ()
    launches: tuple[Launch, ...] = ()
    """Those that are not answered yet."""
    jobs: tuple[Job, ...] = ()


@attrs.frozen(kw_only=True)
class Shortage:
    """Something that the cloud has refused lately: not asked for again before ``until``. Empty fields match anything."""

    instance_type: str = ""
    zone: str = ""
    market_type: MarketType | None = None
    until: datetime
    reason: str
    fatal: bool = False
    """Somebody has to change something first: no other offering will do."""

    def covers(self, offering: Offering, *, now: datetime) -> bool:
        """Tell whether the offering is quarantined by this at ``now``."""
        return (
            now < self.until
            and self.instance_type in ("", offering.instance_type)
            and self.zone in ("", offering.zone)
            and self.market_type in (None, offering.market_type)
        )


@attrs.frozen(kw_only=True)
class Observed:
    """What is seen of one cluster. ``swept_at``: when the list call that ``instances`` come from began; None: never."""

    instances: Mapping[str, Instance] = attrs.field(factory=dict)
    """By name; of this cluster alone."""
    swept_at: datetime | None = None
    status: Mapping[NodeId, NodeStatus] = attrs.field(factory=dict)
    offerings: tuple[Offering, ...] = ()
    quotas: tuple[Quota, ...] = ()
    quotas_at: datetime | None = None
    """When ``quotas`` were read."""
    shortages: tuple[Shortage, ...] = ()
    usage: tuple[QuotaUsage, ...] = ()
    """Of the hard quotas over this cluster."""
    endpoint: Endpoint | None = None
    endpoint_known: bool = False
    """Whether ``endpoint`` was looked for at ``swept_at``; when not, None means nothing."""
    listening_since: datetime | None = None
    """Since when the control plane can hear nodes (None: always): no silence and no idleness counts from before."""


@attrs.frozen(kw_only=True)
class Timing:
    """Every duration that a decision depends on. docs/settings.md says when to change one."""

    heartbeat_interval: timedelta = timedelta(seconds=1)
    suspect_after: timedelta = timedelta(seconds=4)
    """Silence until a node is SUSPECT."""
    lost_after: timedelta = timedelta(seconds=12)
    """Silence until it is LOST, if its instance still runs; an instance seen gone is LOST at once."""
    down_grace: timedelta = timedelta(milliseconds=300)
    """From SUSPECT to LOST when the agent itself says that Ray is down."""
    boot_timeout: timedelta = timedelta(minutes=10)
    """From the create to the registration."""
    ray_timeout: timedelta = timedelta(minutes=3)
    """From the registration (or a new head) to Ray ALIVE."""
    list_window: timedelta = timedelta(seconds=0)
    """How long a list may miss what exists; taken from the provider's capabilities."""
    drain_timeout: timedelta = timedelta(minutes=5)
    """GRACEFUL and IDLE drains."""
    stop_timeout: timedelta = timedelta(seconds=20)
    """NOW drains: stopping Ray and putting logs away."""
    call_timeout: timedelta = timedelta(seconds=60)
    """One driver call, with its retries."""
    poll: timedelta = timedelta(milliseconds=250)
    """How often a changing cluster is looked at."""
    sweep_floor: timedelta = timedelta(milliseconds=500)
    """Sweeps of one cloud are at least this far apart."""
    sweep_ceiling: timedelta = timedelta(seconds=30)
    """And at most this far, while anything runs in it."""
    delete_again: timedelta = timedelta(seconds=10)
    """When a delete that has not ended is said again."""
    settle: timedelta = timedelta(seconds=1)
    """Ray shows demand in two steps; before the second only one node is started for it."""
    failure_backoff: timedelta = timedelta(seconds=2)
    """After a node of a group that never got READY; doubles with each further one, up to five minutes."""
    start_attempts: int = 5
    """Nodes of one group that may fail to start, one after the other, before a STARTING cluster gives up."""
    certificate_ttl: timedelta = timedelta(days=30)
    """What a node's Ray shows to the others of its cluster; after two thirds of it that Ray is replaced."""
    operator_silence: timedelta = timedelta(seconds=30)
    """How long an operator may not ask for orders until its cloud is DISCONNECTED, and another replica may lead."""
    history: timedelta = timedelta(minutes=30)
    """How long ended nodes are kept."""
