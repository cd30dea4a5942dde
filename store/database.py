"""One SQL database, brought up to date when it is opened, and transactions on it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool

from rollout.errors import Unavailable
from store import tables as t
from store.port import StoreSettings

MIGRATIONS = Path(__file__).parent / "migrations"
_migrating = threading.Lock()  # alembic's context is global to the process


class Database:
    """Safe to use from several threads and processes."""

    def __init__(self, settings: StoreSettings) -> None:
        self._engine = _connect(settings.url)
        in_memory = isinstance(self._engine.pool, StaticPool)  # one connection for all threads
        self._turn: contextlib.AbstractContextManager[Any] = (
            threading.RLock() if in_memory else contextlib.nullcontext()
        )
        _migrate(self._engine)

    @contextlib.contextmanager
    def _begin(self, desired: bool = False) -> Iterator[sa.Connection]:
        """A transaction; ``desired`` ones make the revision grow."""
        try:
            with self._turn, self._engine.begin() as connection:
                if desired:  # first, so that SQLite takes its write lock before anything is read
                    connection.execute(t.revision.update().values(value=t.revision.c.value + 1))
                yield connection
        except OperationalError as error:
            raise Unavailable(f"the state database does not answer: {error.orig}") from error


def rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """What ``query`` finds, as mappings."""
    return [dict(row) for row in connection.execute(query).mappings()]


def of(query: sa.Select[Any], table: sa.Table, service: str | None) -> sa.Select[Any]:
    """``query`` for one service; None: for all."""
    return query if service is None else query.where(table.c.service == service)


def put(connection: sa.Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """The row with that key has these values from now on."""
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if connection.execute(table.update().where(same).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(**values))


def _connect(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    if url in ("sqlite://", "sqlite:///:memory:"):
        return sa.create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 15})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:  # readers never wait for a writer; a power cut loses nothing old
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _migrate(engine: sa.Engine) -> None:
    """Bring the tables up to date, once; processes that start together wait for one another."""
    for attempt in range(20):
        try:
            with _migrating, engine.begin() as connection:
                if _at_head(connection):
                    return
                if engine.dialect.name == "sqlite":  # else each change of a table would be a transaction of its own,
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # and a crash would leave half of them
                if not _at_head(connection):
                    _upgrade(connection)
                return
        except (OperationalError, IntegrityError):  # another process is doing the same
            if attempt == 19:
                raise
            time.sleep(0.25)


def _at_head(connection: sa.Connection) -> bool:
    """Whether the newest migration was run; asked without loading alembic, which takes longer than all the rest."""
    newest = max(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == newest


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
