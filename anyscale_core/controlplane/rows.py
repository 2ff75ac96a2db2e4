"""Rows and values: what the store reads and writes, one row at a time, inside somebody's transaction."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.engine import RowMapping

from anyscale_core.controlplane import schema as t
from anyscale_core.models import wire
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.ids import ClusterId, Token
from anyscale_core.models.job import Job
from anyscale_core.models.phases import NODE_ENDED, ClusterPhase
from anyscale_core.models.records import (
    ClusterRecord,
    EndCause,
    EndpointRecord,
    Goal,
    Launch,
    NodeRecord,
    Shortage,
    VolumeRecord,
)
from anyscale_core.planning.quotas import charge_of


@attrs.frozen(kw_only=True)
class Lease:
    """The right to work on one cluster until ``until``; ``token`` grows with each that is given."""

    cluster_id: ClusterId
    holder: str
    token: int
    until: datetime


@attrs.frozen(kw_only=True)
class Status:
    """The part of a ClusterRecord that the reconciler writes."""

    observed_generation: int = 0
    phase: ClusterPhase = ClusterPhase.STARTING
    phase_since: datetime
    reason: str = ""
    running_at: datetime | None = None
    active_at: datetime | None = None
    ended_at: datetime | None = None
    held_by: tuple[str, ...] = ()
    endpoint: EndpointRecord | None = None
    revoking_at: datetime | None = None
    revoked: bool = False
    volume: VolumeRecord | None = None

    @classmethod
    def of(cls, record: ClusterRecord) -> "Status":
        return cls(**{field.name: getattr(record, field.name) for field in attrs.fields(cls)})


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened, for people and scripts. ``level``: INFO, WARNING or ERROR."""

    at: datetime
    kind: str
    message: str
    level: str = "INFO"
    cluster_id: ClusterId | None = None
    node: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    id: int = 0


@attrs.frozen(kw_only=True)
class AuditRecord:
    """Who did what to what, and whether it was allowed."""

    at: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    detail: str = ""


def touch(connection: Connection, id: ClusterId, now: datetime) -> None:
    """Make a cluster due and its version new."""
    values = {"due_at": now, "version": t.clusters.c.version + 1}
    connection.execute(update(t.clusters).where(t.clusters.c.id == id).values(**values))


def touch_cloud(connection: Connection, cloud: str, now: datetime) -> None:
    """Make every live cluster of a cloud due."""
    mine = (t.clusters.c.cloud == cloud) & t.clusters.c.ended_at.is_(None)
    connection.execute(update(t.clusters).where(mine).values(due_at=now, version=t.clusters.c.version + 1))


def save_status(connection: Connection, record: ClusterRecord) -> None:
    status = Status.of(record)
    values = {
        "phase": status.phase.value, "status": wire.unstructure(status), "ended_at": status.ended_at,
        "held": 1 if status.held_by else 0,
    }  # fmt: skip
    connection.execute(update(t.clusters).where(t.clusters.c.id == record.id).values(**values))


def set_goal(connection: Connection, id: ClusterId, goal: Goal, cause: EndCause, reason: str) -> None:
    """Change the goal from within; a cause that is recorded already stands."""
    where = (t.clusters.c.id == id) & (t.clusters.c.goal == Goal.RUN.value)
    values = {"goal": goal.value, "end_cause": cause.value, "end_reason": reason}
    connection.execute(update(t.clusters).where(where).values(**values))


def save_node(connection: Connection, node: NodeRecord) -> None:
    values = {
        "phase": node.phase.value, "phase_since": node.phase_since, "launch": node.launch,
        "doc": wire.unstructure(node), "cluster_id": node.cluster_id, "name": node.name, "created_at": node.created_at,
        "ended_at": node.phase_since if node.phase in NODE_ENDED else None, "price_per_hour": node.price_per_hour,
        "charge": json.dumps(charge_of(node), sort_keys=True),
    }  # fmt: skip
    done = connection.execute(update(t.nodes).where(t.nodes.c.id == node.id).values(**values))
    if done.rowcount == 0:
        connection.execute(insert(t.nodes).values(id=node.id, **values))
    if node.phase in NODE_ENDED:
        # an ended node's silence is nobody's concern
        connection.execute(update(t.node_status).where(t.node_status.c.node_id == node.id).values(noticed=1))


def save_launch(connection: Connection, cluster_id: ClusterId, launch: Launch) -> None:
    values = {"cluster_id": cluster_id, "doc": wire.unstructure(launch)}
    done = connection.execute(update(t.launches).where(t.launches.c.token == launch.token).values(**values))
    if done.rowcount == 0:
        connection.execute(insert(t.launches).values(token=launch.token, **values))


def close_launch(connection: Connection, token: Token) -> None:
    connection.execute(delete(t.launches).where(t.launches.c.token == token))


def save_job(connection: Connection, job: Job) -> None:
    values = {"cluster_id": job.cluster_id, "created_at": job.created_at, "doc": wire.unstructure(job)}
    done = connection.execute(update(t.jobs).where(t.jobs.c.id == job.id).values(**values))
    if done.rowcount == 0:
        connection.execute(insert(t.jobs).values(id=job.id, **values))


def add_shortage(connection: Connection, cloud: str, shortage: Shortage) -> None:
    connection.execute(insert(t.shortages).values(cloud=cloud, until=shortage.until, doc=wire.unstructure(shortage)))


def add_event(connection: Connection, one: Event) -> None:
    values = attrs.asdict(one)
    del values["id"]
    connection.execute(insert(t.events).values(**values))


def record_of(
    row: RowMapping, *, nodes: tuple[NodeRecord, ...], launches: tuple[Launch, ...], jobs: tuple[Job, ...]
) -> ClusterRecord:
    status = wire.structure(row["status"], Status)
    return ClusterRecord(
        id=ClusterId(row["id"]),
        name=row["name"],
        cloud=row["cloud"],
        spec=wire.structure(row["spec"], ClusterSpec),
        generation=row["generation"],
        goal=Goal(row["goal"]),
        end_cause=EndCause(row["end_cause"]),
        end_reason=row["end_reason"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        identity=row["identity"],
        nodes=nodes,
        launches=launches,
        jobs=jobs,
        **{field.name: getattr(status, field.name) for field in attrs.fields(Status)},
    )
