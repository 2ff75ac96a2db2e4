"""The first tables. Instants are BIGINT microseconds.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Several processes may share a PostgreSQL store: whoever changes a cluster or makes one due, all that listen hear of it.
TELL = """
CREATE FUNCTION anyscale_core_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('anyscale_core_changed', NEW.id);
    RETURN NULL;
END $$
"""
ON_INSERT = """
CREATE TRIGGER clusters_inserted AFTER INSERT ON clusters
FOR EACH ROW EXECUTE FUNCTION anyscale_core_changed()
"""
ON_UPDATE = """
CREATE TRIGGER clusters_changed AFTER UPDATE ON clusters
FOR EACH ROW WHEN (
    NEW.version <> OLD.version
    OR (NEW.due_at IS NOT NULL AND NEW.due_at IS DISTINCT FROM OLD.due_at AND NEW.lease_token = OLD.lease_token)
)
EXECUTE FUNCTION anyscale_core_changed()
"""


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=48), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "cloud_resources",
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("cloud", "kind"),
    )
    op.create_table(
        "clouds",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "clusters",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("goal", sa.String(length=16), nullable=False),
        sa.Column("end_cause", sa.String(length=16), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_holder", sa.String(length=64), nullable=True),
        sa.Column("lease_token", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("clusters_due", "clusters", ["due_at"], unique=False)
    op.create_index("clusters_leased", "clusters", ["lease_until"], unique=False)
    op.create_index(
        "clusters_live_name",
        "clusters",
        ["name"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("cluster_id", sa.String(length=40), nullable=True),
        sa.Column("node", sa.String(length=63), nullable=True),
        sa.Column("kind", sa.String(length=48), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_events_cluster_id"), "events", ["cluster_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("cluster_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_jobs_cluster_id"), "jobs", ["cluster_id"], unique=False)
    op.create_table(
        "launches",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("cluster_id", sa.String(length=40), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_index(("ix_launches_cluster_id"), "launches", ["cluster_id"], unique=False)
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "node_status",
        sa.Column("node_id", sa.String(length=40), nullable=False),
        sa.Column("cluster_id", sa.String(length=40), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("noticed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_index(("ix_node_status_cluster_id"), "node_status", ["cluster_id"], unique=False)
    op.create_index("node_status_silence", "node_status", ["noticed", "seen_at"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("cluster_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("phase_since", sa.BigInteger(), nullable=False),
        sa.Column("launch", sa.String(length=64), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_index(("ix_nodes_cluster_id"), "nodes", ["cluster_id"], unique=False)
    op.create_table(
        "shortages",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("doc", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_shortages_cloud"), "shortages", ["cloud"], unique=False)
    if op.get_context().dialect.name == "postgresql":
        for statement in (TELL, ON_INSERT, ON_UPDATE):
            op.execute(statement)


def downgrade() -> None:
    op.drop_index(op.f("ix_shortages_cloud"), table_name="shortages")
    op.drop_table("shortages")
    op.drop_index(op.f("ix_nodes_cluster_id"), table_name="nodes")
    op.drop_table("nodes")
    op.drop_index("node_status_silence", table_name="node_status")
    op.drop_index(op.f("ix_node_status_cluster_id"), table_name="node_status")
    op.drop_table("node_status")
    op.drop_table("meta")
    op.drop_index(op.f("ix_launches_cluster_id"), table_name="launches")
    op.drop_table("launches")
    op.drop_index(op.f("ix_jobs_cluster_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_events_cluster_id"), table_name="events")
    op.drop_table("events")
    op.drop_index(
        "clusters_live_name",
        table_name="clusters",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_index("clusters_leased", table_name="clusters")
    op.drop_index("clusters_due", table_name="clusters")
    op.drop_table("clusters")
    op.drop_table("clouds")
    op.drop_table("cloud_resources")
    op.drop_table("audit")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION anyscale_core_changed()")
