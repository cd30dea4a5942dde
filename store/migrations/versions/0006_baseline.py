"""A release's baseline version, and what it asks a person and was told."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Releases of before had no baseline and asked nobody."""
    op.add_column("releases", sa.Column("baseline", sa.Integer))
    op.add_column("releases", sa.Column("waiting", sa.Text, nullable=False, server_default=""))
    op.add_column("releases", sa.Column("waiting_key", sa.Text, nullable=False, server_default=""))
    op.add_column("releases", sa.Column("asked", sa.Integer, nullable=False, server_default="0"))
    op.add_column("releases", sa.Column("answer", sa.JSON))


def downgrade() -> None:
    """Take them away again."""
    with op.batch_alter_table("releases") as batch:
        for name in ("baseline", "waiting", "waiting_key", "asked", "answer"):
            batch.drop_column(name)
