"""What a cluster driver is asked for and what it shows: specs, instances, outcomes, offerings, quotas."""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import CloudError, told
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Identity
from anyscale_core.models.ids import InstanceId, NodeId
from anyscale_core.models.owner import Owner
from anyscale_core.models.resources import Resources
from anyscale_core.models.secret import Secret


class NodeKind(enum.Enum):
    HEAD = "head"
    WORKER = "worker"


class InstanceState(enum.Enum):
    """What the cloud says of an instance. One that is gone is not listed at all."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    """It exists and does not run: the Ray on it is lost, the resource is not."""
    DELETING = "deleting"


@attrs.frozen(kw_only=True)
class Bootstrap:
    """All that a fresh instance knows: where the control plane is, how to trust it, and what proves it was expected."""

    url: str
    """``https://host:port`` of the control plane."""
    ca_pem: str
    """The certificate authority that signed the control plane's certificate."""
    node_id: NodeId
    join_token: Secret[str]
    """Good once, for this node of this cluster, until it expires."""
    identity_provider: str
    """The provider whose identity driver proves the node (``prove``)."""
    identity_settings: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class InstanceSpec:
    """One instance that is wanted. ``name`` is minted by the core, unique per owner, at most 63 characters of a DNS label.

    ``zones``: acceptable zones in order of preference, empty for any. ``resources`` and ``labels`` are what Ray on it will
    be told. ``network``, ``identity`` are the names of what the cloud's other drivers made; ``bound_identity`` is that
    identity itself where another provider made it, with the account to run as and its binding. ``volume`` names a folder on the
    instance (handed to the agent as ``--volume``) that outlives it: made with the first instance that names it, attached to
    the next, which gets the address of the one before if that is free. One instance at a time has it.
    """

    name: str
    node_id: NodeId
    owner: Owner
    kind: NodeKind
    group: str
    instance_type: str
    market_type: MarketType = MarketType.ON_DEMAND
    zones: tuple[str, ...] = ()
    image_uri: str | None = None
    resources: Resources = attrs.field(factory=dict)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    network: str | None = None
    identity: str | None = None
    bound_identity: Identity | None = None
    volume: str | None = None
    bootstrap: Bootstrap | None = None
    advanced_instance_config: Mapping[str, Any] = attrs.field(factory=dict)
    tags: Mapping[str, str] = attrs.field(factory=dict)


class NoticeKind(enum.Enum):
    REBALANCE = "rebalance"
    """The cloud expects to take it back; nothing is decided yet."""
    PREEMPTION = "preemption"
    """The cloud takes it back at ``at``."""
    MAINTENANCE = "maintenance"


@attrs.frozen(kw_only=True)
class Notice:
    """A warning of the cloud about an instance that still runs."""

    kind: NoticeKind
    at: datetime | None = None


@attrs.frozen(kw_only=True)
class Instance:
    """An instance as the cloud shows it now. Equal to what ``get`` of its id returns."""

    id: InstanceId
    name: str
    node_id: NodeId | None
    owner: Owner
    instance_type: str
    state: InstanceState
    market_type: MarketType = MarketType.ON_DEMAND
    zone: str = ""
    address: str = ""
    """The address that the other nodes of the cluster reach it at; empty until it has one."""
    created_at: datetime | None = None
    notice: Notice | None = None
    reason: str = ""
    """Why it does not run, in the cloud's words."""
    failure: CloudError | None = attrs.field(default=None, eq=told)
    """Of one that was accepted and will never run: what its create would have raised, had the cloud known it then."""
    tags: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Created:
    """The instance exists, or is coming and will be listed."""

    instance: Instance


@attrs.frozen(kw_only=True, eq=False)
class NotCreated:
    """This item of the batch was not made; the others may have been."""

    name: str
    error: CloudError


Outcome = Created | NotCreated
"""One per item of a batch, in the batch's order."""


class Deletion(enum.Enum):
    """How far a delete has come. Deleting what is gone succeeds, and says so."""

    GOING = "going"
    GONE = "gone"
    ALREADY_ABSENT = "already_absent"


@attrs.frozen(kw_only=True)
class Offering:
    """Type x zone x market x price: one thing that the cloud sells.

    ``price_per_hour`` in the catalogue's currency; ``resources`` are what Ray would see by default (CPU, GPU, memory in
    bytes, ``accelerator_type:X``); listed even while unavailable. ``startup`` is how long from create to READY, expected.
    ``takes``: how much of each quota (by metric) one instance takes; empty where the provider does not know.
    """

    instance_type: str
    zone: str
    market_type: MarketType
    price_per_hour: float
    resources: Resources
    available: bool = True
    startup: timedelta = timedelta(minutes=2)
    takes: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Quota:
    """A limit of the account: ``metric`` in the provider's word, in ``scope`` (a zone, a region or ``account``)."""

    metric: str
    scope: str
    limit: float
    used: float
