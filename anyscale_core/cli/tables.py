"""What people see of clusters, nodes, jobs and plans. Pure: values in, text out."""

from collections.abc import Sequence
from datetime import datetime

from anyscale_core.api.protocol import (
    CloudView,
    ClusterView,
    JobView,
    LimitView,
    NodeView,
    PlanView,
    ProviderView,
    QuotaView,
)
from anyscale_core.cli.output import table
from anyscale_core.models.networking import Check, CheckStatus
from anyscale_core.models.order import OperatorView
from anyscale_core.models.phases import NODE_ENDED, NodePhase
from anyscale_core.models.quota import BUDGET, PRICE, RESOURCES


def clusters(views: Sequence[ClusterView], *, now: datetime) -> str:
    """Return a line per cluster."""
    return table(
        ("NAME", "PHASE", "CLOUD", "NODES", "PRICE/H", "AGE", "REASON"),
        [
            {
                "NAME": view.name, "PHASE": view.phase.value, "CLOUD": view.cloud, "NODES": _ready(view),
                "PRICE/H": f"{view.price_per_hour:.2f}", "AGE": age(view.created_at, now=now), "REASON": view.reason,
            }
            for view in views
        ],
    )  # fmt: skip


def cluster(view: ClusterView, *, now: datetime) -> str:
    """Return all there is to say about one cluster: itself, its nodes, its jobs."""
    facts = {
        "cloud": view.cloud, "phase": view.phase.value, "reason": view.reason, "nodes ready": _ready(view),
        "price/h": f"{view.price_per_hour:.2f}", "age": age(view.created_at, now=now), "endpoint": view.endpoint,
        "id": view.id,
    }  # fmt: skip
    head = "\n".join([view.name, *(f"  {key:<12}{value}" for key, value in facts.items() if value)])
    parts = [head]
    if view.nodes:
        parts.append(_nodes(view.nodes, now=now))
    if view.jobs:
        parts.append(_jobs(view.jobs, now=now))
    return "\n\n".join(parts)


def operators(views: Sequence[CloudView], *, now: datetime) -> str:
    """Return a line per cloud in pull mode."""
    return table(
        ("CLOUD", "OPERATOR", "SINCE", "SEEN", "REPLICA", "WAITING", "PARTS"),
        [
            {
                "CLOUD": view.name, "OPERATOR": it.state.value, "SINCE": age(it.since, now=now) if it.since else "",
                "SEEN": age(it.seen_at, now=now) if it.seen_at else "", "REPLICA": it.replica,
                "WAITING": str(it.waiting) if it.waiting else "", "PARTS": _parts(it),
            }
            for view in views
            if (it := view.operator) is not None
        ],
    )  # fmt: skip


def _parts(view: OperatorView) -> str:
    """Return the parts that are not well, with their words."""
    if view.health is None:
        return ""
    bad = [f"{check.id}: {check.detail}" for check in view.health.checks if check.status is CheckStatus.FAILED]
    return "; ".join(bad) or "all well"


def plan(view: PlanView) -> str:
    """Return what would be made and what it would cost."""
    lines = [
        table(
            ("GROUP", "COUNT", "TYPE", "MARKET", "ZONE", "PRICE/H"),
            [
                {
                    "GROUP": nodes.group, "COUNT": str(nodes.count), "TYPE": nodes.instance_type,
                    "MARKET": nodes.market_type, "ZONE": nodes.zone, "PRICE/H": f"{nodes.price_per_hour:.2f}",
                }
                for nodes in view.nodes
            ],
        )
        if view.nodes
        else "nothing would be made",
        f"price per hour: {view.price_per_hour:.2f} now, {view.max_price_per_hour:.2f} at most",
        *_changes(view),
        *(f"cannot be met now: {what}" for what in view.unmet),
    ]  # fmt: skip
    return "\n".join(lines)


def _changes(view: PlanView) -> list[str]:
    """Return what a cluster that is alive would cost instead of what it costs, and why its nodes would be made."""
    if not view.price_per_hour_before:
        return []
    lines = [f"the cluster: {view.price_per_hour_before:.2f} -> {view.price_per_hour_after:.2f} per hour"]
    for nodes in view.nodes:
        holds = f"; for {', '.join(nodes.holds)}" if nodes.holds else ""
        lines.append(f"{nodes.group}: {nodes.reason}{holds}")
    return lines


def quotas(views: Sequence[QuotaView]) -> str:
    """Return a line per limit: a quota's name and scope stand in the first of its own."""
    rows = []
    for view in views:
        quota = view.quota
        scope = {"cloud": quota.cloud, "user": quota.user, "project": quota.project}
        first = {
            "QUOTA": quota.name, "MODE": quota.mode.value,
            "FOR": " ".join(f"{key}={value}" for key, value in scope.items() if value is not None) or "everybody",
            "HOLDS BACK": " ".join(view.holds),
        }  # fmt: skip
        for one in view.limits:
            period = f" ({quota.budget_period.value})" if one.path == BUDGET else ""
            rows.append(
                first | {"LIMIT": one.path + period, "USED": _amount(one, one.used), "OF": _amount(one, one.limit)}
            )
            first = {}
    return table(("QUOTA", "MODE", "FOR", "LIMIT", "USED", "OF", "HOLDS BACK"), rows)


def clouds(views: Sequence[CloudView]) -> str:
    """Return a line per cloud, and one more for each thing beyond the first that its clusters share."""
    rows = []
    for view in views:
        slots = sorted(set(view.slots.values()), key=list(view.slots.values()).index)
        state = "being taken down" if view.ends else "set up" if not view.missing else ""
        first = {
            "CLOUD": view.name, "PROVIDER": "+".join(slots), "REGION": view.region, "MODE": view.mode.value,
            "STATE": state or ("registered" if view.registered else "not used yet"),
        }  # fmt: skip
        for resource in view.resources:
            how = " (adopted)" if resource.adopted else ""
            rows.append(first | {"SHARES": f"{resource.kind} {resource.name}{how}", "ID": resource.id})
            first = {}
        rows += [first] if first else []
    return table(("CLOUD", "PROVIDER", "REGION", "MODE", "STATE", "SHARES", "ID"), rows)


def checks(found: Sequence[Check]) -> str:
    """Return a line per thing that was looked at."""
    return table(
        ("CHECK", "RESULT", "DETAIL", "REMEDY"),
        [
            {"CHECK": one.id, "RESULT": one.status.value, "DETAIL": one.detail, "REMEDY": one.remedy}
            for one in found
        ],
    )  # fmt: skip


def providers(views: Sequence[ProviderView]) -> str:
    """Return a line per plugin, the broken ones with the reason."""
    return table(
        ("NAME", "DISTRIBUTION", "VERSION", "CONTRACT", "FILLS", "STATE"),
        [
            {
                "NAME": view.name, "DISTRIBUTION": view.distribution, "VERSION": view.version,
                "CONTRACT": view.contract, "FILLS": " ".join(view.slots),
                "STATE": f"BROKEN: {view.broken}" if view.broken else "ok",
            }
            for view in views
        ],
    )  # fmt: skip


def age(since: datetime, *, now: datetime) -> str:
    """Return how long ago something was: ``45s``, ``12m``, ``5h``, ``3d``."""
    seconds = max(0, int((now - since).total_seconds()))
    for size, unit, limit in ((1, "s", 120), (60, "m", 7200), (3600, "h", 172800)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def _nodes(nodes: Sequence[NodeView], *, now: datetime) -> str:
    return table(
        ("NODE", "GROUP", "PHASE", "TYPE", "MARKET", "ZONE", "ADDRESS", "RAY", "AGE", "REASON"),
        [
            {
                "NODE": node.name, "GROUP": node.group, "PHASE": node.phase.value, "TYPE": node.instance_type,
                "MARKET": node.market_type.value, "ZONE": node.zone, "ADDRESS": node.address,
                "RAY": node.ray.value if node.ray is not None else "", "AGE": age(node.created_at, now=now),
                "REASON": node.reason,
            }
            for node in nodes
        ],
    )  # fmt: skip


def _jobs(jobs: Sequence[JobView], *, now: datetime) -> str:
    return table(
        ("JOB", "PHASE", "ATTEMPT", "EXIT", "AGE", "COMMAND", "MESSAGE"),
        [
            {
                "JOB": job.id, "PHASE": job.phase.value, "ATTEMPT": str(job.attempt),
                "EXIT": "" if job.exit_code is None else str(job.exit_code), "AGE": age(job.created_at, now=now),
                "COMMAND": job.entrypoint, "MESSAGE": job.message.partition("\n")[0],
            }
            for job in jobs
        ],
    )  # fmt: skip


def _amount(limit: LimitView, amount: float) -> str:
    if limit.path in (PRICE, BUDGET):
        return f"{amount:.2f}"
    return f"{amount / 2**30:.10g} GiB" if limit.path == f"{RESOURCES}memory" else f"{amount:.10g}"


def _ready(view: ClusterView) -> str:
    present = [node for node in view.nodes if node.phase not in NODE_ENDED]
    return f"{sum(node.phase is NodePhase.READY for node in present)}/{len(present)}"
