"""Quotas: how much of the clouds a user, a project or everybody may hold at a time, and may spend in a period."""

import enum
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import Fault
from anyscale_core.models.cluster import is_number, name_faults, resource_faults
from anyscale_core.models.resources import Resources

NODES, RESOURCES, PRICE, BUDGET = "nodes", "resources.", "price_per_hour", "budget"
"""The paths of a quota's limits; a resource's is ``resources.CPU``. Usage is counted under the same paths."""


class QuotaMode(enum.Enum):
    HARD = "HARD"
    """Nothing is started beyond it; what runs goes on."""
    SOFT = "SOFT"
    """It warns."""


class BudgetPeriod(enum.Enum):
    """What a budget is for. Days and months are those of the calendar, in UTC."""

    DAY = "DAY"
    MONTH = "MONTH"
    TOTAL = "TOTAL"
    """All that was ever spent."""

    def began(self, now: datetime) -> datetime | None:
        """Return when the period that ``now`` (UTC) is in began; None: it always was."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        match self:
            case BudgetPeriod.DAY:
                return midnight
            case BudgetPeriod.MONTH:
                return midnight.replace(day=1)
        return None

    def renews(self, now: datetime) -> datetime | None:
        """Return when the next period begins; None: never."""
        began = self.began(now)
        match self:
            case BudgetPeriod.DAY if began is not None:
                return began + timedelta(days=1)
            case BudgetPeriod.MONTH if began is not None:
                return (began + timedelta(days=31)).replace(day=1)
        return None


@attrs.frozen(kw_only=True)
class QuotaSpec:
    """A limit on all clusters of a ``cloud``, a ``user`` (who created them) and a ``project`` together; None: of any.

    ``nodes``, ``resources`` and ``price_per_hour`` bound what exists at a time, heads included; ``accelerator_type:X`` counts
    the GPUs of the nodes that have it. ``budget`` bounds what nodes cost in a ``budget_period``, by the catalogue's prices.
    ``warn_at``: the part of any limit from which on it warns.
    """

    name: str
    cloud: str | None = None
    user: str | None = None
    project: str | None = None
    nodes: int | None = None
    resources: Resources = attrs.field(factory=dict)
    price_per_hour: float | None = None
    budget: float | None = None
    budget_period: BudgetPeriod = BudgetPeriod.MONTH
    mode: QuotaMode = QuotaMode.HARD
    warn_at: float = 0.8

    def covers(self, *, cloud: str, user: str, project: str | None) -> bool:
        """Tell whether a cluster of that cloud, user and project counts."""
        return self.cloud in (None, cloud) and self.user in (None, user) and self.project in (None, project)

    @property
    def limits(self) -> dict[str, float]:
        """Return what is limited, by path."""
        amounts = {NODES: self.nodes, PRICE: self.price_per_hour, BUDGET: self.budget}
        limits = {path: float(limit) for path, limit in amounts.items() if limit is not None}
        return limits | {f"{RESOURCES}{name}": limit for name, limit in self.resources.items()}


@attrs.frozen(kw_only=True)
class QuotaUsage:
    """How much of a quota's limits is in use, by path; ``budget``: what was spent in this period."""

    quota: QuotaSpec
    used: Mapping[str, float]
    renews_at: datetime | None = None
    """When the budget's next period begins."""

    @property
    def spent(self) -> bool:
        """Tell whether the budget is used up."""
        return self.quota.budget is not None and self.used.get(BUDGET, 0.0) >= self.quota.budget


def contradictions(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with a quota beyond the types of its fields; reads the raw mapping as a cluster's check does."""
    for key in ("name", "cloud", "project"):
        yield from name_faults(raw.get(key), key)
    if raw.get("user") == "":
        yield Fault(path="user", message="is empty; leave it out for every user")
    for key in (NODES, PRICE, BUDGET):
        value = raw.get(key)
        if is_number(value) and value < 0:
            yield Fault(path=key, message=f"{value} is negative; 0 lets nothing start, without it there is no limit")
    yield from resource_faults(raw.get("resources"), "resources")
    if not raw.get("resources") and all(raw.get(key) is None for key in (NODES, PRICE, BUDGET)):
        yield Fault(path="", message="limits nothing; give nodes, resources, price_per_hour or budget")
    warn_at = raw.get("warn_at")
    if is_number(warn_at) and not 0 < warn_at <= 1:
        yield Fault(path="warn_at", message=f"{warn_at} is not a part of a limit; give more than 0 and at most 1")
