"""The statements of every turn, built once: to build one with SQLAlchemy takes longer than SQLite takes to answer it."""

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from anyscale_core.controlplane import schema as t
from anyscale_core.models.phases import NODE_ENDED

_c, _n, _s, _o, _op = t.clusters.c, t.nodes.c, t.node_status.c, t.orders.c, t.operators.c

CLUSTER = select(t.clusters).where(_c.id == bindparam("cluster"))
NODES = select(_n.doc).where(_n.cluster_id == bindparam("cluster"))
NODES_SINCE = NODES.where(
    or_(_n.phase.not_in([phase.value for phase in NODE_ENDED]), _n.phase_since >= bindparam("since"))
)
"""Those that have not ended, or not before ``since``."""
NODE = select(_n.doc).where(_n.id == bindparam("node"))
LAUNCHES = select(t.launches.c.doc).where(t.launches.c.cluster_id == bindparam("cluster"))
JOBS = select(t.jobs.c.doc).where(t.jobs.c.cluster_id == bindparam("cluster")).order_by(t.jobs.c.created_at)
STATUSES = select(_s.doc, _s.seen_at, _s.seq).where(_s.cluster_id == bindparam("cluster"))
SHORTAGES = (
    select(t.shortages.c.doc)
    .where(t.shortages.c.cloud == bindparam("cloud"), t.shortages.c.until > bindparam("now"))
    .order_by(t.shortages.c.id)
)

_is_free = or_(_c.lease_until.is_(None), _c.lease_until <= bindparam("now"))
FREE = select(_c.due_at).where(_c.due_at.is_not(None), _is_free).order_by(_c.due_at).limit(1)
"""When the first of those is due that nobody holds."""
HELD = select(_c.lease_until).where(_c.lease_until > bindparam("now")).order_by(_c.lease_until).limit(1)
"""When the first lease lapses."""
DUE = (
    select(_c.id, _c.lease_token)
    .where(_c.due_at <= bindparam("now"), _is_free)
    .order_by(_c.due_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)
TAKE = (
    update(t.clusters)
    .where(_c.id == bindparam("cluster"))
    .values(
        lease_holder=bindparam("holder"), lease_token=bindparam("token"), lease_until=bindparam("until"),
        due_at=bindparam("until"),
    )
)  # fmt: skip
FENCE = (
    update(t.clusters)
    .where(_c.id == bindparam("cluster"), _c.lease_token == bindparam("token"), _c.lease_until > bindparam("now"))
    .values(version=_c.version + 1)
)
"""Touches the row of a live lease, and locks it for the transaction."""

_is_open = _o.done_at.is_(None) & (_o.expires_at > bindparam("now"))
_is_attempt = (_o.id == bindparam("order")) & (_o.attempt == bindparam("of_attempt"))
_is_answered = _is_attempt & (_o.cloud == bindparam("by_cloud")) & _o.done_at.is_(None)
OPEN_COUNTS = select(_o.cloud, func.count()).where(_is_open).group_by(_o.cloud)
OPEN_ORDERS = select(t.orders).where(_o.cloud == bindparam("cloud"), _is_open).order_by(_o.number)
ADD_ORDER = insert(t.orders)
ORDER = select(t.orders).where(_o.id == bindparam("order"), _o.attempt >= bindparam("of_attempt"))
GIVEN = update(t.orders).where(_o.number == bindparam("which")).values(given_at=bindparam("now"))
ANSWER = update(t.orders).where(_is_answered).values(done_at=bindparam("now"), outcome=bindparam("said"))
ANSWERED = delete(t.orders).where(_is_answered)
"""Who has asked a question is told its answer in this process: nobody else needs it."""
OPERATOR = select(*[column for column in _op if column.name not in ("catalogue", "health")]).where(
    _op.cloud == bindparam("of_cloud")
)
"""Without what it tells now and then: documents that nobody needs who asks whether it is there."""
