"""Identities of some clusters' own: which a cluster runs as, room for their kinds, and clouds whose rules may change.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("clouds", sa.Column("changed_at", sa.BigInteger(), nullable=True))
    op.add_column("clusters", sa.Column("identity", sa.String(length=63), server_default="", nullable=False))
    with op.batch_alter_table("cloud_resources") as resources:
        resources.alter_column("kind", existing_type=sa.String(length=16), type_=sa.String(length=80))


def downgrade() -> None:
    with op.batch_alter_table("cloud_resources") as resources:
        resources.alter_column("kind", existing_type=sa.String(length=80), type_=sa.String(length=16))
    with op.batch_alter_table("clusters") as clusters:
        clusters.drop_column("identity")
    with op.batch_alter_table("clouds") as clouds:
        clouds.drop_column("changed_at")
