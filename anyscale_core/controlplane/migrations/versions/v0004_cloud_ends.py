"""Clouds that are being taken down.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("clouds", sa.Column("ends_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("clouds") as clouds:
        clouds.drop_column("ends_at")
