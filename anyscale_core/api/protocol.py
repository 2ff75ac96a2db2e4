"""What people and scripts say to the service and hear from it: the bodies of the user-facing routes.

What nodes say is ``models.node``. Every body goes through ``models.wire``: durations as ``x_s`` in seconds, instants in ISO 8601.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import Fault
from anyscale_core.models.cloud import CloudMode
from anyscale_core.models.cluster import ClusterSpec, MarketType
from anyscale_core.models.identity import Identity
from anyscale_core.models.ids import ClusterId, JobId, NodeId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.job import JobSpec
from anyscale_core.models.node import RayStatus
from anyscale_core.models.order import OperatorView
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.records import EndCause, Goal
from anyscale_core.models.secret import Secret

PROBLEM = "application/problem+json"
MAX_BODY = 4 * 1024 * 1024
"""Bytes; a larger body is refused."""
MAX_REPORT = 64 * 1024 * 1024
"""Bytes of an operator's report: a list of many thousand instances is one outcome."""
MAX_WAIT = timedelta(seconds=30)
"""The longest that an answer is held."""


@attrs.frozen(kw_only=True)
class ApplyRequest:
    """A cluster that is wanted, and a job to run on it once it is up.

    The faults of a refused one are named from the spec (``head_node.instance_type``), those of the job below ``job``.
    """

    spec: ClusterSpec
    job: JobSpec | None = None


@attrs.frozen(kw_only=True)
class NodeView:
    """One node. ``address`` as the last sweep of the cloud saw it; ``ray`` as its agent last said, None before it did."""

    name: str
    id: NodeId
    group: str
    kind: NodeKind
    phase: NodePhase
    instance_type: str
    market_type: MarketType
    zone: str
    address: str = ""
    price_per_hour: float
    ray: RayStatus | None = None
    reason: str = ""
    created_at: datetime
    ready_at: datetime | None = None


@attrs.frozen(kw_only=True)
class JobView:
    """One job. ``submission_id`` is Ray's name for the present attempt."""

    id: JobId
    phase: JobPhase
    attempt: int
    submission_id: str
    entrypoint: str
    message: str = ""
    exit_code: int | None = None
    created_at: datetime
    ended_at: datetime | None = None


@attrs.frozen(kw_only=True)
class ClusterView:
    """One cluster: the wish, how far it is met, and what belongs to it. ``price_per_hour``: of the nodes there are now."""

    id: ClusterId
    name: str
    cloud: str
    phase: ClusterPhase
    reason: str = ""
    goal: Goal
    generation: int
    observed_generation: int
    created_at: datetime
    created_by: str = ""
    identity: str = ""
    """The mapped identity that its nodes run as; empty: the one that the cloud's clusters share."""
    running_at: datetime | None = None
    ended_at: datetime | None = None
    end_cause: EndCause = EndCause.NONE
    price_per_hour: float
    held_by: tuple[str, ...] = ()
    """The quotas that hold its growth back."""
    endpoint: str = ""
    """The URL of its gateway; empty while there is none. ``access`` gives a token for it."""
    nodes: tuple[NodeView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    spec: ClusterSpec


@attrs.frozen(kw_only=True)
class EventView:
    """One thing that happened. Ids grow; ``level``: INFO, WARNING or ERROR; ``cluster``: its id, empty for the plane's own."""

    id: int
    at: datetime
    kind: str
    level: str
    message: str
    cluster: str = ""
    node: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AuditView:
    """Who did what to what. ``outcome``: ``allowed`` or ``refused``."""

    at: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    detail: str = ""


@attrs.frozen(kw_only=True)
class ProviderView:
    """One provider plugin as it was found. ``broken`` says why it cannot be used; empty for a sound one."""

    name: str
    distribution: str
    version: str
    contract: str = ""
    summary: str = ""
    slots: tuple[str, ...] = ()
    supported: tuple[str, ...] = ()
    emulated: Mapping[str, str] = attrs.field(factory=dict)
    """Capability id to how it is done."""
    unsupported: Mapping[str, str] = attrs.field(factory=dict)
    """Capability id to why not."""
    broken: str = ""


@attrs.frozen(kw_only=True)
class ResourceView:
    """One thing that a cloud's clusters share (network, bucket, identity). ``id``: the vendor's; empty until it is made."""

    kind: str
    name: str
    id: str = ""
    adopted: bool = False


@attrs.frozen(kw_only=True)
class CloudView:
    """One cloud. ``slots``: the provider that fills each. Of its settings only the names are shown: values may be secret.

    ``missing``: kinds of what its clusters share that are not made yet; ``ends``: it is being taken down.
    """

    name: str
    provider: str
    region: str = ""
    mode: CloudMode = CloudMode.DIRECT
    slots: Mapping[str, str] = attrs.field(factory=dict)
    settings: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    operator: OperatorView | None = None
    """Of a cloud of mode operator."""
    registered: bool = True
    """False: a provider's default cloud that no cluster has used yet, or one that is gone."""
    resources: tuple[ResourceView, ...] = ()
    identities: tuple[Identity, ...] = ()
    """Those that are made, of what its nodes run as; its own first."""
    missing: tuple[str, ...] = ()
    ends: bool = False


@attrs.frozen(kw_only=True)
class LimitView:
    """One limit of a quota. ``path``: its field (``resources.CPU``); ``budget``: what was spent in this period."""

    path: str
    used: float
    limit: float


@attrs.frozen(kw_only=True)
class QuotaView:
    """One quota and its usage now. ``holds``: the clusters that it holds back; ``renews_at``: when its budget does."""

    quota: QuotaSpec
    limits: tuple[LimitView, ...] = ()
    holds: tuple[str, ...] = ()
    renews_at: datetime | None = None


@attrs.frozen(kw_only=True)
class PlannedNodesView:
    """What would be made of one group: ``price_per_hour`` for all ``count`` of them, why, and which requests they hold."""

    group: str
    count: int
    instance_type: str
    market_type: str
    zone: str
    price_per_hour: float
    reason: str = ""
    holds: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PlanView:
    """What applying a spec would make now. ``price_per_hour``: of what would be made; ``_before`` and ``_after``: of the
    whole cluster. ``unmet``: what could not be, and why."""

    nodes: tuple[PlannedNodesView, ...] = ()
    price_per_hour: float
    max_price_per_hour: float
    price_per_hour_before: float = 0.0
    price_per_hour_after: float = 0.0
    unmet: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class AccessView:
    """A way in to a cluster's dashboard and Jobs API: present ``token`` as Bearer, over TLS verified by ``ca_pem`` alone
    against the name ``server_name``."""

    url: str
    token: Secret[str]
    expires_at: datetime
    server_name: str
    ca_pem: str


@attrs.frozen(kw_only=True)
class HealthView:
    """That the service answers, and which version it is of."""

    status: str = "ok"
    version: str


@attrs.frozen(kw_only=True)
class StopView:
    """The process that will end."""

    pid: int


@attrs.frozen(kw_only=True)
class Problem:
    """Why a request was not carried out (RFC 9457). ``type`` ends in the class of the error; see docs/errors.md.

    ``faults``: everything that is wrong with the body. ``error``: the whole record of a cloud's error. ``why``: the word of
    a refusal. ``id``: of an internal error, to be found in the service's log.
    """

    type: str
    title: str
    status: int
    detail: str
    subject: str = ""
    faults: tuple[Fault, ...] = ()
    category: str = ""
    reason: str = ""
    hint: str = ""
    why: str = ""
    name: str = ""
    error: Mapping[str, Any] = attrs.field(factory=dict)
    id: str = ""
