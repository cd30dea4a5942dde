"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables as they were at first, and the one row of the revision counter."""
    for make in (_services, _versions, _instances, _traffic, _releases, _happenings):
        make()
    op.execute("INSERT INTO revision (id, value) VALUES (1, 0)")


def downgrade() -> None:
    """Drop them."""
    for name in ("deliveries", "events", "releases", "observed", "leases", "instances", "versions", "services"):
        op.drop_table(name)
    op.drop_table("revision")


def _services() -> None:
    op.create_table(
        "revision", sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.Integer, nullable=False)
    )
    op.create_table(
        "services",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("stable", sa.Integer),
        sa.Column("response_timeout_s", sa.Float, nullable=False),
        sa.Column("body_limit_bytes", sa.Integer, nullable=False),
        sa.Column("port", sa.Integer),
    )


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("service", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model_uri", sa.Text, nullable=False),
        sa.Column("engine", sa.JSON, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("instances", sa.Integer, nullable=False),
        sa.Column("warm_up_requests", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("retire_at", sa.Float),
        sa.Column("engine_name", sa.String(64), nullable=False),
    )


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("service", sa.String(64), nullable=False, index=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("health", sa.String(16), nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("retry_at", sa.Float),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("warm_up", sa.JSON, nullable=False),
    )


def _traffic() -> None:
    op.create_table(
        "leases",
        sa.Column("service", sa.String(64), primary_key=True),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("canary_permille", sa.Integer, nullable=False),
        sa.Column("mirror_permille", sa.Integer, nullable=False),
        sa.Column("from_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
    )
    op.create_table(
        "observed",
        sa.Column("service", sa.String(64), primary_key=True),
        sa.Column("stable", sa.Integer),
        sa.Column("lease", sa.JSON),
        sa.Column("revision", sa.String(96), nullable=False),
        sa.Column("confirmed_at", sa.Float, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("service", sa.String(64), nullable=False, index=True),
        sa.Column("model_uri", sa.Text, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("candidate", sa.Integer),
        sa.Column("stable_before", sa.Integer),
        sa.Column("flow_run", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("beat_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("evidence", sa.JSON, nullable=False),
    )


def _happenings() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("service", sa.String(64), nullable=False, index=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("release", sa.String(64), nullable=False, index=True),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "deliveries", sa.Column("id", sa.String(128), primary_key=True), sa.Column("at", sa.Float, nullable=False)
    )
