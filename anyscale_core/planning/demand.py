"""From Ray's demand to nodes: what to start, and which idle workers may go."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.models.actions import Action, CreateNodes, DrainNode
from anyscale_core.models.cluster import ClusterSpec, WorkerGroup
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import NodeKind, Offering
from anyscale_core.models.node import Demand, DrainMode, HeadReport, RayNode
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.quota import QuotaUsage
from anyscale_core.models.records import ClusterRecord, NodeRecord, Observed, Timing
from anyscale_core.models.resources import fits, minus, total
from anyscale_core.planning import quotas, shapes
from anyscale_core.planning.placement import Bin, Budget, Candidate, Placement, matches, place

COMING = frozenset({NodePhase.RECORDED, NodePhase.LAUNCHING, NodePhase.STARTING})
ALIVE = COMING | {NodePhase.READY, NodePhase.SUSPECT}
PRESENT = ALIVE | {NodePhase.DRAINING}
"""Phases that count against ``max_nodes``: whatever still has, or may have, a Ray node that works."""


@attrs.frozen(kw_only=True)
class Growth:
    """What to start for the demand, and what cannot be met."""

    actions: tuple[CreateNodes, ...] = ()
    unmet: tuple[str, ...] = ()
    held: Mapping[str, str] = attrs.field(factory=dict)
    """Quotas that hold it back, each with the reason."""
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
    held = _held(desired.spec, nodes, head)
    if not held and not head.demand and not head.gangs:
        return Growth()
    candidates = candidates_of(desired, nodes, observed, barred=barred, now=now)
    budget = budget_of(desired.spec, nodes)
    reason = f"Ray waits for {_summary([*head.demand, *held], head)}"
    wish = placed = _placed(held, nodes, head, candidates, budget)
    wanted = _actions(desired.spec, candidates, wish.new, reason=reason)
    short = quotas.admit_whole(usage, desired.spec, wanted, what="all that Ray waits for").held
    if short:
        # What the quotas leave may do for other nodes, or for fewer; a gang starts whole all the same.
        candidates = quotas.within(candidates, desired.spec, usage)
        placed = _placed(held, nodes, head, candidates, quotas.bound(budget, usage))
    new, settled = placed.new, head.demand_age >= timing.settle
    if not settled:
        on_the_way = any(node.kind is NodeKind.WORKER and node.phase in COMING for node in nodes)
        new, short = () if on_the_way else new[:1], {}
    wait = None if settled or not wish.new else now + (timing.settle - head.demand_age)
    actions = _actions(desired.spec, candidates, new, reason=reason)
    return Growth(actions=actions, unmet=wish.unmet, held=short, settle_at=wait)


def _placed(
    held: Sequence[Demand],
    nodes: Sequence[NodeRecord],
    head: HeadReport,
    candidates: Sequence[Candidate],
    budget: Budget,
) -> Placement:
    """Place what is to be held and what is asked for.

    What is to be held lacks on all nodes together, free or not: only new ones can bring it. They are as good for demand.
    """
    floor = place(held, (), room=(), candidates=candidates, budget=budget)
    added = [Bin(group=one.group, free=dict(one.resources), labels=one.labels, candidate=one) for one in floor.new]
    placement = place(head.demand, head.gangs, room=[*_room(nodes, head), *added], candidates=candidates, budget=budget)
    return attrs.evolve(placement, unmet=(*floor.unmet, *placement.unmet))


def _actions(
    spec: ClusterSpec, candidates: Sequence[Candidate], new: Sequence[Candidate], *, reason: str
) -> tuple[CreateNodes, ...]:
    counts = Counter(candidate.group for candidate in new)
    return tuple(
        create(spec, candidate, counts[candidate.group], reason=reason)
        for candidate in candidates
        if counts[candidate.group]
    )


def create(spec: ClusterSpec, candidate: Candidate, count: int, *, reason: str) -> CreateNodes:
    """Return the action that starts ``count`` workers of a candidate's group."""
    group = spec.group(candidate.group)
    assert group is not None, "candidates come from the spec's own groups"
    return CreateNodes(
        kind=NodeKind.WORKER,
        group=candidate.group,
        offering=candidate.offering,
        count=count,
        shape=shapes.fingerprint(spec, group),
        zones=(candidate.offering.zone,) if candidate.offering.zone else (),
        reason=reason,
    )


def candidates_of(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], observed: Observed, *, barred: frozenset[str], now: datetime
) -> tuple[Candidate, ...]:
    """Return, for each group that may grow now, the best offering for it and how many more it may have."""
    out: list[Candidate] = []
    for group in desired.spec.worker_nodes:
        room = group.max_nodes - sum(1 for node in nodes if node.group == group.name and node.phase in PRESENT)
        if room <= 0 or group.name in barred:
            continue
        fitting = shapes.offerings_that_fit(
            desired.spec, group, observed.offerings, shortages=observed.shortages, home_zone=home_zone(nodes), now=now
        )
        if fitting:
            out.append(candidate_of(group, fitting[0], room))
    return tuple(out)


def candidate_of(group: WorkerGroup, offering: Offering, room: int) -> Candidate:
    """Return a candidate for a group from an offering."""
    return Candidate(
        group=group.name,
        offering=offering,
        resources=shapes.resources_of(group, offering),
        labels=shapes.labels_of(group, group.name, offering),
        room=room,
    )


def home_zone(nodes: Sequence[NodeRecord]) -> str:
    """Return the zone that the cluster's present nodes are in; empty when it has none yet."""
    return next((node.zone for node in nodes if node.phase in PRESENT and node.zone), "")


def budget_of(spec: ClusterSpec, nodes: Sequence[NodeRecord]) -> Budget:
    """Return what may be added to the nodes that there are, by the spec's own limits.

    The account's quotas are left to the cloud to refuse: their metrics are its own, and a refusal is remembered as a shortage.
    """
    present = [node for node in nodes if node.phase in PRESENT]
    resources = None
    if spec.max_resources is not None:
        resources = {
            name: left
            for name, left in minus(spec.max_resources, total(node.resources for node in present)).items()
            if name in spec.max_resources
        }
    price = None
    if spec.max_price_per_hour is not None:
        price = spec.max_price_per_hour - sum(node.price_per_hour for node in present)
    return Budget(resources=resources, price=price)


def shrink(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], status: Mapping[NodeId, str], head: HeadReport, *,
    now: datetime, timing: Timing,
) -> tuple[Action, ...]:  # fmt: skip
    """Return idle drains for workers that nobody needs: longest idle first, never below a minimum.

    ``status``: ray id by node.
    """
    by_ray = {node.ray_id: node for node in head.ray_nodes}
    left = [node for node in nodes if node.phase in ALIVE]
    actions: list[Action] = []
    idle: list[tuple[RayNode, NodeRecord]] = []
    for node in nodes:
        ray = by_ray.get(status.get(node.id, ""))
        if node.kind is NodeKind.WORKER and node.phase is NodePhase.READY and ray is not None and ray.status == "IDLE":
            idle.append((ray, node))
    for ray, node in sorted(idle, key=lambda pair: (-pair[0].idle, pair[1].name)):
        group = desired.spec.group(node.group)
        minimum = group.min_nodes if group is not None else 0
        if ray.idle.total_seconds() < desired.spec.idle_worker_seconds:
            continue
        if sum(1 for other in left if other.group == node.group) <= minimum:
            continue
        rest = [other for other in left if other.id != node.id]
        if _needed(desired.spec, rest, head):
            continue
        left = rest
        reason = f"idle for {ray.idle.total_seconds():.0f} s"
        actions.append(
            DrainNode(
                node_id=node.id, name=node.name, mode=DrainMode.IDLE, deadline=now + timing.drain_timeout, reason=reason
            )
        )
    return tuple(actions)


def _needed(spec: ClusterSpec, rest: Sequence[NodeRecord], head: HeadReport) -> bool:
    """Tell whether without the nodes that are not in ``rest`` a floor would be broken."""
    have = total(node.resources for node in rest)
    if spec.min_resources is not None and not fits(spec.min_resources, have):
        return True
    if not head.constraints:
        return False
    bins = [Bin(group=node.group, free=dict(node.resources), labels=node.labels) for node in rest]
    return bool(place(head.constraints, (), room=bins, candidates=(), budget=Budget()).unmet)


def _held(spec: ClusterSpec, nodes: Sequence[NodeRecord], head: HeadReport) -> list[Demand]:
    """Return what must be added so that ``request_resources()`` and ``min_resources`` hold, busy or not."""
    present = [node for node in nodes if node.phase in ALIVE]
    out: list[Demand] = []
    if head.constraints:
        bins = [Bin(group=node.group, free=dict(node.resources), labels=node.labels) for node in present]
        for one in head.constraints:
            short = sum(1 for _ in range(one.count) if not _take(bins, one))
            out += [attrs.evolve(one, count=short)] if short else []
    if spec.min_resources is not None:
        lacking = minus(spec.min_resources, total(node.resources for node in present))
        units = {name: amount for name, amount in lacking.items() if amount > 1e-9}
        out += [
            Demand(resources={name: 1.0}, count=int(-(-amount // 1)))
            for name, amount in units.items()
            if name != "memory"
        ]
        if "memory" in units:
            out.append(Demand(resources={"memory": units["memory"]}))
    return out


def _take(bins: list[Bin], one: Demand) -> bool:
    for candidate in bins:
        if fits(one.resources, candidate.free) and matches(one, candidate.labels):
            candidate.free = minus(candidate.free, one.resources)
            return True
    return False


def _room(nodes: Sequence[NodeRecord], head: HeadReport) -> list[Bin]:
    """Return what is free: as Ray says on nodes that it shows, everything on those that are coming."""
    shown = {node.instance_name: node for node in head.ray_nodes if node.status in ("RUNNING", "IDLE")}
    out: list[Bin] = []
    for node in nodes:
        ray = shown.get(node.name)
        if node.phase is NodePhase.READY and ray is not None:
            out.append(Bin(group=node.group, free=dict(ray.available), labels=node.labels))
        elif node.phase in COMING or node.phase is NodePhase.READY:
            out.append(Bin(group=node.group, free=dict(node.resources), labels=node.labels))
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
