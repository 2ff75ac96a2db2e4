"""What could be started, and how much of it: candidates, and the limits that each of their nodes uses up."""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from anyscale_core.models.instance import Offering, Quota
from anyscale_core.models.resources import Resources

SLACK = 1e-9

Limit = tuple[str, ...]
"""A limit by name: ("max_nodes", group), ("max_price_per_hour",), ("max_resources", resource), ("nodes",), or
("quota", metric, scope)."""


@attrs.frozen(kw_only=True)
class Candidate:
    """One kind of node that could be started: at most ``room`` more of its group, whatever their offerings.

    ``price``: what an hour counts as where that is not the offering's own price (a mix of markets).
    """

    group: str
    offering: Offering
    resources: Resources
    labels: Mapping[str, str]
    room: int
    price: float | None = None

    @property
    def price_per_hour(self) -> float:
        return self.offering.price_per_hour if self.price is None else self.price


@attrs.frozen(kw_only=True)
class Budget:
    """What may still be added: resources (``max_resources`` less what there is), dollars per hour, nodes. None: no limit.

    ``quotas``, the cloud account's own, count for the offerings that say what they take of them.
    """

    resources: Resources | None = None
    price: float | None = None
    nodes: int | None = None
    quotas: tuple[Quota, ...] = ()


class Limits:
    """How much is left of each limit, and what a node of a candidate takes of it."""

    def __init__(self, candidates: Sequence[Candidate], budget: Budget, *, spent: Iterable[Candidate] = ()) -> None:
        """``spent``: nodes that have been decided on already."""
        self.budget = budget
        self.zones = {candidate.offering.zone for candidate in candidates}
        self.left: dict[Limit, float] = {}
        for candidate in candidates:
            self.left["max_nodes", candidate.group] = float(max(0, candidate.room))
        if budget.price is not None:
            self.left["max_price_per_hour",] = max(0.0, budget.price)
        if budget.nodes is not None:
            self.left["nodes",] = float(max(0, budget.nodes))
        for name, amount in (budget.resources or {}).items():
            self.left["max_resources", name] = max(0.0, amount)
        for quota in budget.quotas:
            self.left["quota", quota.metric, quota.scope] = max(0.0, quota.limit - quota.used)
        self.left = self.after((candidate, 1) for candidate in spent)

    def uses(self, candidate: Candidate) -> dict[Limit, float]:
        """Return what one node of a candidate takes of each limit."""
        offering = candidate.offering
        out: dict[Limit, float] = {("max_nodes", candidate.group): 1.0}
        if self.budget.price is not None:
            out["max_price_per_hour",] = candidate.price_per_hour
        if self.budget.nodes is not None:
            out["nodes",] = 1.0
        for name in self.budget.resources or {}:
            out["max_resources", name] = candidate.resources.get(name, 0.0)
        for quota in self.budget.quotas:
            if quota.scope == offering.zone or quota.scope not in self.zones:
                out["quota", quota.metric, quota.scope] = offering.takes.get(quota.metric, 0.0)
        return {limit: amount for limit, amount in out.items() if amount > 0}

    def after(self, nodes: Iterable[tuple[Candidate, int]]) -> dict[Limit, float]:
        """Return what is left of each limit with so many nodes of these."""
        left = dict(self.left)
        for candidate, count in nodes:
            for limit, amount in self.uses(candidate).items():
                left[limit] = left.get(limit, 0.0) - count * amount
        return left

    def reached(self, candidate: Candidate, left: Mapping[Limit, float]) -> tuple[Limit, ...]:
        """Return the limits that keep one more node of a candidate from being started."""
        return tuple(limit for limit, amount in self.uses(candidate).items() if amount > left[limit] + SLACK)
