"""What a cluster may start now: for each group the offerings that will do, what may not be had and why, and the limits."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.models.cluster import ClusterSpec, MarketType, NodeShape, WorkerGroup
from anyscale_core.models.instance import Offering, Quota
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import ClusterRecord, NodeRecord, Observed
from anyscale_core.models.resources import minus, total
from anyscale_core.planning import markets, shapes
from anyscale_core.planning.limits import Budget, Candidate
from anyscale_core.planning.reasons import Withheld

COMING = frozenset({NodePhase.RECORDED, NodePhase.LAUNCHING, NodePhase.STARTING})
ALIVE = COMING | {NodePhase.READY, NodePhase.SUSPECT}
PRESENT = ALIVE | {NodePhase.DRAINING}
"""Phases that count against ``max_nodes``: whatever still has, or may have, a Ray node that works."""


@attrs.frozen(kw_only=True)
class Choices:
    """``candidates``: what new nodes are chosen from. ``usable``: by group, all that its nodes may be bought as now.

    ``withheld``: what would do but may not be had now, with the reason.
    """

    candidates: tuple[Candidate, ...] = ()
    usable: Mapping[str, tuple[Candidate, ...]] = attrs.field(factory=dict)
    withheld: tuple[Withheld, ...] = ()


def choices(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], observed: Observed, *, barred: frozenset[str], now: datetime
) -> Choices:
    """Return what each group may start now. ``barred``: groups that must not grow (their nodes fail to start)."""
    spec = desired.spec
    found: list[Candidate] = []
    usable: dict[str, tuple[Candidate, ...]] = {}
    withheld: list[Withheld] = []
    for group in spec.worker_nodes:
        room = max(0, group.max_nodes - sum(1 for one in nodes if one.group == group.name and one.phase in PRESENT))
        able: list[Candidate] = []
        for offering in shapes.suitable(spec, group, observed.offerings, home_zone=home_zone(nodes)):
            candidate = candidate_of(group, offering, room)
            why = _why_not(offering, group, observed, barred=barred, now=now)
            if why:
                withheld.append(Withheld(candidate=candidate, why=why))
            else:
                able.append(candidate)
        usable[group.name] = tuple(able)
        found += _preferred(spec, group, able)
    return Choices(candidates=tuple(found), usable=usable, withheld=tuple(withheld))


def home_zone(nodes: Sequence[NodeRecord]) -> str:
    """Return the zone that the cluster's present nodes are in; empty when it has none yet."""
    return next((node.zone for node in nodes if node.phase in PRESENT and node.zone), "")


def first_zone(spec: ClusterSpec, observed: Observed, *, now: datetime) -> str:
    """Return the zone for a cluster that has none yet: where most of its groups can be had, and the start costs least.

    Empty when it may be in several zones, or none has anything.
    """
    if spec.enable_cross_zone_scaling:
        return ""
    zones = spec.zones or tuple(sorted({offering.zone for offering in observed.offerings}))
    wanted: list[tuple[NodeShape, int]] = [
        (spec.head_node, 1),
        *((group, group.min_nodes) for group in spec.worker_nodes),
    ]

    def rank(zone: str) -> tuple[int, int, int, float, str]:
        missing, lacking, price = 0, 0, 0.0
        for shape, count in wanted:
            fitting = shapes.offerings_that_fit(
                spec, shape, observed.offerings, shortages=observed.shortages, home_zone=zone, now=now
            )
            missing += count > 0 and not fitting
            lacking += not fitting
            price += count * fitting[0].price_per_hour if fitting else 0.0
        return missing, lacking, zones.index(zone) if spec.zones else 0, round(price, 9), zone

    best = min(zones, key=rank, default="")
    return best if best and rank(best)[1] < len(wanted) else ""


def budget_of(spec: ClusterSpec, nodes: Sequence[NodeRecord], observed: Observed) -> Budget:
    """Return what may be added to the nodes that there are, by the spec's own limits and the account's quotas.

    Quotas as the cloud last gave them, less what this cluster has started since. What other clusters start meanwhile is
    left to the cloud to refuse: a refusal is remembered as a shortage.
    """
    present = [node for node in nodes if node.phase in PRESENT]
    resources = None
    if spec.max_resources is not None:
        have = total(node.resources for node in present)
        resources = {name: left for name, left in minus(spec.max_resources, have).items() if name in spec.max_resources}
    price = None
    if spec.max_price_per_hour is not None:
        price = spec.max_price_per_hour - sum(node.price_per_hour for node in present)
    return Budget(resources=resources, price=price, quotas=tuple(_quotas(present, observed)))


def _quotas(present: Iterable[NodeRecord], observed: Observed) -> Iterable[Quota]:
    sold = {(one.instance_type, one.zone, one.market_type): one for one in observed.offerings}
    since = [
        sold[key]
        for node in present
        if observed.quotas_at is not None
        and node.created_at >= observed.quotas_at
        and (key := (node.instance_type, node.zone, node.market_type)) in sold
    ]
    zones = {one.zone for one in observed.offerings}
    for quota in observed.quotas:
        mine = [one for one in since if quota.scope == one.zone or quota.scope not in zones]
        yield attrs.evolve(quota, used=quota.used + sum(one.takes.get(quota.metric, 0.0) for one in mine))


def candidate_of(group: WorkerGroup, offering: Offering, room: int) -> Candidate:
    """Return a node of a group made from an offering; ``room``: how many more the group may have."""
    return Candidate(
        group=group.name,
        offering=offering,
        resources=shapes.resources_of(group, offering),
        labels=shapes.labels_of(group, group.name, offering),
        room=room,
    )


def _why_not(
    offering: Offering, group: WorkerGroup, observed: Observed, *, barred: frozenset[str], now: datetime
) -> str:
    if group.name in barred:
        return "nodes of that group are starting or have failed to start; it is tried again soon"
    if not offering.available:
        return "the cloud has none now; it is tried again when it has"
    refused = next((one for one in observed.shortages if one.covers(offering, now=now)), None)
    return f"the cloud refused it lately: {refused.reason}; it is tried again later" if refused is not None else ""


def _preferred(spec: ClusterSpec, group: WorkerGroup, able: Sequence[Candidate]) -> Iterable[Candidate]:
    """Yield what new nodes are chosen from: of each type the market and the zone that the spec wants most.

    ON_DEMAND stands in for SPOT where a type has no SPOT now. Without ``zones`` in the spec all zones compete by price.
    """
    ranks = {market: i for i, market in enumerate(shapes.markets(group))}
    wanted = {zone: i for i, zone in enumerate(spec.zones or ())}
    best: dict[str, tuple[int, int]] = {}
    for one in able:
        rank = (ranks[one.offering.market_type], wanted.get(one.offering.zone, 0))
        best[one.offering.instance_type] = min(rank, best.get(one.offering.instance_type, rank))
    for one in able:
        if (ranks[one.offering.market_type], wanted.get(one.offering.zone, 0)) != best[one.offering.instance_type]:
            continue
        yield attrs.evolve(one, price=_mixed_price(group, one, able))


def _mixed_price(group: WorkerGroup, one: Candidate, able: Sequence[Candidate]) -> float | None:
    """Return what a SPOT node counts as where a part of its group must be ON_DEMAND; None: its own price."""
    if group.max_spot_share >= 1 or one.offering.market_type is not MarketType.SPOT:
        return None
    twins = [
        other.offering.price_per_hour
        for other in able
        if other.offering.market_type is MarketType.ON_DEMAND
        and other.offering.instance_type == one.offering.instance_type
    ]
    return markets.blended(group, one.offering.price_per_hour, min(twins)) if twins else None
