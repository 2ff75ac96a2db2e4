"""What nodes and the control plane say to each other. Carried by ``api``; understood by ``node`` and ``controlplane``.

One route registers, one route is the heartbeat: status, Ray demand and job state go up; configuration, drains, jobs and
a fresh credential come down.
"""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.identity import Proof
from anyscale_core.models.ids import ClusterId, JobId, NodeId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.phases import JobPhase
from anyscale_core.models.resources import Resources
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess

PROOF_AUDIENCE = "anyscale-core/register"
"""What a node's proof must be made for."""

GATEWAY_AUDIENCE = "anyscale-core/gateway"


@attrs.frozen(kw_only=True)
class Registration:
    """First words of a node. ``nonce`` is made by the agent once and kept: the same one may repeat a lost answer, another
    one with the same join token is a replay."""

    join_token: Secret[str]
    nonce: Secret[str]
    proof: Proof
    agent_version: str


@attrs.frozen(kw_only=True)
class CertificateRequest:
    """A node asks for the certificate that its Ray shows. ``csr_pem``: PKCS #10; the key stays on the node.

    Only the IP addresses of its subject alternative names are taken over.
    """

    csr_pem: str


@attrs.frozen(kw_only=True)
class NodeCertificate:
    """A certificate of the cluster's own authority, and that authority's: whoever shows another is a stranger to the cluster."""

    cert_pem: str
    ca_pem: str
    issued_at: datetime
    expires_at: datetime

    def after(self, part: float) -> datetime:
        """Return when this part (0 to 1) of its life is over."""
        return self.issued_at + (self.expires_at - self.issued_at) * part


class GcsStorage(enum.Enum):
    """Where a head's GCS keeps what it knows: nodes, actors, placement groups, jobs."""

    MEMORY = "memory"
    """Nowhere: it is gone with the process."""
    NODE = "node"
    """In the node's own folder: it outlives Ray on the node, and the agent starts Ray on it again."""
    VOLUME = "volume"
    """On a volume that outlives the instance too: the next head goes on from it."""


@attrs.frozen(kw_only=True)
class HeadAddress:
    """Where the Ray that a node belongs to lives. A new ``epoch`` is a new head: Ray is stopped and started to join it."""

    epoch: str
    address: str
    """``host:port`` of the GCS; empty in the head's own configuration, where the agent chooses the port."""
    ray_cluster_id: str = ""
    """Hex, what Ray calls this cluster: a node whose Ray belongs to it at this address already need not start it again."""


@attrs.frozen(kw_only=True)
class GatewayConfig:
    """The gateway on a head: TLS with this certificate, open to tokens that this key signed.

    Tokens are JWTs (Ed25519, RFC 9864): ``aud`` is GATEWAY_AUDIENCE, ``sub`` the cluster id, ``exp`` in the future.
    """

    cert_pem: str
    key_pem: Secret[str]
    token_key_pem: str
    """The control plane's public key (Ed25519, PEM)."""


@attrs.frozen(kw_only=True)
class NodeConfig:
    """All that an agent needs to start Ray. ``version`` changes whenever anything in it does."""

    version: str
    cluster_id: ClusterId
    cluster_name: str
    node_id: NodeId
    instance_name: str
    kind: NodeKind
    group: str
    head: HeadAddress | None
    """None while the cluster's head is not ready: wait."""
    ray_token: Secret[str]
    """Ray's own cluster token (RAY_AUTH_TOKEN)."""
    resources: Resources
    labels: Mapping[str, str]
    env_vars: Mapping[str, str]
    store: StoreAccess
    """The cluster's prefix in its bucket: ``logs/<instance name>/`` and ``jobs/<submission id>.log`` go below it."""
    heartbeat_interval: timedelta
    expected_workers: int = 0
    """Head: how many workers start with it. Its dashboard waits for them a moment, so as not to slow them down."""
    gateway: GatewayConfig | None = None
    """Head: how to run the gateway in front of its dashboard and job port."""
    gcs_storage: GcsStorage = GcsStorage.MEMORY
    """Head: whether its Ray is started again when it dies. Worker: whether its Ray is worth keeping while there is no head."""
    groups: Mapping[str, Resources] = attrs.field(factory=dict)
    """Head: what one node of each worker group brings; told to Ray so that its own tools can show it."""


@attrs.frozen(kw_only=True)
class Registered:
    """The answer to a registration."""

    credential: Secret[str]
    expires_at: datetime
    config: NodeConfig


class RayStatus(enum.Enum):
    """What an agent says of the Ray on its node."""

    WAITING = "waiting"
    """For a head to join."""
    STARTING = "starting"
    ALIVE = "alive"
    DOWN = "down"
    """It ran and is gone, or would not start: ``detail`` says why."""
    STOPPED = "stopped"
    """Drained and stopped as asked; logs are in the bucket."""


@attrs.frozen(kw_only=True)
class Demand:
    """``count`` equal requests that Ray cannot place now. ``labels``: Ray's label selectors (``x``, ``!in(x,y)``) by key."""

    resources: Resources
    count: int = 1
    labels: Mapping[str, str] = attrs.field(factory=dict)


class GangStrategy(enum.Enum):
    """Ray's placement-group strategies."""

    PACK = "PACK"
    SPREAD = "SPREAD"
    STRICT_PACK = "STRICT_PACK"
    STRICT_SPREAD = "STRICT_SPREAD"


@attrs.frozen(kw_only=True)
class Gang:
    """Bundles that start whole or not at all: a pending placement group."""

    bundles: tuple[Demand, ...]
    strategy: GangStrategy = GangStrategy.PACK


@attrs.frozen(kw_only=True)
class RayNode:
    """One node as Ray's GCS sees it. ``instance_name`` is what we started it with (RAY_CLOUD_INSTANCE_ID)."""

    ray_id: str
    """Hex."""
    instance_name: str
    status: str
    """RUNNING, IDLE, DRAINING or DEAD."""
    idle: timedelta
    total: Resources
    available: Resources


@attrs.frozen(kw_only=True)
class JobReport:
    """One submitted job as Ray's Jobs API shows it."""

    submission_id: str
    phase: JobPhase
    message: str = ""
    exit_code: int | None = None


class DrainAnswer(enum.Enum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """Ray has given it work since: it is no longer idle."""


@attrs.frozen(kw_only=True)
class HeadReport:
    """What only the head can say. ``demand_age``: how long the same demand has stood (Ray reports it in two steps)."""

    gcs_address: str
    ray_cluster_id: str = ""
    gateway_port: int = 0
    """Where the gateway listens on the head's address; 0 while it does not."""
    demand: tuple[Demand, ...] = ()
    gangs: tuple[Gang, ...] = ()
    constraints: tuple[Demand, ...] = ()
    """``request_resources()``: to be held, whether used or not."""
    demand_age: timedelta = timedelta()
    ray_nodes: tuple[RayNode, ...] = ()
    jobs: tuple[JobReport, ...] = ()
    drains: Mapping[str, DrainAnswer] = attrs.field(factory=dict)
    """By ray id: answers to ``Orders.drain_nodes``; repeated until the order is no longer given."""


@attrs.frozen(kw_only=True)
class Heartbeat:
    """Status up. ``wait``: how long the control plane may hold the answer while it has nothing to say.

    ``seq`` grows by one with each; an older one that arrives late is not believed.
    """

    seq: int
    wait: timedelta
    config_version: str
    epoch: str
    """The head epoch that the Ray on this node belongs to; empty before there is one."""
    ray: RayStatus
    ray_id: str = ""
    detail: str = ""
    renew_at: datetime | None = None
    """When the certificate of the Ray on this node should be replaced; Ray reads it once, so by another Ray."""
    head: HeadReport | None = None


class DrainMode(enum.Enum):
    IDLE = "idle"
    """Only if it is idle: Ray may refuse."""
    GRACEFUL = "graceful"
    """Finish what runs until the deadline."""
    NOW = "now"
    """Stop Ray at once; logs are still put away."""


@attrs.frozen(kw_only=True)
class Drain:
    """Orders one node to stop Ray, put its logs away and report STOPPED."""

    mode: DrainMode
    deadline: datetime


@attrs.frozen(kw_only=True)
class NodeDrain:
    """Orders the head to ask Ray to drain a node."""

    ray_id: str
    mode: DrainMode
    deadline: datetime
    reason: str


@attrs.frozen(kw_only=True)
class Package:
    """A zip of the user's folder: ``key`` below ``store``."""

    store: StoreAccess
    key: str


@attrs.frozen(kw_only=True)
class JobOrder:
    """Orders the head to have a job running in Ray. ``submission_id`` makes a repeat harmless."""

    job_id: JobId
    submission_id: str
    entrypoint: str
    env_vars: Mapping[str, str] = attrs.field(factory=dict)
    package: Package | None = None
    """The job's working directory; None runs it in the head's own."""
    metadata: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Orders:
    """Orders down. All of it is idempotent and repeated until the heartbeat shows that it was done."""

    config: NodeConfig | None = None
    """Only when it differs from the heartbeat's ``config_version``."""
    drain: Drain | None = None
    jobs: tuple[JobOrder, ...] = ()
    stop_jobs: tuple[str, ...] = ()
    """Submission ids."""
    drain_nodes: tuple[NodeDrain, ...] = ()
    unregister: Mapping[str, str] = attrs.field(factory=dict)
    """By ray id: nodes that are lost, and why; Ray is told at once instead of finding out by itself."""
    credential: Secret[str] | None = None
    credential_expires_at: datetime | None = None
    forget: bool = False
    """The node is no longer known: stop Ray and exit."""
