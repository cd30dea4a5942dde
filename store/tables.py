"""The tables. Values that are only carried, never searched, are JSON."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table, Text

metadata = MetaData()

revision = Table(
    "revision", metadata, Column("id", Integer, primary_key=True), Column("value", Integer, nullable=False)
)

services = Table(
    "services",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("stable", Integer),
    Column("response_timeout_s", Float, nullable=False),
    Column("body_limit_bytes", Integer, nullable=False),
    Column("port", Integer),
    Column("traffic", JSON, nullable=False, server_default="{}"),
)

versions = Table(
    "versions",
    metadata,
    Column("service", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("model_uri", Text, nullable=False),
    Column("engine", JSON, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("warm_up_requests", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("retire_at", Float),
    Column("engine_name", String(64), nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("service", String(64), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("host", String(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("health", String(16), nullable=False),
    Column("pid", Integer),
    Column("restarts", Integer, nullable=False),
    Column("retry_at", Float),
    Column("since", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("warm_up", JSON, nullable=False),
    Column("placement", JSON, nullable=False, server_default="{}"),
)

leases = Table(
    "leases",
    metadata,
    Column("service", String(64), primary_key=True),
    Column("candidate", Integer, nullable=False),
    Column("canary_permille", Integer, nullable=False),
    Column("mirror_permille", Integer, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("release", String(64), nullable=False),
    Column("baseline", Integer),
    Column("mirrors", JSON, nullable=False, server_default="[]"),
)

groups = Table(
    "groups",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("members", JSON, nullable=False),
    Column("sticky", JSON(none_as_null=True)),
)

drained = Table(
    "drained", metadata, Column("instance", String(96), primary_key=True), Column("since", Float, nullable=False)
)

changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("name", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("what", Text, nullable=False),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    Column("by", String(64), nullable=False),
)

in_force = Table(
    "in_force",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("error", Text, nullable=False),
)

observed = Table(
    "observed",
    metadata,
    Column("service", String(64), primary_key=True),
    Column("stable", Integer),
    Column("lease", JSON),
    Column("revision", String(96), nullable=False),
    Column("confirmed_at", Float, nullable=False),
    Column("error", Text, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("service", String(64), nullable=False, index=True),
    Column("model_uri", Text, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("candidate", Integer),
    Column("stable_before", Integer),
    Column("flow_run", String(64), nullable=False),
    Column("stage", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("beat_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("evidence", JSON, nullable=False),
    Column("borrowed", Integer, nullable=False, server_default="0"),
    Column("promised", JSON, nullable=False, server_default="{}"),
    Column("baseline", Integer),
    Column("waiting", Text, nullable=False, server_default=""),
    Column("waiting_key", Text, nullable=False, server_default=""),
    Column("asked", Integer, nullable=False, server_default="0"),
    Column("answer", JSON(none_as_null=True)),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("service", String(64), nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("text", Text, nullable=False),
    Column("release", String(64), nullable=False, index=True),
    Column("data", JSON, nullable=False),
)

deliveries = Table(
    "deliveries", metadata, Column("id", String(128), primary_key=True), Column("at", Float, nullable=False)
)
