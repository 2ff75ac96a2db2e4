"""From Ray's demand to nodes: what to start, and which idle workers may go."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.models.actions import Action, CreateNodes, DrainNode
from anyscale_core.models.cluster import ClusterSpec, MarketType, WorkerGroup
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import NodeKind, Offering
from anyscale_core.models.node import Demand, DrainMode, HeadReport, RayNode
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.quota import QuotaUsage
from anyscale_core.models.records import ClusterRecord, NodeRecord, Observed, Timing
from anyscale_core.models.resources import EPSILON, minus, total
from anyscale_core.planning import markets, quotas, shapes, solver
from anyscale_core.planning.candidates import ALIVE, COMING, PRESENT, Choices, budget_of, candidate_of, choices
from anyscale_core.planning.limits import Budget, Candidate, Limits
from anyscale_core.planning.placement import Bin, Filled, Placement, place
from anyscale_core.planning.reasons import Reasons
from anyscale_core.planning.requests import Request

GIB = float(1 << 30)


@attrs.frozen(kw_only=True)
class Growth:
    """What to start for the demand, what cannot be met, and the quotas that hold some of it back, with the reason."""

    actions: tuple[CreateNodes, ...] = ()
    unmet: tuple[str, ...] = ()
    held: Mapping[str, str] = attrs.field(factory=dict)
    settle_at: datetime | None = None
    """Look again then: the demand was too fresh to size the fleet by."""


def alive(nodes: Sequence[NodeRecord], group: str) -> tuple[NodeRecord, ...]:
    """Return the nodes of a group that work or are on their way."""
    return tuple(node for node in nodes if node.group == group and node.phase in ALIVE)


def grow(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], observed: Observed, head: HeadReport, *,
    barred: frozenset[str], usage: Sequence[QuotaUsage], now: datetime, timing: Timing,
) -> Growth:  # fmt: skip
    """Return what to start for Ray's pending demand, ``request_resources()`` and the spec's ``min_resources``.

    ``barred``: groups that must not grow now (their nodes fail to start). ``usage``: of the hard quotas over the cluster.
    """
    held = lacking(desired.spec, [node for node in nodes if node.phase in ALIVE], head)
    if not held and not head.demand and not head.gangs:
        return Growth()
    spec, room = desired.spec, _room(nodes, head)
    offered = choices(desired, nodes, observed, barred=barred, now=now)
    budget = budget_of(spec, nodes, observed)
    reason = f"Ray waits for {_summary([*head.demand, *held], head)}"
    wish, unmet = decide(spec, nodes, observed, offered, budget, held=held, room=room, head=head)
    wanted = creations(spec, nodes, wish, reason=reason)
    short = quotas.admit_whole(usage, spec, wanted, what="all that Ray waits for").held
    bought = wish
    if short:
        # What the quotas leave may do for other nodes, or for fewer; a gang starts whole all the same.
        offered, budget = _within(offered, spec, usage), quotas.bound(budget, usage)
        bought, _ = decide(spec, nodes, observed, offered, budget, held=held, room=room, head=head)
    settled = head.demand_age >= timing.settle
    if not settled:
        on_the_way = any(node.kind is NodeKind.WORKER and node.phase in COMING for node in nodes)
        bought, short = () if on_the_way else tuple(attrs.evolve(one, nodes=1) for one in bought[:1]), {}
    wait = None if settled or not wish else now + (timing.settle - head.demand_age)
    return Growth(actions=creations(spec, nodes, bought, reason=reason), unmet=unmet, held=short, settle_at=wait)


def _within(offered: Choices, spec: ClusterSpec, usage: Sequence[QuotaUsage]) -> Choices:
    usable = {name: quotas.within(able, spec, usage) for name, able in offered.usable.items()}
    return attrs.evolve(offered, candidates=quotas.within(offered.candidates, spec, usage), usable=usable)


def minimum(
    nodes: Sequence[NodeRecord], group: WorkerGroup, fitting: Sequence[Offering], count: int
) -> tuple[Filled, ...]:
    """Return so many nodes of a group of the best offering, in the markets and zones that its shares ask for."""
    able = tuple(candidate_of(group, offering, count) for offering in fitting)
    present = [node for node in nodes if node.group == group.name and node.phase in PRESENT]
    best = Filled(candidate=able[0], bin=None, nodes=count, holds=())
    return markets.divide(group, present, [best], able)


def decide(
    spec: ClusterSpec, nodes: Sequence[NodeRecord], observed: Observed, offered: Choices, budget: Budget, *,
    held: Sequence[Demand], room: Sequence[Bin], head: HeadReport,
) -> tuple[tuple[Filled, ...], tuple[str, ...]]:  # fmt: skip
    """Return the new nodes to start, as they are bought, and what cannot be met and why.

    What is to be held lacks on all nodes together, free or not: only new nodes can bring it. They are as good for demand.
    """
    improve = solver.improve if solver.installed() else None

    def placed(candidates: Sequence[Candidate]) -> tuple[Placement, Placement]:
        floor = place(
            held, (), room=(), candidates=candidates, budget=budget, overhead=spec.node_overhead_per_hour,
            improve=improve,
        )  # fmt: skip
        added = [Bin(group=one.group, free=one.resources, labels=one.labels, candidate=one) for one in floor.new]
        more = place(
            head.demand, head.gangs, room=[*room, *added], candidates=candidates, budget=budget,
            overhead=spec.node_overhead_per_hour, improve=improve,
        )  # fmt: skip
        return floor, more

    floor, more = placed(offered.candidates)
    bought = _bought(spec, nodes, (*floor.filled, *more.filled), offered)
    limits = Limits(offered.candidates, budget)
    if any(left < -EPSILON for left in limits.after(_counted(bought)).values()):
        # What the shares ask for costs more than the ceilings allow: then without SPOT where a share is set.
        floor, more = placed(_without_shares(spec, offered))
        bought = tuple(one for one in (*floor.filled, *more.filled) if one.candidate is not None)
    reasons = Reasons(
        candidates=offered.candidates, withheld=offered.withheld, limits=limits, left=limits.after(_counted(bought)),
        catalogue=observed.offerings,
    )  # fmt: skip
    return bought, tuple(reasons.of(one) for one in (*floor.unmet, *more.unmet))


def _without_shares(spec: ClusterSpec, offered: Choices) -> list[Candidate]:
    """Return what can be bought with no regard to shares: ON_DEMAND alone in groups that may not be SPOT altogether."""
    capped = {group.name for group in spec.worker_nodes if group.max_spot_share < 1}
    return [
        *(one for one in offered.candidates if one.group not in capped),
        *(
            one
            for name in sorted(capped)
            for one in offered.usable[name]
            if one.offering.market_type is MarketType.ON_DEMAND
        ),
    ]


def creations(
    spec: ClusterSpec, nodes: Sequence[NodeRecord], bought: Sequence[Filled], *, reason: str
) -> tuple[CreateNodes, ...]:
    """Return the actions that start these nodes, one for each offering of a group, with what was decided and why."""
    kinds: dict[tuple[str, str, str, str], list[Filled]] = {}
    for one in bought:
        assert one.candidate is not None, "only new nodes are bought"
        offering = one.candidate.offering
        key = (one.candidate.group, offering.instance_type, offering.zone, offering.market_type.value)
        kinds.setdefault(key, []).append(one)
    before = price_of(nodes)
    after = before + sum(
        one.nodes * candidate.offering.price_per_hour for one in bought if (candidate := one.candidate)
    )
    return tuple(
        _creation(spec, alike, reason=reason, before=before, after=after) for _, alike in sorted(kinds.items())
    )


def price_of(nodes: Iterable[NodeRecord]) -> float:
    """Return the dollars per hour of the nodes that are present."""
    return sum(node.price_per_hour for node in nodes if node.phase in PRESENT)


def _creation(spec: ClusterSpec, alike: Sequence[Filled], *, reason: str, before: float, after: float) -> CreateNodes:
    candidate = alike[0].candidate
    assert candidate is not None, "only new nodes are bought"
    group = spec.group(candidate.group)
    assert group is not None, "candidates come from the spec's own groups"
    holds: Counter[Request] = Counter()
    for one in alike:
        for held in one.holds:
            holds[held.request] += held.count * one.nodes
    shown = [
        f"{count} x {request}" for request, count in sorted(holds.items(), key=lambda pair: (-pair[0].size, pair[0]))
    ]
    offering, count = candidate.offering, sum(one.nodes for one in alike)
    return CreateNodes(
        kind=NodeKind.WORKER,
        group=candidate.group,
        offering=offering,
        count=count,
        shape=shapes.fingerprint(spec, group),
        zones=(offering.zone,) if offering.zone else (),
        reason=reason,
        details={
            "holds": shown,
            "price_per_hour_before": round(before, 6),
            "price_per_hour_after": round(after, 6),
        },
    )


def _bought(
    spec: ClusterSpec, nodes: Sequence[NodeRecord], filled: Sequence[Filled], offered: Choices
) -> tuple[Filled, ...]:
    """Return the new nodes, in the markets and zones that the shares of their groups ask for."""
    out: list[Filled] = []
    for group in spec.worker_nodes:
        chosen = [one for one in filled if one.candidate is not None and one.candidate.group == group.name]
        present = [node for node in nodes if node.group == group.name and node.phase in PRESENT]
        out += markets.divide(group, present, chosen, offered.usable[group.name])
    return tuple(out)


def _counted(bought: Iterable[Filled]) -> Iterable[tuple[Candidate, int]]:
    """Yield candidates at their own prices, and how many."""
    for one in bought:
        if one.candidate is not None:
            yield attrs.evolve(one.candidate, price=None), one.nodes


def shrink(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], status: Mapping[NodeId, str], head: HeadReport, *,
    now: datetime, timing: Timing,
) -> tuple[Action, ...]:  # fmt: skip
    """Return idle drains for workers that nobody needs: the dearest first, then the longest idle, never below a minimum.

    ``status``: ray id by node. A node on its way keeps no minimum yet.
    """
    by_ray = {node.ray_id: node for node in head.ray_nodes}
    left = [node for node in nodes if node.phase in ALIVE - COMING]
    actions: list[Action] = []
    idle: list[tuple[RayNode, NodeRecord]] = []
    for node in nodes:
        ray = by_ray.get(status.get(node.id, ""))
        if node.kind is NodeKind.WORKER and node.phase is NodePhase.READY and ray is not None and ray.status == "IDLE":
            idle.append((ray, node))
    for ray, node in sorted(idle, key=lambda pair: (-pair[1].price_per_hour, -pair[0].idle, pair[1].name)):
        group = desired.spec.group(node.group)
        minimum = group.min_nodes if group is not None else 0
        if ray.idle.total_seconds() < desired.spec.idle_worker_seconds:
            continue
        if sum(1 for other in left if other.group == node.group) <= minimum:
            continue
        rest = [other for other in left if other.id != node.id]
        if lacking(desired.spec, rest, head) or _at_risk(group, left, rest):
            continue
        left = rest
        reason = f"idle for {ray.idle.total_seconds():.0f} s"
        actions.append(
            DrainNode(
                node_id=node.id, name=node.name, mode=DrainMode.IDLE, deadline=now + timing.drain_timeout, reason=reason
            )
        )
    return tuple(actions)


def _at_risk(group: WorkerGroup | None, before: Sequence[NodeRecord], after: Sequence[NodeRecord]) -> bool:
    """Tell whether a group would have too much SPOT only now: then another node of it goes first."""
    if group is None:
        return False
    then, now = ([node for node in nodes if node.group == group.name] for nodes in (before, after))
    return markets.too_much_spot(group, now) and not markets.too_much_spot(group, then)


def lacking(spec: ClusterSpec, present: Sequence[NodeRecord], head: HeadReport) -> list[Demand]:
    """Return what must be added so that ``request_resources()`` and ``min_resources`` hold on these nodes, busy or not."""
    out: list[Demand] = []
    if head.constraints:
        bins = [Bin(group=node.group, free=node.resources, labels=node.labels) for node in present]
        unmet = place(head.constraints, (), room=bins, candidates=(), budget=Budget()).unmet
        out += [one.request.demand(one.count) for one in unmet]
    if spec.min_resources is not None:
        missing = minus(spec.min_resources, total(node.resources for node in present))
        for name, amount in sorted(missing.items()):
            unit = GIB if name == "memory" else 1.0
            if amount > EPSILON:
                out.append(Demand(resources={name: unit}, count=int(-(-amount // unit))))
    return out


def _room(nodes: Sequence[NodeRecord], head: HeadReport) -> list[Bin]:
    """Return what is free: as Ray says on nodes that it shows, everything on those that are coming."""
    shown = {node.instance_name: node for node in head.ray_nodes if node.status in ("RUNNING", "IDLE")}
    out: list[Bin] = []
    for node in nodes:
        ray = shown.get(node.name)
        if node.phase is NodePhase.READY and ray is not None:
            out.append(Bin(group=node.group, free=ray.available, labels=node.labels, name=node.name))
        elif node.phase in COMING or node.phase is NodePhase.READY:
            out.append(Bin(group=node.group, free=node.resources, labels=node.labels, name=node.name))
    return out


def _summary(asked: Sequence[Demand], head: HeadReport) -> str:
    requests = sum(one.count for one in asked)
    parts = [f"{requests} request{'' if requests == 1 else 's'}"] if requests else []
    parts += [f"{len(head.gangs)} placement group{'' if len(head.gangs) == 1 else 's'}"] if head.gangs else []
    return " and ".join(parts)


def busy(report: HeadReport | None) -> bool:
    """Tell whether Ray shows any work: demand, or a node that is not idle."""
    if report is None:
        return False
    return bool(
        report.demand or report.gangs or any(node.status in ("RUNNING", "DRAINING") for node in report.ray_nodes)
    )
