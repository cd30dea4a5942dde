"""A database of an earlier version is brought up to date when it is opened, with all that it holds."""

from __future__ import annotations

import multiprocessing

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from rollout.nouns import Lease
from store import tables
from store.database import MIGRATIONS
from store.port import ServiceState, StoreSettings, open_store

INSTANCE = "'chat-v1-0', 'chat', 1, 0, '127.0.0.1', 18100, 'ready', 7, 0, NULL, 5.0, '', '{}'"
LEASE = "'chat', 2, 50, 100, 1000, 2000, 'r1'"
OBSERVED = """'chat', 1, '{"candidate": 2, "canary_permille": 50, "mirror_permille": 100, "from_ms": 1000, \
"until_ms": 2000, "release": "r1"}', '7', 1.0, ''"""


def migrate(url, to, downwards=False):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.downgrade if downwards else command.upgrade)(config, to)
    return engine


@pytest.fixture
def url(tmp_path):
    """A database as the first version left it."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with migrate(url, "0001").begin() as connection:
        connection.execute(sa.text("INSERT INTO services VALUES ('chat', 1, 5.0, 1048576, 18100)"))
        connection.execute(sa.text(f"INSERT INTO leases VALUES ({LEASE})"))
        connection.execute(sa.text(f"INSERT INTO observed VALUES ({OBSERVED})"))
        connection.execute(sa.text(f"INSERT INTO instances VALUES ({INSTANCE})"))
        connection.execute(sa.text("UPDATE revision SET value = 41"))
    return url


def test_rows_of_the_first_version_are_kept(url):
    """Services have no traffic settings, leases no baseline and no more mirrors, instances no place of their own."""
    store = open_store(StoreSettings(url))
    assert [(i.id, i.pid, i.placement) for i in store.instances()] == [("chat-v1-0", 7, {})]
    assert store.services() == [ServiceState("chat", 1, 5.0, 1 << 20, 18100)]
    assert store.leases() == {"chat": Lease(2, 50, 100, 1000, 2000, "r1")}
    assert store.observed("chat").lease == Lease(2, 50, 100, 1000, 2000, "r1")
    assert store.groups() == [] and store.changes() == [] and store.drained() == frozenset()
    assert store.revision() == 41
    store.put_service(ServiceState("new", traffic={"websocket": True}))
    assert store.service("new").traffic == {"websocket": True}


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path):
    """Column for column."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    open_store(StoreSettings(url))
    found = sa.inspect(sa.create_engine(url))
    for table in tables.metadata.sorted_tables:
        made = {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table.name)}
        assert made == {c.name: (str(c.type), bool(c.nullable)) for c in table.columns}, table.name


def test_a_migration_can_be_taken_back(url):
    """Down to the first tables and up again, the rows still there."""
    open_store(StoreSettings(url)).put_service(ServiceState("other", traffic={"websocket": True}))
    migrate(url, "0001", downwards=True)
    assert "groups" not in sa.inspect(sa.create_engine(url)).get_table_names()
    assert [s.name for s in open_store(StoreSettings(url)).services()] == ["chat", "other"]


def opened(url):
    return len(open_store(StoreSettings(url)).services())


def test_processes_that_open_an_old_database_at_once_bring_it_up_once(url):
    """One migrates, the others wait; none sees half of it."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(opened, [url] * 3) == [1, 1, 1]
