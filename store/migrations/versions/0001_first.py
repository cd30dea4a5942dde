"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables, and the one row of the revision counter."""
    from store.tables import metadata

    metadata.create_all(op.get_bind())
    op.get_bind().execute(sa.text("INSERT INTO revision (id, value) VALUES (1, 0)"))


def downgrade() -> None:
    """Drop all tables."""
    from store.tables import metadata

    metadata.drop_all(op.get_bind())
