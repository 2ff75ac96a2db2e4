"""Who a workload is, what it may do, and how a node proves itself."""

import enum
from collections.abc import Mapping
from datetime import datetime

import attrs

from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

DISCOVERY_PATH, JWKS_PATH = "/.well-known/openid-configuration", "/.well-known/jwks.json"
"""Where the description and the keys of an OIDC issuer are, below its URL."""


@attrs.frozen(kw_only=True)
class IdentitySpec:
    """An identity that workloads run as. ``adopt``: the vendor's id of one that exists; checked, never deleted later.

    ``subjects`` are external subjects that may become it (a federated ``system:serviceaccount:ns:name``).
    """

    name: str
    owner: Owner
    adopt: str | None = None
    subjects: tuple[str, ...] = ()
    tags: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Binding:
    """What makes a workload that runs elsewhere one of an identity's: its driver mints it, that of the cluster puts it on.

    ``account``: annotations of the account that the workload runs as, which one of the identity's ``subjects`` names (a
    ServiceAccount). ``workload``: labels of the workload itself (a Pod).
    """

    account: Mapping[str, str] = attrs.field(factory=dict)
    workload: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Identity:
    """An identity as the cloud shows it. ``principal`` is the vendor's id to grant things to.

    ``binding`` is for those that have ``subjects``: what lets a workload of theirs find and become the identity.
    """

    name: str
    owner: Owner
    principal: str
    adopted: bool = False
    subjects: tuple[str, ...] = ()
    # Not hashed: mappings cannot be.
    binding: Binding = attrs.field(factory=Binding, hash=False)


@attrs.frozen(kw_only=True)
class Credentials:
    """Short-lived credentials; ``values`` by the vendor's own field names. Refresh well before ``expires_at``."""

    values: Mapping[str, Secret[str]]
    expires_at: datetime


@attrs.frozen(kw_only=True)
class Proof:
    """What a node shows of itself: a document that its provider signed, for one audience."""

    provider: str
    document: Secret[str]


@attrs.frozen(kw_only=True)
class Principal:
    """Who a verified proof is about: the vendor's id of the machine, and the account or project it is in."""

    subject: str
    account: str
    instance: str = ""
    """The instance name or id when the proof binds one; the core compares it with what it launched."""
    claims: Mapping[str, str] = attrs.field(factory=dict)


class Access(enum.Enum):
    READ = "read"
    WRITE = "write"
    """Read, write, list and delete."""


@attrs.frozen(kw_only=True)
class Permission:
    """One action that the control plane needs, on what, and why; the parts of a least policy.

    ``feature`` is the driver verb that uses it (``cluster.create``); ``condition`` in the vendor's own syntax.
    """

    action: str
    resource: str
    feature: str
    reason: str
    condition: str = ""
