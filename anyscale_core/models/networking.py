"""Networks, what is checked of them, and endpoints in front of heads."""

import enum
from collections.abc import Mapping

import attrs

from anyscale_core.models.owner import Owner


class NetworkMode(enum.Enum):
    """PUBLIC: nodes may have public addresses. PRIVATE: never; the customer brings the way in."""

    PUBLIC = "public"
    PRIVATE = "private"


@attrs.frozen(kw_only=True)
class NetworkSpec:
    """A network that is wanted. ``adopt``: the vendor's id of one that exists; checked, never changed or deleted later.

    ``cidr``: an IPv4 range (``10.0.0.0/16``), empty for the driver's choice. ``subnets``: vendor ids to use when adopting.
    """

    name: str
    owner: Owner | None = None
    mode: NetworkMode = NetworkMode.PRIVATE
    region: str = ""
    cidr: str = ""
    adopt: str | None = None
    subnets: tuple[str, ...] = ()
    tags: Mapping[str, str] = attrs.field(factory=dict)


class EndpointState(enum.Enum):
    PENDING = "pending"
    READY = "ready"
    DELETING = "deleting"


@attrs.frozen(kw_only=True)
class EndpointSpec:
    """A way in to a head that is wanted: clients reach ``target_address:target_port`` through it. The target speaks TLS."""

    name: str
    owner: Owner
    network: str
    target_address: str
    target_port: int


@attrs.frozen(kw_only=True)
class Endpoint:
    """A way in as it stands: ``url`` is reported only once it can be resolved and reached."""

    name: str
    owner: Owner
    state: EndpointState
    url: str = ""


@attrs.frozen(kw_only=True)
class Network:
    """A network as the cloud shows it, with the endpoints in it."""

    name: str
    owner: Owner
    id: str
    mode: NetworkMode = NetworkMode.PRIVATE
    adopted: bool = False
    zones: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


class CheckStatus(enum.Enum):
    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen(kw_only=True)
class Check:
    """One thing looked at: what, how it came out, and the remedy when it did not pass."""

    id: str
    status: CheckStatus
    detail: str
    remedy: str = ""
