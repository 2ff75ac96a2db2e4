"""What nodes say, recorded many at a time: one transaction for all heartbeats that have come in meanwhile.

Whether a heartbeat is late or news is decided against the node's row, in the transaction that writes it, and nothing of it is
kept in memory: several control planes on one store may hear the same node.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs
import msgspec
from sqlalchemy import Connection, bindparam, select, update

from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.rows import touch
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import Transient
from anyscale_core.models import wire
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.node import Heartbeat
from anyscale_core.models.records import NodeStatus, Timing

TRIES = 5
"""How often a transaction is made anew because another control plane wrote the same nodes between its read and its write."""


_S, _C = t.node_status.c, t.clusters.c
_READ = (
    select(_S.node_id, _S.cluster_id, _C.version, _S.seen_at, _S.seq, _S.mark, _S.doc["registered_at"].as_string())
    .join(t.clusters, _C.id == _S.cluster_id)
    .where(_S.node_id.in_(bindparam("ids", expanding=True)))
)
_SEEN = (
    update(t.node_status)
    .where(_S.node_id == bindparam("id"), _S.seq == bindparam("read_seq"))
    .values(seq=bindparam("new_seq"), seen_at=bindparam("now"), noticed=0)
)
_WHOLE = _SEEN.values(mark=bindparam("new_mark"), doc=bindparam("new_doc"))


@attrs.frozen(kw_only=True)
class Said:
    """One heartbeat of one node."""

    node_id: NodeId
    beat: Heartbeat


@attrs.frozen(kw_only=True)
class Heard:
    """What became of it. ``version``: of its cluster, afterwards; ``news``: the cluster became due because of it."""

    version: int
    news: bool


@attrs.define(kw_only=True)
class _Row:
    """A node's row as it was read, carried forward by each heartbeat that is believed."""

    cluster_id: ClusterId
    version: int
    registered_at: datetime
    seen_at: datetime
    read_seq: int
    seq: int
    mark: str
    last: Heartbeat | None = None
    rewrite: bool = False
    """Whether more than the time of its last word has to be written."""


class _Overtaken(Exception):
    """Another control plane has written one of these rows since it was read."""


def record(store: Store, said: Sequence[Said], *, now: datetime, timing: Timing) -> list[Heard | None]:
    """Record heartbeats; make the clusters due of which one says anything new. None stands for a node that is not known.

    Raises Transient when other control planes keep writing the same nodes.
    """
    if not said:
        return []
    for _ in range(TRIES):
        try:
            with store.telemetry() as connection:
                return _record(connection, said, now, timing)
        except _Overtaken:
            continue
    raise Transient("other control planes write what these nodes say; try again", reason="SERVER")


def mark_of(beat: Heartbeat, settle: timedelta) -> str:
    """Return a digest of what may change a decision or an order: ages that only grow are left out."""
    head = beat.head
    report: object = None
    if head is not None:
        wants = bool(head.demand or head.gangs)
        # What is free matters while something waits for it; a busy cluster without demand would be decided on for nothing.
        rays = sorted(
            (ray.ray_id, ray.instance_name, ray.status, sorted(ray.available.items()) if wants else ())
            for ray in head.ray_nodes
        )
        report = attrs.evolve(head, ray_nodes=(), demand_age=timedelta()), rays, head.demand_age >= settle
    said = (beat.ray, beat.ray_id, beat.epoch, beat.detail, beat.config_version, beat.renew_at, report)
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:32]


def _record(connection: Connection, said: Sequence[Said], now: datetime, timing: Timing) -> list[Heard | None]:
    rows = _read(connection, sorted({one.node_id for one in said}))
    news = [_believe(rows.get(one.node_id), one.beat, now, timing) for one in said]
    due = {rows[one.node_id].cluster_id for one, is_news in zip(said, news, strict=True) if is_news}
    for id in sorted(due):  # before the nodes, as whoever holds a cluster's lease writes them
        touch(connection, id, now)
    _write(connection, rows, now)
    return [
        Heard(version=row.version + (row.cluster_id in due), news=is_news)
        if (row := rows.get(one.node_id)) is not None
        else None
        for one, is_news in zip(said, news, strict=True)
    ]


def _read(connection: Connection, ids: Sequence[NodeId]) -> dict[NodeId, _Row]:
    return {
        NodeId(id): _Row(
            cluster_id=ClusterId(cluster_id), version=version, registered_at=datetime.fromisoformat(registered_at),
            seen_at=seen_at, read_seq=seq, seq=seq, mark=mark,
        )
        for id, cluster_id, version, seen_at, seq, mark, registered_at in connection.execute(_READ, {"ids": ids})
    }  # fmt: skip


def _believe(row: _Row | None, beat: Heartbeat, now: datetime, timing: Timing) -> bool:
    """Carry a row forward by a heartbeat; return whether that is news."""
    if row is None or beat.seq <= row.seq:
        return False  # an older one that arrives late is not believed
    mark = mark_of(beat, timing.settle)
    is_news = mark != row.mark or now - row.seen_at > timing.suspect_after
    row.seen_at, row.seq, row.mark, row.last = now, beat.seq, mark, beat
    # Of a head the ages count too: what Ray shows as idle is counted on from the last report.
    row.rewrite = row.rewrite or is_news or beat.head is not None
    return is_news


def _write(connection: Connection, rows: Mapping[NodeId, _Row], now: datetime) -> None:
    """Write what was believed. Raises _Overtaken unless every row is as it was read."""
    believed = sorted((id, row) for id, row in rows.items() if row.last is not None)
    for statement, rewrite in ((_SEEN, False), (_WHOLE, True)):
        values = [_values(id, row, now) for id, row in believed if row.rewrite is rewrite]
        if values and connection.execute(statement, values).rowcount != len(values):
            raise _Overtaken


def _values(id: NodeId, row: _Row, now: datetime) -> dict[str, object]:
    values: dict[str, object] = {"id": id, "read_seq": row.read_seq, "new_seq": row.seq, "now": now}
    if row.rewrite:
        values |= {"new_mark": row.mark, "new_doc": wire.unstructure(_status(id, row))}
    return values


def _status(id: NodeId, row: _Row) -> NodeStatus:
    beat = row.last
    assert beat is not None, "only what was said is written"
    return NodeStatus(
        node_id=id, registered_at=row.registered_at, seen_at=row.seen_at, seq=beat.seq, ray=beat.ray, ray_id=beat.ray_id,
        epoch=beat.epoch, detail=beat.detail, config_version=beat.config_version, renew_at=beat.renew_at, head=beat.head,
    )  # fmt: skip
