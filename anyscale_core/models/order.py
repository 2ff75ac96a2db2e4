"""What the control plane and an operator say to each other (pull mode). Orders go in, reports come out; the operator asks."""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.models.identity import Proof
from anyscale_core.models.networking import Check
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

OPERATOR_AUDIENCE = "anyscale-core/operator"
"""What an operator's proof is made for: one of a node is worth nothing here."""


class OperatorState(enum.Enum):
    """Whether orders reach a cloud. Nothing that runs there depends on it."""

    EXPECTED = "EXPECTED"
    """No operator has ever come."""
    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"
    """It has not asked for orders for longer than ``Timing.operator_silence``."""


@attrs.frozen(kw_only=True)
class Login:
    """An operator's first words. ``replica`` names the process; ``token`` or ``proof`` says that it may speak for the cloud."""

    cloud: str
    replica: str
    version: str = ""
    token: Secret[str] | None = None
    proof: Proof | None = None


@attrs.frozen(kw_only=True)
class Session:
    """What an operator needs to work. ``providers``: slot to the provider whose driver performs its orders.

    ``order_certificate``: PEM, the key that orders are signed with, certified by the control plane's authority.
    """

    credential: Secret[str]
    expires_at: datetime
    owner: Owner
    region: str = ""
    providers: Mapping[str, str]
    order_certificate: str
    hold: timedelta
    """How long a poll may be held while there are no orders."""
    report_interval: timedelta


@attrs.frozen(kw_only=True)
class Order:
    """One driver call that an operator is to make. Signed by the control plane as a whole (JWS, ``OrderSlip``).

    ``action``: ``cluster.create``. ``lane``: orders of one lane are performed in the order of ``number``; empty for reads,
    which wait for nothing. ``attempt`` grows when the same call is ordered again: an outcome is of one attempt.
    """

    id: str
    attempt: int
    number: int
    cloud: str
    plane: str
    action: str
    lane: str = ""
    arguments: Mapping[str, Any] = attrs.field(repr=False)
    """As ``drivers.speech`` writes them. There may be secrets in them."""
    expires_at: datetime
    """By the control plane's clock: not to be begun any more then."""

    @property
    def key(self) -> str:
        """What tells this attempt from all others."""
        return f"{self.id}/{self.attempt}"


OrderSlip = Secret[str]
"""An order on the wire: a compact JWS whose payload is the Order."""


@attrs.frozen(kw_only=True)
class Poll:
    """The question for orders. ``have``: keys of those that are in hand, so that no answer that got lost loses one.

    ``leaving``: the process ends; another replica may take over at once.
    """

    wait: timedelta = timedelta()
    have: tuple[str, ...] = ()
    leaving: bool = False


@attrs.frozen(kw_only=True)
class Dispatch:
    """The answer. ``now``: the control plane's clock. ``leads``: of several replicas the one that is given orders.

    A fresh ``credential`` comes when half of the old one's life is over.
    """

    now: datetime
    leads: bool
    slips: tuple[OrderSlip, ...] = ()
    credential: Secret[str] | None = None
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Done:
    """What came of one attempt of an order: ``result`` (JSON, as ``drivers.speech`` writes it) or ``error`` (its record)."""

    id: str
    attempt: int
    result: Secret[str] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """The key of the order that it answers."""
        return f"{self.id}/{self.attempt}"


@attrs.frozen(kw_only=True)
class Health:
    """How the operator and its parts are. ``metrics``: what its own /metrics shows, by name."""

    version: str
    since: datetime
    checks: tuple[Check, ...] = ()
    metrics: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Report:
    """Outcomes as they come, health now and then."""

    done: tuple[Done, ...] = ()
    health: Health | None = None


@attrs.frozen(kw_only=True)
class Noted:
    """That a report was recorded: what it told of need not be said again."""

    now: datetime


@attrs.frozen(kw_only=True)
class OperatorToken:
    """A registration token: whoever shows it before ``expires_at`` is taken for an operator of ``cloud``."""

    cloud: str
    token: Secret[str]
    expires_at: datetime
    url: str
    ca_pem: str


@attrs.frozen(kw_only=True)
class OperatorView:
    """A cloud's operator as people are shown it. ``health``: as it last said."""

    state: OperatorState
    since: datetime | None = None
    seen_at: datetime | None = None
    replica: str = ""
    waiting: int = 0
    """Orders that are not done."""
    health: Health | None = None
