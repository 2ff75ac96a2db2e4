"""SPOT and ON_DEMAND: how much of a group may be at risk, and on how many offerings the risk is spread.

What a node holds decides its size; these rules then choose the market and the zone that it is bought in.
"""

from collections import Counter
from collections.abc import Sequence

import attrs

from anyscale_core.models.cluster import MarketType, WorkerGroup
from anyscale_core.models.records import NodeRecord
from anyscale_core.planning.limits import Candidate
from anyscale_core.planning.placement import Filled
from anyscale_core.planning.requests import units

Sold = tuple[str, str]
"""Instance type and zone of a SPOT offering: what is taken back together."""


def divide(
    group: WorkerGroup, present: Sequence[NodeRecord], chosen: Sequence[Filled], usable: Sequence[Candidate]
) -> tuple[Filled, ...]:
    """Return the chosen new nodes of a group, bought so that its shares are kept.

    ``present``: the nodes that the group has. ``usable``: all that its nodes may be bought as now. At most
    ``max_spot_share`` of the group is SPOT. Of that, no offering has more than ``max_offering_share`` as long as another
    one holds the same.
    """
    if group.max_spot_share >= 1 and group.max_offering_share >= 1:
        return tuple(chosen)
    nodes = [attrs.evolve(one, nodes=1) for one in chosen for _ in range(one.nodes)]
    nodes = _capped(group, present, nodes, usable)
    return _together(_spread(group, present, nodes, usable))


def too_much_spot(group: WorkerGroup, nodes: Sequence[NodeRecord]) -> bool:
    """Tell whether more of these nodes of a group are SPOT than its share allows."""
    spot = sum(node.market_type is MarketType.SPOT for node in nodes)
    return spot > group.max_spot_share * len(nodes) + 1e-9


def blended(group: WorkerGroup, spot: float, on_demand: float) -> float:
    """Return the price of a node of a group that is SPOT for its greatest share and ON_DEMAND for the rest."""
    return group.max_spot_share * spot + (1 - group.max_spot_share) * on_demand


def _capped(
    group: WorkerGroup, present: Sequence[NodeRecord], nodes: list[Filled], usable: Sequence[Candidate]
) -> list[Filled]:
    """Buy ON_DEMAND what is above the share, where it costs least more."""
    allowed = int(group.max_spot_share * (len(present) + len(nodes)) + 1e-9)
    spare = allowed - sum(node.market_type is MarketType.SPOT for node in present)
    twins = [_twin(one, usable) for one in nodes]
    more = [
        (twin.offering.price_per_hour - _offering_price(one), i)
        for i, (one, twin) in enumerate(zip(nodes, twins, strict=True))
        if _is_spot(one) and twin is not None
    ]
    above = sum(_is_spot(one) for one in nodes) - max(0, spare)
    out = list(nodes)
    for _, i in sorted(more)[: max(0, above)]:
        twin = twins[i]
        if twin is not None:
            out[i] = attrs.evolve(nodes[i], candidate=twin)
    return out


def _spread(
    group: WorkerGroup, present: Sequence[NodeRecord], nodes: list[Filled], usable: Sequence[Candidate]
) -> list[Filled]:
    """Move SPOT nodes from an offering that has more than its share to the cheapest that holds the same and has not."""
    sold: Counter[Sold] = Counter(
        (node.instance_type, node.zone) for node in present if node.market_type is MarketType.SPOT
    )
    sold += Counter(_sold(one.candidate) for one in nodes if one.candidate is not None and _is_spot(one))
    most = max(1, int(group.max_offering_share * sold.total() + 1e-9))
    out = list(nodes)
    for i, one in enumerate(nodes):
        if one.candidate is None or not _is_spot(one) or sold[_sold(one.candidate)] <= most:
            continue
        others = [
            other
            for other in usable
            if other.offering.market_type is MarketType.SPOT and sold[_sold(other)] < most and _holds(other, one)
        ]
        other = min(others, key=lambda other: (other.offering.price_per_hour, _sold(other)), default=None)
        if other is not None:
            sold[_sold(one.candidate)] -= 1
            sold[_sold(other)] += 1
            out[i] = attrs.evolve(one, candidate=other)
    return out


def _twin(one: Filled, usable: Sequence[Candidate]) -> Candidate | None:
    """Return the cheapest ON_DEMAND candidate that holds the same, in the same zone if it can be."""
    fitting = [c for c in usable if c.offering.market_type is MarketType.ON_DEMAND and _holds(c, one)]
    zone = one.candidate.offering.zone if one.candidate is not None else ""
    return min(
        fitting,
        key=lambda c: (c.offering.price_per_hour, c.offering.zone != zone, _sold(c)),
        default=None,
    )


def _holds(candidate: Candidate, one: Filled) -> bool:
    room = units(candidate.resources)
    for held in one.holds:
        if not held.request.matches(candidate.labels):
            return False
        for name, amount in held.request.needs:
            room[name] = room.get(name, 0) - amount * held.count
    return all(amount >= 0 for amount in room.values())


def _is_spot(one: Filled) -> bool:
    return one.candidate is not None and one.candidate.offering.market_type is MarketType.SPOT


def _offering_price(one: Filled) -> float:
    assert one.candidate is not None, "only new nodes are bought"
    return one.candidate.offering.price_per_hour


def _sold(candidate: Candidate) -> Sold:
    return candidate.offering.instance_type, candidate.offering.zone


def _together(nodes: Sequence[Filled]) -> tuple[Filled, ...]:
    """Return equal nodes as one entry again, in order."""
    out: list[Filled] = []
    for one in nodes:
        if out and attrs.evolve(out[-1], nodes=1) == one:
            out[-1] = attrs.evolve(out[-1], nodes=out[-1].nodes + 1)
        else:
            out.append(one)
    return tuple(out)
