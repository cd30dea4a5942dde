"""Which processors and GPUs an instance has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Instances of before have none yet; they get one when they are started again."""
    op.add_column("instances", sa.Column("placement", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Take it away again."""
    with op.batch_alter_table("instances") as batch:
        batch.drop_column("placement")
