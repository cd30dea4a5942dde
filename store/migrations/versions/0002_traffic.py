"""Groups, how a service is called, leases with a baseline and more mirrors, draining by hand, a history of changes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, whose defaults mean what was before, and the tables."""
    op.add_column("services", sa.Column("traffic", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("leases", sa.Column("baseline", sa.Integer))
    op.add_column("leases", sa.Column("mirrors", sa.JSON, nullable=False, server_default="[]"))
    op.create_table(
        "groups",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("members", sa.JSON, nullable=False),
        sa.Column("sticky", sa.JSON),
    )
    op.create_table(
        "drained", sa.Column("instance", sa.String(96), primary_key=True), sa.Column("since", sa.Float, nullable=False)
    )
    op.create_table(
        "in_force",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("name", sa.String(64), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.Column("by", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Take them away again."""
    for name in ("changes", "in_force", "drained", "groups"):
        op.drop_table(name)
    for table, column in (("leases", "mirrors"), ("leases", "baseline"), ("services", "traffic")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
