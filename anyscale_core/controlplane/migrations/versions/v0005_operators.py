"""The mailbox of operators (pull mode), and what is known of each operator.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# Whoever orders something or hears what came of it, all processes on a PostgreSQL store hear of it (migration 0001).
TELL = """
CREATE TRIGGER orders_{what} AFTER {what} ON orders
FOR EACH ROW EXECUTE FUNCTION anyscale_core_changed()
"""
ON_DONE = """
CREATE TRIGGER orders_done AFTER UPDATE ON orders
FOR EACH ROW WHEN (NEW.done_at IS NOT NULL AND OLD.done_at IS NULL)
EXECUTE FUNCTION anyscale_core_changed()
"""


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("lane", sa.String(length=40), nullable=False),
        sa.Column("action", sa.String(length=48), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=True),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "orders_open", "orders", ["cloud"], unique=False,
        sqlite_where=sa.text("done_at IS NULL"), postgresql_where=sa.text("done_at IS NULL"),
    )  # fmt: skip
    op.create_index("orders_expiry", "orders", ["expires_at"], unique=False)
    op.create_table(
        "operators",
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=True),
        sa.Column("replica", sa.String(length=64), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("health", sa.JSON(), nullable=True),
        sa.Column("catalogue", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("cloud"),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(TELL.format(what="insert"))
        op.execute(ON_DONE)


def downgrade() -> None:
    op.drop_table("operators")
    op.drop_index("orders_expiry", table_name="orders")
    op.drop_index(
        "orders_open", table_name="orders",
        sqlite_where=sa.text("done_at IS NULL"), postgresql_where=sa.text("done_at IS NULL"),
    )  # fmt: skip
    op.drop_table("orders")
