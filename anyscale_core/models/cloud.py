"""A cloud: a place to run clusters in, made of four drivers picked one by one."""

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.models.networking import NetworkSpec
from anyscale_core.models.storage import BucketSpec

SLOTS = ("cluster", "identity", "storage", "networking")
"""The four driver slots of a cloud."""


class CloudMode(enum.Enum):
    """Who calls the cloud: the control plane itself, or an operator in the customer's network."""

    DIRECT = "direct"
    OPERATOR = "operator"


@attrs.frozen(kw_only=True)
class NodeIdentity:
    """What the nodes of a cloud's clusters run as. ``adopt``: the vendor's id of one that exists; checked, never deleted.

    ``subjects``: external subjects that may become it, as a ``system:serviceaccount:namespace:name`` of the Kubernetes cluster
    that the nodes are Pods of.
    """

    name: str | None = None
    adopt: str | None = None
    subjects: tuple[str, ...] = ()


class WorkloadType(enum.Enum):
    """What a cluster is for, as rules tell clusters apart."""

    JOB = "job"
    """It was made with a job."""
    WORKSPACE = "workspace"


@attrs.frozen(kw_only=True)
class Workload:
    """Who wants a cluster, and what for: what identity rules are about."""

    user: str
    project: str | None = None
    type: WorkloadType = WorkloadType.WORKSPACE

    def labels(self) -> Mapping[str, str]:
        """Return it as selectors see it; without a project there is no such label."""
        labels = {"user": self.user, "workload-type": self.type.value}
        return labels if self.project is None else labels | {"project": self.project}


@attrs.frozen(kw_only=True)
class IdentityRule:
    """Clusters that fit run as ``identity``, which needs a name.

    ``selector``: a Kubernetes label selector over ``workload-type`` (job, workspace), ``project`` and ``user``; an empty one
    fits everything.
    """

    selector: str
    identity: NodeIdentity


class Unmapped(enum.Enum):
    """What becomes of a cluster that no rule fits."""

    CLOUD_DEFAULT = "CLOUD_DEFAULT"
    """It runs as the cloud's own identity."""
    FAIL = "FAIL"
    """It is refused."""


@attrs.frozen(kw_only=True)
class OperatorIdentity:
    """Who a cloud's operator has to be, to be let in by its proof: ``provider`` verifies it by its part of the settings.

    ``subject``, and ``account`` unless it is empty, are what ``IdentityDriver.verify`` has to find.
    """

    provider: str
    subject: str
    account: str = ""


@attrs.frozen(kw_only=True)
class CloudSpec:
    """What a cloud is wanted to be. ``provider`` fills every slot that does not name its own.

    ``operator`` is for ``mode: operator``: without it the operator is let in by a registration token alone.

    ``settings`` are the provider's own keys by provider name (``{"aws": {"role_arn": ...}}``); each plugin checks its
    part. ``network``, ``bucket`` and the nodes' identity are made for the cloud's clusters to share, or adopted.
    ``identity_rules`` give some of them identities of their own: the first that fits a cluster wins.
    """

    name: str
    provider: str
    region: str = ""
    mode: CloudMode = CloudMode.DIRECT
    cluster: str | None = None
    identity: str | None = None
    storage: str | None = None
    networking: str | None = None
    operator: OperatorIdentity | None = None
    network: NetworkSpec | None = None
    bucket: BucketSpec | None = None
    node_identity: NodeIdentity | None = None
    identity_rules: tuple[IdentityRule, ...] = ()
    unmapped: Unmapped = Unmapped.CLOUD_DEFAULT
    settings: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    @property
    def providers(self) -> Mapping[str, str]:
        """The name of the provider that fills each slot."""
        return {slot: self.provider_of(slot) for slot in SLOTS}

    def provider_of(self, slot: str) -> str:
        """Return the name of the provider that fills ``slot``."""
        chosen: str | None = getattr(self, slot)
        return chosen or self.provider
