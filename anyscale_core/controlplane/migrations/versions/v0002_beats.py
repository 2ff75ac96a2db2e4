"""What a node said last, as far as it decides whether the next word of it is news.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # An empty mark is nobody's: the next heartbeat of every node counts as news.
    op.add_column("node_status", sa.Column("seq", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("node_status", sa.Column("mark", sa.String(length=32), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("node_status") as batch:
        batch.drop_column("mark")
        batch.drop_column("seq")
