"""How many instances of stable make room for a release's candidate."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Releases of before borrowed none."""
    op.add_column("releases", sa.Column("borrowed", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    """Take it away again."""
    with op.batch_alter_table("releases") as batch:
        batch.drop_column("borrowed")
