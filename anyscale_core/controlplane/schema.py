"""Tables. One writer each: users write wishes, the reconciler (under a lease) writes status, heartbeats write node_status.

Instants are stored as whole microseconds since 1970 (UTC), so that SQLite and PostgreSQL compare them alike.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime as a BIGINT of microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else EPOCH + timedelta(microseconds=value)


metadata = MetaData()

meta = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

clouds = Table(
    "clouds",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("spec", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant),  # its spec, since it was registered
    Column("ends_at", Instant),  # since when it is being taken down
)

cloud_resources = Table(
    "cloud_resources",
    metadata,
    Column("cloud", String(63), primary_key=True),
    Column("kind", String(80), primary_key=True),  # network | bucket | identity | identity:NAME
    Column("name", String(128), nullable=False),
    Column("token", String(64), nullable=False),
    Column("doc", JSON),  # what the driver returned; null until it did
)

clusters = Table(
    "clusters",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("cloud", String(63), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),  # grows with every change of what nodes are told
    # the wish
    Column("spec", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("goal", String(16), nullable=False),
    Column("end_cause", String(16), nullable=False),
    Column("end_reason", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("project", String(63), nullable=False, server_default=""),  # empty: none
    Column("identity", String(63), nullable=False, server_default=""),  # what its nodes run as; empty: the cloud's own
    # the status
    Column("phase", String(16), nullable=False),
    Column("status", JSON, nullable=False),
    Column("ended_at", Instant),
    Column("held", Integer, nullable=False, server_default="0"),  # 1: a quota holds its growth back
    # the work: due when, and who holds it; a lease token is never used twice
    Column("due_at", Instant),
    Column("lease_holder", String(64)),
    Column("lease_token", Integer, nullable=False, server_default="0"),
    Column("lease_until", Instant),
)
Index(
    "clusters_live_name",
    clusters.c.name,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
Index("clusters_held", clusters.c.held, sqlite_where=text("held = 1"), postgresql_where=text("held = 1"))
Index("clusters_due", clusters.c.due_at)
Index("clusters_leased", clusters.c.lease_until)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("cluster_id", String(40), nullable=False, index=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("phase", String(16), nullable=False),
    Column("phase_since", Instant, nullable=False),
    Column("launch", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),  # when it was seen gone; null: it may exist
    Column("price_per_hour", Float, nullable=False),
    Column("charge", Text, nullable=False),  # what it takes of quotas: one text for all nodes that take the same
    Column("doc", JSON, nullable=False),
)
Index("nodes_ended", nodes.c.ended_at)

launches = Table(
    "launches",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("cluster_id", String(40), nullable=False, index=True),
    Column("doc", JSON, nullable=False),
)

node_status = Table(
    "node_status",
    metadata,
    Column("node_id", String(40), primary_key=True),
    Column("cluster_id", String(40), nullable=False, index=True),
    Column("seen_at", Instant, nullable=False),
    Column("noticed", Integer, nullable=False, server_default="0"),  # 1: its silence has been passed on already
    Column("nonce", String(64), nullable=False),  # sha256 of the agent's nonce
    Column("seq", BigInteger, nullable=False, server_default="0"),  # of the last heartbeat that was believed
    Column("mark", String(32), nullable=False, server_default=""),  # of what it said (``beats.mark_of``)
    Column("doc", JSON, nullable=False),
)
Index("node_status_silence", node_status.c.noticed, node_status.c.seen_at)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("cluster_id", String(40), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
    Column("doc", JSON, nullable=False),
)

shortages = Table(
    "shortages",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("cloud", String(63), nullable=False, index=True),
    Column("until", Instant, nullable=False),
    Column("doc", JSON, nullable=False),
)

quotas = Table(
    "quotas",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("spec", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("levels", JSON, nullable=False),  # how far each limit is used up, as was last warned of
)

spending = Table(
    "spending",
    metadata,
    # What forgotten nodes cost, by day (its midnight, UTC). Nodes that are remembered are counted from their own rows.
    Column("day", Instant, primary_key=True),
    Column("cloud", String(63), primary_key=True),
    Column("created_by", String(128), primary_key=True),
    Column("project", String(63), primary_key=True),  # empty: none
    Column("dollars", Float, nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order of a lane
    Column("id", String(40), nullable=False, unique=True),
    Column("attempt", Integer, nullable=False),
    Column("cloud", String(63), nullable=False),
    Column("lane", String(40), nullable=False),
    Column("action", String(48), nullable=False),
    Column("body", Text, nullable=False),  # the arguments, sealed with the plane's key
    Column("expires_at", Instant, nullable=False),
    Column("given_at", Instant),  # when an operator was first told; null: nobody has heard of it
    Column("done_at", Instant),
    Column("outcome", Text),  # sealed likewise
    sqlite_autoincrement=True,  # a number is never used twice
)
Index("orders_open", orders.c.cloud, sqlite_where=text("done_at IS NULL"), postgresql_where=text("done_at IS NULL"))
Index("orders_expiry", orders.c.expires_at)

operators = Table(
    "operators",
    metadata,
    Column("cloud", String(63), primary_key=True),
    Column("epoch", Integer, nullable=False),  # tokens and credentials of earlier ones are revoked
    Column("state", String(16), nullable=False),
    Column("since", Instant, nullable=False),
    Column("seen_at", Instant),
    Column("replica", String(64), nullable=False),  # who leads, until lease_until
    Column("lease_until", Instant),
    Column("health", JSON),
    Column("catalogue", JSON),  # the last offerings: what can be wished for while nobody answers
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("cluster_id", String(40), index=True),
    Column("node", String(63)),
    Column("kind", String(48), nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("fields", JSON, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(48), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("detail", Text, nullable=False),
)
