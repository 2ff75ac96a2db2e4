"""Plays a placement back by Ray's own rules, with none of the planner's code: what is on which node, and does it fit."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.planning.limits import Budget, Candidate
from anyscale_core.planning.placement import Bin, Placement

SLACK = 1e-3
"""Ten-thousandths are rounded: a node of a hundred requests may be off by as much."""

Key = tuple[frozenset[tuple[str, float]], frozenset[tuple[str, str]]]


def replay(
    placement: Placement, demand: Sequence[Demand], gangs: Sequence[Gang], *, room: Sequence[Bin],
    candidates: Sequence[Candidate], budget: Budget,
) -> None:  # fmt: skip
    """Raise AssertionError where the placement breaks a rule or a bound, or loses or invents a request."""
    _fits(placement, room)
    _nothing_lost(placement, demand, gangs)
    _apart(placement, gangs)
    _bounds(placement, candidates, budget)


def meets(selector: str, value: str | None) -> bool:
    """Ray's label selectors, said another way."""
    if selector.startswith("!"):
        return not meets(selector[1:], value)
    if selector.startswith("in("):
        return value is not None and value in selector[3:].rstrip(")").replace(" ", "").split(",")
    return value == selector


def _fits(placement: Placement, room: Sequence[Bin]) -> None:
    used: Counter[str] = Counter()
    for one in placement.filled:
        assert (one.candidate is None) is not (one.bin is None)
        has = one.bin.free if one.bin is not None else one.candidate.resources if one.candidate is not None else {}
        node = one.bin or one.candidate
        assert node is not None
        if one.bin is not None:
            assert one.bin in room
            used[one.bin.name] += one.nodes
        taken: Counter[str] = Counter()
        for held in one.holds:
            for name, amount in held.request.needs:
                taken[name] += amount * held.count
            assert all(meets(selector, node.labels.get(key)) for key, selector in held.request.selectors)
        for name, amount in taken.items():
            assert amount / 10_000 <= has.get(name, 0.0) * (1 + 1e-9) + SLACK, f"{name} does not fit"
    assert all(count == 1 for count in used.values()), "a node that exists is used twice"


def _nothing_lost(placement: Placement, demand: Sequence[Demand], gangs: Sequence[Gang]) -> None:
    unmet_gangs = [one.gang for one in placement.unmet if one.gang is not None]
    wanted: Counter[Key] = Counter()
    for one in demand:
        wanted[_key(one.resources, one.labels)] += one.count
    left = list(unmet_gangs)
    for gang in gangs:
        if gang in left:
            left.remove(gang)
            continue
        if gang.strategy is GangStrategy.STRICT_PACK:
            total: Counter[str] = Counter()
            for bundle in gang.bundles:
                for name, amount in bundle.resources.items():
                    total[name] += amount  # type: ignore[assignment]
            labels = {key: value for bundle in gang.bundles for key, value in bundle.labels.items()}
            wanted[_key(total, labels)] += 1
            continue
        for bundle in gang.bundles:
            wanted[_key(bundle.resources, bundle.labels)] += 1
    assert not left, "a gang that nobody asked for"
    got: Counter[Key] = Counter()
    for filled in placement.filled:
        for held in filled.holds:
            got[_key(held.request.demand(1).resources, held.request.demand(1).labels)] += held.count * filled.nodes
    for unmet in placement.unmet:
        if unmet.gang is None:
            got[_key(unmet.request.demand(1).resources, unmet.request.demand(1).labels)] += unmet.count
    assert got == wanted


def _apart(placement: Placement, gangs: Sequence[Gang]) -> None:
    on: Counter[int] = Counter()
    for filled in placement.filled:
        here = [held.gang for held in filled.holds if held.gang is not None for _ in range(held.count)]
        assert len(here) == len(set(here)), "two bundles that must be apart share a node"
        assert not here or filled.nodes == 1
        on.update(here)
    for index, count in on.items():
        assert gangs[index].strategy is GangStrategy.STRICT_SPREAD
        assert count == len(gangs[index].bundles), "a gang that started in part"


def _bounds(placement: Placement, candidates: Sequence[Candidate], budget: Budget) -> None:
    new = placement.new
    groups = Counter(one.group for one in new)
    assert all(groups[one.group] <= one.room for one in candidates)
    if budget.price is not None:
        assert sum(one.offering.price_per_hour for one in new) <= budget.price + 1e-6
    for name, limit in (budget.resources or {}).items():
        assert sum(one.resources.get(name, 0.0) for one in new) <= limit + 1e-6
    for quota in budget.quotas:
        assert sum(one.offering.takes.get(quota.metric, 0.0) for one in new) <= quota.limit - quota.used + 1e-6


def _key(resources: Mapping[str, float], labels: Mapping[str, str]) -> Key:
    return frozenset((name, round(n, 3)) for name, n in resources.items() if n > 0), frozenset(labels.items())


def cheapest(requests: Sequence[Mapping[str, float]], candidates: Sequence[Candidate], *, overhead: float) -> float:
    """Return the least that any fleet for these requests costs, by trying every one: each request onto every node so far,
    and onto a new one of every kind. Infinite when one fits nowhere."""
    best = float("inf")
    prices = [one.offering.price_per_hour + overhead for one in candidates]

    def go(position: int, nodes: list[dict[str, float]], cost: float) -> None:
        nonlocal best
        if cost >= best - 1e-9:
            return
        if position == len(requests):
            best = cost
            return
        need = requests[position]
        seen: set[tuple[tuple[str, float], ...]] = set()
        for free in nodes:
            state = tuple(sorted(free.items()))
            if state in seen or any(amount > free.get(name, 0.0) + 1e-9 for name, amount in need.items()):
                continue
            seen.add(state)
            for name, amount in need.items():
                free[name] -= amount
            go(position + 1, nodes, cost)
            for name, amount in need.items():
                free[name] += amount
        for one, price in zip(candidates, prices, strict=True):
            if all(amount <= one.resources.get(name, 0.0) + 1e-9 for name, amount in need.items()):
                left = {name: has - need.get(name, 0.0) for name, has in one.resources.items()}
                go(position + 1, [*nodes, left], cost + price)

    go(0, [], 0.0)
    return best


def single_kinds(requests: Sequence[Mapping[str, float]], candidates: Sequence[Candidate]) -> float:
    """Return what the best fleet of one kind of node costs, packed largest first; infinite when no kind holds them all."""
    costs = [one.offering.price_per_hour * _first_fit(requests, one.resources) for one in candidates]
    return min(costs, default=float("inf"))


def _first_fit(requests: Sequence[Mapping[str, float]], has: Mapping[str, float]) -> float:
    nodes: list[dict[str, float]] = []
    share = [max((n / has.get(r, 0.0) if has.get(r) else 9.0 for r, n in one.items()), default=0.0) for one in requests]
    if any(one > 1 for one in share):
        return float("inf")
    for _, need in sorted(zip(share, requests, strict=True), key=lambda pair: -pair[0]):
        free = next((n for n in nodes if all(a <= n[r] + 1e-9 for r, a in need.items())), None)
        if free is None:
            free = dict(has)
            nodes.append(free)
        for name, amount in need.items():
            free[name] -= amount
    return float(len(nodes))


def expanded(demand: Sequence[Demand]) -> list[Mapping[str, float]]:
    """Return requests one by one, the largest first."""
    every = itertools.chain.from_iterable(itertools.repeat(one.resources, one.count) for one in demand)
    return sorted(every, key=lambda one: -sum(one.values()))
