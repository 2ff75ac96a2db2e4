"""Cheaper nodes for the same: idle nodes that must stay are replaced when that saves enough, and loses nothing.

Only nodes on which Ray runs nothing are replaced, and only after their successors are READY: then they are more than is
needed, and ``demand.shrink`` drains them. This is also how a PREFER_SPOT group comes back from ON_DEMAND to SPOT.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.actions import CreateNodes
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import HeadReport
from anyscale_core.models.phases import NODE_ENDED, NodePhase
from anyscale_core.models.records import ClusterRecord, NodeRecord, Observed
from anyscale_core.models.resources import EPSILON
from anyscale_core.planning import demand, markets
from anyscale_core.planning.candidates import ALIVE, PRESENT, Choices, budget_of, choices
from anyscale_core.planning.limits import Limits
from anyscale_core.planning.placement import Bin, Filled, place


@attrs.frozen(kw_only=True)
class Rebuild:
    """What to start in the place of what, and when to look again."""

    actions: tuple[CreateNodes, ...] = ()
    look_at: datetime | None = None


@attrs.frozen(kw_only=True)
class _Option:
    old: tuple[NodeRecord, ...]
    new: tuple[Filled, ...]
    before: float
    after: float


def rebuild(
    desired: ClusterRecord, nodes: Sequence[NodeRecord], observed: Observed, head: HeadReport, *,
    barred: frozenset[str], now: datetime,
) -> Rebuild:  # fmt: skip
    """Return the cheaper nodes to start for idle ones that a minimum keeps, if they save as much as the spec asks for.

    Nothing while Ray waits for anything, or while any worker is not READY: one change at a time.
    """
    spec = desired.spec
    after = timedelta(minutes=spec.rebuild_after_minutes)
    workers = [node for node in nodes if node.kind is NodeKind.WORKER and node.phase not in NODE_ENDED]
    if not after or head.demand or head.gangs or any(node.phase is not NodePhase.READY for node in workers):
        return Rebuild()
    due = _due(spec, workers, head, now=now)
    old = [node for at, node in due if at <= now]
    look_at = min([at for at, _ in due if at > now] + [now + after] * bool(old), default=None)
    if not old:
        return Rebuild(look_at=look_at)
    if any(_spare(spec, nodes, head, node) for node in old):
        return Rebuild(look_at=look_at)  # it will be drained without any successor
    offered = choices(desired, nodes, observed, barred=barred, now=now)
    options = [
        option
        for some in _parts(old)
        if (option := _instead(spec, nodes, observed, head, offered, some)) is not None
        and option.before - option.after >= max(spec.rebuild_saving * option.before, EPSILON)
    ]
    if not options:
        return Rebuild(look_at=look_at)
    best = min(
        options, key=lambda one: (round(one.after - one.before, 9), len(one.old), [node.name for node in one.old])
    )
    names = ", ".join(node.name for node in best.old)
    reason = f"idle {names} can be replaced: {best.before:.4g} -> {best.after:.4g} an hour"
    return Rebuild(actions=demand.creations(spec, nodes, best.new, reason=reason), look_at=look_at)


def _due(
    spec: ClusterSpec, workers: Sequence[NodeRecord], head: HeadReport, *, now: datetime
) -> list[tuple[datetime, NodeRecord]]:
    """Return the workers on which nothing runs, the dearest first, and from when on each may be replaced.

    That is when it is old enough, and idle for long enough not to be in use again in a moment.
    """
    idle = {ray.instance_name: ray.idle for ray in head.ray_nodes if ray.status == "IDLE"}
    after, settled = timedelta(minutes=spec.rebuild_after_minutes), timedelta(seconds=spec.idle_worker_seconds)
    return [
        (max(node.ready_at + after, now + settled - idle[node.name]), node)
        for node in sorted(workers, key=lambda node: (-node.price_per_hour, node.name))
        if node.name in idle and node.ready_at is not None
    ]


def _spare(spec: ClusterSpec, nodes: Sequence[NodeRecord], head: HeadReport, node: NodeRecord) -> bool:
    """Tell whether nothing would be missing without a node."""
    rest = [other for other in nodes if other.phase in ALIVE and other.id != node.id]
    group = spec.group(node.group)
    below = group is not None and sum(other.group == node.group for other in rest) < group.min_nodes
    return not below and not demand.lacking(spec, rest, head)


def _parts(old: Sequence[NodeRecord]) -> Iterator[tuple[NodeRecord, ...]]:
    """Yield what might be replaced together: one of each sort, all of a group, all."""
    groups: dict[str, list[NodeRecord]] = {}
    sorts: dict[tuple[str, str, str, str], NodeRecord] = {}
    for node in old:
        groups.setdefault(node.group, []).append(node)
        sorts.setdefault((node.group, node.instance_type, node.zone, node.market_type.value), node)
    together = [*((node,) for node in sorts.values()), *(tuple(members) for members in groups.values()), tuple(old)]
    seen: set[tuple[str, ...]] = set()
    for some in together:
        names = tuple(node.name for node in some)
        if names not in seen:
            seen.add(names)
            yield some


def _instead(
    spec: ClusterSpec, nodes: Sequence[NodeRecord], observed: Observed, head: HeadReport, offered: Choices,
    old: tuple[NodeRecord, ...],
) -> _Option | None:  # fmt: skip
    """Return what would have to be started without these nodes; None when that is nothing, or cannot be had."""
    names = {node.name for node in old}
    rest = [node for node in nodes if node.phase in ALIVE and node.name not in names]
    minimum = _minimum(spec, rest, offered)
    if minimum is None:
        return None
    added = [
        Bin(
            group=one.candidate.group,
            free=one.candidate.resources,
            labels=one.candidate.labels,
            candidate=one.candidate,
        )
        for one in minimum
        if one.candidate is not None
        for _ in range(one.nodes)
    ]
    budget = budget_of(spec, nodes, observed)
    # What they hold must be held by the rest and the new ones together; the rest's own part is not there to be given again.
    missing = demand.lacking(spec, rest, head)
    overhead = spec.node_overhead_per_hour
    held = place(missing, (), room=added, candidates=offered.candidates, budget=budget, overhead=overhead)
    if held.unmet:
        return None
    new: list[Filled] = []
    for group in spec.worker_nodes:
        chosen = [
            one for one in (*minimum, *held.filled) if one.candidate is not None and one.candidate.group == group.name
        ]
        present = [
            node for node in nodes if node.group == group.name and node.phase in PRESENT and node.name not in names
        ]
        new += markets.divide(group, present, chosen, offered.usable[group.name])
    limits = Limits(offered.candidates, budget)
    bought = [(attrs.evolve(one.candidate, price=None), one.nodes) for one in new if one.candidate is not None]
    if not bought or any(left < -EPSILON for left in limits.after(bought).values()):
        return None
    return _Option(
        old=old,
        new=tuple(new),
        before=sum(node.price_per_hour + overhead for node in old),
        after=sum(count * (candidate.price_per_hour + overhead) for candidate, count in bought),
    )


def _minimum(spec: ClusterSpec, rest: Sequence[NodeRecord], offered: Choices) -> list[Filled] | None:
    """Return the cheapest nodes that keep every group at its minimum; None when a group has none to offer."""
    out: list[Filled] = []
    for group in spec.worker_nodes:
        missing = group.min_nodes - sum(node.group == group.name for node in rest)
        able = [one for one in offered.candidates if one.group == group.name]
        if missing <= 0:
            continue
        if not able:
            return None
        cheapest = min(able, key=lambda one: (one.price_per_hour, one.offering.instance_type, one.offering.zone))
        out.append(Filled(candidate=cheapest, bin=None, nodes=missing, holds=()))
    return out
