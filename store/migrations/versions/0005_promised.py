"""What room a release was promised for its candidate before that is declared."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Releases of before were promised none."""
    op.add_column("releases", sa.Column("promised", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Take it away again."""
    with op.batch_alter_table("releases") as batch:
        batch.drop_column("promised")
