"""Quotas, what forgotten nodes cost, and what quotas are counted by: projects, and each node's life, price and charge.

Revision ID: 0003
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("levels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "spending",
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("dollars", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("day", "cloud", "created_by", "project"),
    )
    op.add_column("clusters", sa.Column("project", sa.String(length=63), server_default="", nullable=False))
    op.add_column("clusters", sa.Column("held", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "clusters_held", "clusters", ["held"], unique=False,
        sqlite_where=sa.text("held = 1"), postgresql_where=sa.text("held = 1"),
    )  # fmt: skip
    op.add_column("nodes", sa.Column("created_at", sa.BigInteger(), nullable=True))
    op.add_column("nodes", sa.Column("ended_at", sa.BigInteger(), nullable=True))
    op.add_column("nodes", sa.Column("price_per_hour", sa.Float(), nullable=True))
    op.add_column("nodes", sa.Column("charge", sa.Text(), nullable=True))
    _fill()
    with op.batch_alter_table("nodes") as nodes:
        nodes.alter_column("created_at", existing_type=sa.BigInteger(), nullable=False)
        nodes.alter_column("price_per_hour", existing_type=sa.Float(), nullable=False)
        nodes.alter_column("charge", existing_type=sa.Text(), nullable=False)
    op.create_index("nodes_ended", "nodes", ["ended_at"], unique=False)


def downgrade() -> None:
    op.drop_index("nodes_ended", table_name="nodes")
    with op.batch_alter_table("nodes") as nodes:
        for name in ("charge", "price_per_hour", "ended_at", "created_at"):
            nodes.drop_column(name)
    op.drop_index(
        "clusters_held", table_name="clusters", sqlite_where=sa.text("held = 1"), postgresql_where=sa.text("held = 1")
    )
    with op.batch_alter_table("clusters") as clusters:
        clusters.drop_column("held")
        clusters.drop_column("project")
    op.drop_table("spending")
    op.drop_table("quotas")


def _fill() -> None:
    """Give the nodes that there are what the new columns say, as it stands in their documents."""
    nodes = sa.table(
        "nodes", sa.column("id", sa.String), sa.column("phase", sa.String), sa.column("phase_since", sa.BigInteger),
        sa.column("doc", sa.JSON), sa.column("created_at", sa.BigInteger), sa.column("ended_at", sa.BigInteger),
        sa.column("price_per_hour", sa.Float), sa.column("charge", sa.Text),
    )  # fmt: skip
    connection = op.get_bind()
    for row in connection.execute(sa.select(nodes.c.id, nodes.c.phase, nodes.c.phase_since, nodes.c.doc)).all():
        connection.execute(sa.update(nodes).where(nodes.c.id == row.id).values(**_values(row)))


def _values(row: Any) -> dict[str, Any]:
    doc = row.doc
    created_at = (datetime.fromisoformat(doc["created_at"]) - EPOCH) // timedelta(microseconds=1)
    return {
        "created_at": created_at,
        "ended_at": row.phase_since if row.phase in ("GONE", "FAILED") else None,
        "price_per_hour": doc["price_per_hour"],
        "charge": json.dumps(_charge(doc["resources"], doc["price_per_hour"]), sort_keys=True),
    }


def _charge(resources: dict[str, float], price: float) -> dict[str, float]:
    """As ``planning.quotas.charge`` had it when this was written; older nodes do not tell what their machines have."""
    gpus = resources.get("GPU", 0.0)
    counted = {name: gpus if gpus and name.startswith("accelerator_type:") else v for name, v in resources.items()}
    return {"nodes": 1.0, "price_per_hour": price} | {f"resources.{name}": v for name, v in counted.items()}
