"""What quotas leave: how much a node takes, what may be started, and why the rest has to wait.

The plan and the transaction that records it ask the same questions here, the latter with usage that nobody else can change.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.errors import Fault
from anyscale_core.models.actions import CreateNodes
from anyscale_core.models.cluster import ClusterSpec, NodeShape
from anyscale_core.models.instance import Offering
from anyscale_core.models.quota import BUDGET, NODES, PRICE, RESOURCES, QuotaSpec, QuotaUsage
from anyscale_core.models.records import NodeRecord
from anyscale_core.models.resources import EPSILON, Resources, plus, total
from anyscale_core.planning import shapes
from anyscale_core.planning.limits import Budget, Candidate

ACCELERATOR = "accelerator_type:"
RAISE = "raise it with `anyscale-core quota set`, or wait until something else has ended"
GIB = 2.0**30


@attrs.frozen(kw_only=True)
class Admitted:
    """What may be started of what was wanted, the usage with it, and the quotas that hold the rest back, with the reason."""

    actions: tuple[CreateNodes, ...]
    usage: tuple[QuotaUsage, ...]
    held: Mapping[str, str] = attrs.field(factory=dict)


def charge(resources: Resources, capacity: Resources, price_per_hour: float) -> dict[str, float]:
    """Return what one node takes of a quota's limits, by path.

    Of each resource the larger of what the machine has and what Ray is told: telling Ray of less makes nothing cheaper. Ray
    has 1 of ``accelerator_type:X`` on a node however many there are, so the node's GPUs are counted for it.
    """
    amounts = {name: max(capacity.get(name, 0.0), resources.get(name, 0.0)) for name in {*capacity, *resources}}
    gpus = amounts.get("GPU", 0.0)
    counted = {name: gpus if gpus and name.startswith(ACCELERATOR) else amount for name, amount in amounts.items()}
    return {NODES: 1.0, PRICE: price_per_hour} | {f"{RESOURCES}{name}": counted[name] for name in sorted(counted)}


def charge_of(node: NodeRecord) -> dict[str, float]:
    """Return what a recorded node takes."""
    return charge(node.resources, node.capacity, node.price_per_hour)


def offered(shape: NodeShape, offering: Offering) -> dict[str, float]:
    """Return what a node of a shape, made from an offering, would take."""
    return charge(shapes.resources_of(shape, offering), offering.resources, offering.price_per_hour)


def room(usage: QuotaUsage, each: Mapping[str, float]) -> float:
    """Return how many more nodes that take ``each`` a quota has room for: whole or infinite."""
    if usage.spent:
        return 0
    return min((max(0.0, (left + EPSILON) // each[path]) for path, left in _left(usage, each)), default=float("inf"))


def admit(usage: Sequence[QuotaUsage], spec: ClusterSpec, wanted: Iterable[CreateNodes]) -> Admitted:
    """Admit each action as far as there is room, in order."""
    now, held, actions = tuple(usage), dict[str, str](), list[CreateNodes]()
    for action in wanted:
        each = takes(spec, action)
        count = int(min([action.count, *(room(one, each) for one in now)]))
        if count > 0:
            actions.append(attrs.evolve(action, count=count))
            now = tuple(add(one, each, count) for one in now)
        if count < action.count:
            held |= lacking(now, each, f"a node of {action.group!r}")
    return Admitted(actions=tuple(actions), usage=now, held=held)


def admit_whole(
    usage: Sequence[QuotaUsage],
    spec: ClusterSpec,
    wanted: Iterable[CreateNodes],
    *,
    what: str = "the head and the minimums together",
) -> Admitted:
    """Admit all actions together or none: two clusters that each hold a part and wait for the rest would wait for ever."""
    wanted = tuple(wanted)
    together = total(takes(spec, action, action.count) for action in wanted)
    held = lacking(usage, together, what)
    if held:
        return Admitted(actions=(), usage=tuple(usage), held=held)
    return Admitted(actions=wanted, usage=tuple(add(one, together, 1) for one in usage))


def lacking(usage: Iterable[QuotaUsage], each: Mapping[str, float], what: str) -> dict[str, str]:
    """Return the quotas that have no room for ``each``, with what they lack for ``what`` and what would mend it."""
    held: dict[str, str] = {}
    for one in usage:
        path = _short_of(one, each)
        if path == BUDGET:
            held[one.quota.name] = _spent(one)
        elif path:
            amounts = show(path, one.used.get(path, 0.0), one.quota.limits[path])
            # Not what is wanted: the reason stands on the cluster's status, and shall not change with every task that ends.
            held[one.quota.name] = f"quota {one.quota.name!r}: {amounts} in use, too little left for {what}; {RAISE}"
    return held


def takes(spec: ClusterSpec, action: CreateNodes, count: int = 1) -> dict[str, float]:
    """Return what ``count`` of the nodes that an action would start take of a quota's limits."""
    each = offered(shapes.shape_of(spec, action.group), action.offering)
    return {path: amount * count for path, amount in each.items()}


def add(usage: QuotaUsage, each: Mapping[str, float], count: int) -> QuotaUsage:
    """Return the usage with so many more nodes that take ``each``."""
    more = {path: amount * count for path, amount in each.items() if path in usage.quota.limits}
    return attrs.evolve(usage, used=plus(usage.used, more))


def within(candidates: Iterable[Candidate], spec: ClusterSpec, usage: Sequence[QuotaUsage]) -> tuple[Candidate, ...]:
    """Return the candidates that there is room for, each with no more room than that."""
    out = []
    for one in candidates:
        each = offered(shapes.shape_of(spec, one.group), one.offering)
        most = int(min([one.room, *(room(quota, each) for quota in usage)]))
        out += [attrs.evolve(one, room=most)] if most > 0 else []
    return tuple(out)


def bound(budget: Budget, usage: Iterable[QuotaUsage]) -> Budget:
    """Return a budget that stays within what the quotas leave as well, over all groups together."""
    resources = dict(budget.resources or {})
    price, nodes = budget.price, budget.nodes
    for one in usage:
        for path, limit in one.quota.limits.items():
            left = max(0.0, limit - one.used.get(path, 0.0))
            if path == PRICE:
                price = left if price is None else min(price, left)
            elif path == NODES:
                nodes = int(left) if nodes is None else min(nodes, int(left))
            elif path.startswith(RESOURCES) and not path.startswith(f"{RESOURCES}{ACCELERATOR}"):
                name = path.removeprefix(RESOURCES)
                resources[name] = min(resources.get(name, left), left)
    return attrs.evolve(budget, resources=resources or None, price=price, nodes=nodes)


def least(spec: ClusterSpec, offerings: Iterable[Offering], *, now: datetime) -> dict[str, float]:
    """Return the least that the head and the minimum of every group take together, by path."""
    catalogue = [attrs.evolve(offering, available=True) for offering in offerings]
    need: dict[str, float] = {}
    for shape, count in [(spec.head_node, 1), *((group, group.min_nodes) for group in spec.worker_nodes)]:
        each = _least(spec, shape, catalogue, now)
        need = plus(need, {path: amount * count for path, amount in each.items()})
    for name, amount in (spec.min_resources or {}).items():
        need[f"{RESOURCES}{name}"] = max(need.get(f"{RESOURCES}{name}", 0.0), amount)
    return need


def never(quotas: Iterable[QuotaSpec], need: Mapping[str, float], *, had: Mapping[str, float]) -> list[Fault]:
    """Return why so much could not exist even if nothing else did; empty when it could.

    ``had``: what was wanted before. Who asks for no more than that may, though a quota has been lowered since.
    """
    return [
        Fault(
            path="",
            message=f"quota {quota.name!r} allows {show(path, limit)}, and the head and the minimums need "
            f"{show(path, need[path])}; ask for less, or raise it with `anyscale-core quota set`",
        )
        for quota in quotas
        for path, limit in quota.limits.items()
        if path != BUDGET and need.get(path, 0.0) > max(limit, had.get(path, 0.0)) + EPSILON
    ]


def show(path: str, amount: float, limit: float | None = None) -> str:
    """Write an amount with its unit, and what it is out of: ``8 of 12 CPU``."""
    size = GIB if path == f"{RESOURCES}memory" else 1.0
    unit = {PRICE: "an hour", BUDGET: "spent", f"{RESOURCES}memory": "GiB memory"}.get(
        path, path.removeprefix(RESOURCES)
    )
    form = ".2f" if path in (PRICE, BUDGET) else ".10g"
    of = "" if limit is None else f" of {limit / size:{form}}"
    return f"{amount / size:{form}}{of} {unit}" if (path, amount, limit) != (NODES, 1.0, None) else "1 node"


def _left(usage: QuotaUsage, each: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield what is left of each limit that ``each`` takes of."""
    for path, limit in usage.quota.limits.items():
        if path != BUDGET and each.get(path, 0.0) > 0:
            yield path, limit - usage.used.get(path, 0.0)


def _short_of(usage: QuotaUsage, each: Mapping[str, float]) -> str:
    """Return the first limit that has no room for ``each``; empty when there is room, as there is for nothing."""
    if usage.spent and each:
        return BUDGET
    return next((path for path, left in _left(usage, each) if each[path] > left + EPSILON), "")


def _spent(usage: QuotaUsage) -> str:
    name, limit, period = usage.quota.name, usage.quota.budget or 0.0, usage.quota.budget_period
    until = "" if usage.renews_at is None else f", or wait until {usage.renews_at:%Y-%m-%d %H:%M} UTC"
    spent = f"the budget of {limit:.2f} ({period.value}) is spent"
    return f"quota {name!r}: {spent}; raise it with `anyscale-core quota set`{until}"


def _least(spec: ClusterSpec, shape: NodeShape, catalogue: Sequence[Offering], now: datetime) -> dict[str, float]:
    """Return the least that a node of a shape takes of each limit, over everything that it can be made from."""
    fitting = shapes.offerings_that_fit(spec, shape, catalogue, shortages=(), home_zone="", now=now)
    takes = [offered(shape, offering) for offering in fitting]
    return {path: min(one.get(path, 0.0) for one in takes) for path in {key for one in takes for key in one}}
