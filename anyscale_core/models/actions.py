"""What a plan is made of. Each action is one thing to record and, for some, one call to a cloud."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import CloudError, told
from anyscale_core.models.ids import JobId, NodeId, Token
from anyscale_core.models.instance import NodeKind, Offering
from anyscale_core.models.node import DrainMode
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from anyscale_core.models.records import EndCause


@attrs.frozen(kw_only=True)
class MoveNode:
    """Record a node's new phase. ``instance_id`` when it became known; ``failure``: what the cloud has not got for it."""

    node_id: NodeId
    name: str
    to: NodePhase
    reason: str = ""
    instance_id: str | None = None
    failure: CloudError | None = attrs.field(default=None, eq=told)


@attrs.frozen(kw_only=True)
class CreateNodes:
    """Record ``count`` equal nodes and one token, then create their instances in one call."""

    kind: NodeKind
    group: str
    offering: Offering
    count: int
    shape: str
    zones: tuple[str, ...]
    reason: str
    details: Mapping[str, Any] = attrs.field(factory=dict)
    """What was decided, for events and plans: what the nodes hold, the price per hour before and after."""


@attrs.frozen(kw_only=True)
class RepeatCreate:
    """Make a recorded create call again, with its token: nobody knows its outcome."""

    token: Token
    reason: str


@attrs.frozen(kw_only=True)
class DrainNode:
    """Record that a node shall drain; it hears of it with its next heartbeat."""

    node_id: NodeId
    name: str
    mode: DrainMode
    deadline: datetime
    reason: str


@attrs.frozen(kw_only=True)
class DeleteNodes:
    """Record that these nodes are DELETING, then delete their instances in one call."""

    node_ids: tuple[NodeId, ...]
    names: tuple[str, ...]
    reason: str


@attrs.frozen(kw_only=True)
class Expose:
    """Record an endpoint and its token, then make it (again)."""

    target_address: str
    target_port: int


@attrs.frozen(kw_only=True)
class Revoke:
    """Take away what was granted at the cluster's own prefix of the bucket; what lies there stays."""


@attrs.frozen(kw_only=True)
class Withdraw:
    """Take the endpoint down."""

    name: str


@attrs.frozen(kw_only=True)
class DeleteVolume:
    """Delete the volume that the cluster's heads went on from."""

    name: str


@attrs.frozen(kw_only=True)
class EndCluster:
    """Change the goal to TERMINATE, for a cause that nobody asked for by hand."""

    cause: EndCause
    reason: str


@attrs.frozen(kw_only=True)
class MoveCluster:
    """Record the cluster's new phase or reason."""

    to: ClusterPhase
    reason: str


@attrs.frozen(kw_only=True)
class MoveJob:
    """Record what became of a job. ``epoch``: handed to this head; ``attempt``: the one it is about."""

    job_id: JobId
    to: JobPhase
    attempt: int
    epoch: str
    message: str = ""
    exit_code: int | None = None


@attrs.frozen(kw_only=True)
class Touch:
    """Record when work was last seen on the cluster."""

    active_at: datetime


@attrs.frozen(kw_only=True)
class Hold:
    """Record which quotas hold the cluster's growth back now, each with the reason; none: nothing does."""

    quotas: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Converge:
    """Record that this generation of the spec is met."""

    generation: int


Action = (
    MoveNode
    | CreateNodes
    | RepeatCreate
    | DrainNode
    | DeleteNodes
    | Expose
    | Withdraw
    | Revoke
    | DeleteVolume
    | EndCluster
    | MoveCluster
    | MoveJob
    | Touch
    | Hold
    | Converge
)


@attrs.frozen(kw_only=True)
class Plan:
    """What to do now, and when to look again.

    ``sweep_from``: before anything else is decided, the cloud must have been listed at or after this instant.
    ``unmet``: requests that no node could be started for, each with the reason and what would meet it.
    ``price_per_hour``: of the nodes that there are; ``next_price_per_hour``: with those that the actions start, without
    those that they drain.
    """

    actions: tuple[Action, ...] = ()
    sweep_from: datetime | None = None
    requeue_after: timedelta | None = None
    """None: nothing to wait for but a change."""
    unmet: tuple[str, ...] = ()
    price_per_hour: float = 0.0
    next_price_per_hour: float = 0.0
