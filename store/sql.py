"""The store on any SQL database, through SQLAlchemy Core. Each verb is one transaction."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool

from rollout.errors import Conflict, NotFound, Unavailable
from rollout.nouns import Health, Lease, Phase
from store import tables as t
from store.port import Event, InstanceState, Observed, Release, ServiceState, StoreSettings, VersionState

R = TypeVar("R")
ACTIVE = tuple(phase for phase in Phase if phase.active)
MIGRATIONS = Path(__file__).parent / "migrations"
_migrating = threading.Lock()  # alembic's context is global to the process


class SqlStore:
    """Desired and observed state in one database. Safe to use from several threads and processes."""

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

    def revision(self) -> int:
        with self._begin() as c:
            return int(c.execute(sa.select(t.revision.c.value)).scalar_one())

    # --- services and versions

    def put_service(self, service: ServiceState) -> None:
        with self._begin(desired=True) as c:
            settings = {k: v for k, v in asdict(service).items() if k != "stable"}
            if c.execute(t.services.update().where(t.services.c.name == service.name).values(**settings)).rowcount == 0:
                c.execute(t.services.insert().values(**asdict(service)))

    def services(self) -> list[ServiceState]:
        with self._begin() as c:
            return [ServiceState(**r) for r in _rows(c, sa.select(t.services).order_by(t.services.c.name))]

    def service(self, name: str) -> ServiceState:
        found = {s.name: s for s in self.services()}
        if name not in found:
            raise NotFound(f"there is no service {name!r}; there are: {', '.join(found) or 'none yet'}")
        return found[name]

    def drop_service(self, name: str, now: float) -> None:
        with self._begin(desired=True) as c:
            for release in self._active(c, name):
                _finish(c, release["id"], Phase.FAILED, "its service was removed", now, {})
            for table in (t.versions, t.leases, t.observed):
                c.execute(table.delete().where(table.c.service == name))
            c.execute(t.services.delete().where(t.services.c.name == name))

    def add_version(self, version: VersionState, release: str) -> VersionState:
        with self._begin(desired=True) as c:
            self._must_run(c, release, version.service)
            numbered = replace(version, number=_highest_number(c, version.service) + 1)
            c.execute(t.versions.insert().values(**asdict(numbered)))
            c.execute(t.releases.update().where(t.releases.c.id == release).values(candidate=numbered.number))
            return numbered

    def versions(self, service: str | None = None) -> list[VersionState]:
        query = sa.select(t.versions).order_by(t.versions.c.service, t.versions.c.number)
        with self._begin() as c:
            return [VersionState(**r) for r in _rows(c, _of(query, t.versions, service))]

    def scale(self, service: str, number: int, instances: int) -> None:
        with self._begin(desired=True) as c:
            c.execute(t.versions.update().where(_is(service, number)).values(instances=instances, retire_at=None))

    def retire(self, service: str, number: int, due_by: float | None = None) -> bool:
        with self._begin(desired=True) as c:
            return _retire(c, service, number, due_by)

    def put_instance(self, instance: InstanceState) -> None:
        with self._begin() as c:
            _put(c, t.instances, {"id": instance.id}, asdict(instance))

    def drop_instance(self, instance_id: str) -> None:
        with self._begin() as c:
            c.execute(t.instances.delete().where(t.instances.c.id == instance_id))

    def instances(self, service: str | None = None) -> list[InstanceState]:
        query = sa.select(t.instances).order_by(t.instances.c.id)
        with self._begin() as c:
            rows = _rows(c, _of(query, t.instances, service))
        return [InstanceState(**{**r, "health": Health(r["health"])}) for r in rows]

    # --- who gets the traffic

    def grant(self, lease: Lease, service: str, now: float) -> None:
        with self._begin(desired=True) as c:
            holder = self._must_run(c, lease.release, service)
            own = holder["candidate"]
            if lease.candidate == _stable(c, service) or own not in (None, lease.candidate):
                told = f"version {lease.candidate} is not the candidate of release {lease.release} ({own})"
                raise Conflict(f"{told}, or it is stable already; nothing was moved")
            _put(c, t.leases, {"service": service}, {"service": service, **asdict(lease)})
            c.execute(t.releases.update().where(t.releases.c.id == lease.release).values(beat_at=now))

    def leases(self) -> dict[str, Lease]:
        with self._begin() as c:
            rows = _rows(c, sa.select(t.leases))
        return {r.pop("service"): Lease(**r) for r in rows}

    def put_observed(self, observed: Observed) -> None:
        with self._begin() as c:
            _put(c, t.observed, {"service": observed.service}, asdict(observed))

    def observed(self, service: str) -> Observed | None:
        with self._begin() as c:
            rows = _rows(c, _of(sa.select(t.observed), t.observed, service))
        for row in rows:
            return Observed(**{**row, "lease": Lease(**row["lease"]) if row["lease"] else None})
        return None

    # --- releases

    def begin_release(self, release: Release, now: float, stale_s: float) -> Release:
        with self._begin(desired=True) as c:
            for other in self._active(c, release.service):
                if now - other["beat_at"] < stale_s:
                    raise Conflict(
                        f"release {other['id']} of service {release.service!r} is under way "
                        f"(stage {other['stage']!r}); "
                        f"wait for it, or end it with `roundhouse rollback {release.service}`"
                    )
                lost = f"its process was not heard of for {now - other['beat_at']:.0f} s"
                _finish(c, other["id"], Phase.FAILED, lost, now, {})
            stable = _stable(c, release.service)
            begun = replace(release, phase=Phase.RUNNING, created_at=now, beat_at=now, stable_before=stable)
            c.execute(t.releases.insert().values(**asdict(begun)))
        return begun

    def beat(self, release_id: str, now: float) -> bool:
        running = sa.and_(t.releases.c.id == release_id, t.releases.c.phase.in_(ACTIVE))
        with self._begin() as c:
            return c.execute(t.releases.update().where(running).values(beat_at=now)).rowcount > 0

    def update_release(self, release_id: str, **changes: Any) -> Release:
        with self._begin(desired=True) as c:
            self._must_run(c, release_id)
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(**changes))
        return self.release(release_id)

    def promote(self, release_id: str, number: int, retire_at: float, reason: str, now: float) -> Release:
        with self._begin(desired=True) as c:
            service = self._must_run(c, release_id)["service"]
            before = _stable(c, service)
            c.execute(t.versions.update().where(_is(service, before)).values(retire_at=retire_at))
            c.execute(t.versions.update().where(_is(service, number)).values(retire_at=None))
            c.execute(t.services.update().where(t.services.c.name == service).values(stable=number))
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(candidate=number))
            _finish(c, release_id, Phase.PROMOTED, reason, now, {})
        return self.release(release_id)

    def finish_release(
        self, release_id: str, phase: Phase, reason: str, now: float, evidence: dict[str, Any]
    ) -> Release:
        with self._begin(desired=True) as c:
            _finish(c, release_id, phase, reason, now, evidence)
        return self.release(release_id)

    def undo_promotion(self, release_id: str, reason: str, now: float) -> Release:
        release = self.release(release_id)
        with self._begin(desired=True) as c:
            mine = sa.and_(t.services.c.name == release.service, t.services.c.stable == release.candidate)
            c.execute(t.services.update().where(mine).values(stable=release.stable_before))
            kept = _is(release.service, release.stable_before)
            c.execute(t.versions.update().where(kept).values(retire_at=None))
            ended = {"phase": Phase.FAILED, "reason": reason, "finished_at": now}
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(**ended))
            if release.candidate is not None:
                _retire(c, release.service, release.candidate, None)
        return self.release(release_id)

    def attach_evidence(self, release_id: str, evidence: dict[str, Any]) -> None:
        with self._begin() as c:
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(evidence=evidence))

    def release(self, release_id: str) -> Release:
        with self._begin() as c:
            rows = _rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))
        if not rows:
            raise NotFound(f"there is no release {release_id!r}")
        return _release(rows[0])

    def releases(self, service: str | None = None, limit: int = 50) -> list[Release]:
        query = sa.select(t.releases).order_by(t.releases.c.created_at.desc()).limit(limit)
        with self._begin() as c:
            return [_release(r) for r in _rows(c, _of(query, t.releases, service))]

    # --- what happened

    def note(self, event: Event) -> None:
        with self._begin() as c:
            c.execute(t.events.insert().values(**asdict(event)))

    def events(self, service: str | None = None, release: str | None = None, limit: int = 100) -> list[Event]:
        query = _of(sa.select(t.events).order_by(t.events.c.id.desc()).limit(limit), t.events, service)
        if release is not None:
            query = query.where(t.events.c.release == release)
        with self._begin() as c:
            rows = _rows(c, query)
        return [Event(**{k: v for k, v in r.items() if k != "id"}) for r in rows]

    def first_delivery(self, delivery_id: str, now: float) -> bool:
        try:
            with self._begin() as c:
                c.execute(t.deliveries.insert().values(id=delivery_id, at=now))
        except IntegrityError:
            return False
        return True

    def forget_delivery(self, delivery_id: str) -> None:
        with self._begin() as c:
            c.execute(t.deliveries.delete().where(t.deliveries.c.id == delivery_id))

    def _active(self, c: sa.Connection, service: str) -> list[dict[str, Any]]:
        running = sa.and_(t.releases.c.service == service, t.releases.c.phase.in_(ACTIVE))
        return _rows(c, sa.select(t.releases).where(running))

    def _must_run(self, c: sa.Connection, release_id: str, service: str | None = None) -> dict[str, Any]:
        """A release that was ended by somebody else may not move traffic any more."""
        rows = _rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))
        if not rows or rows[0]["phase"] not in ACTIVE or service not in (None, rows[0]["service"]):
            state = f"has ended ({rows[0]['phase']}: {rows[0]['reason']})" if rows else "is not known"
            raise Conflict(f"release {release_id} {state}; it may not move traffic")
        return rows[0]


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


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _of(query: sa.Select[Any], table: sa.Table, service: str | None) -> sa.Select[Any]:
    return query if service is None else query.where(table.c.service == service)


def _put(connection: sa.Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if connection.execute(table.update().where(same).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(**values))


def _finish(c: sa.Connection, release_id: str, phase: Phase, reason: str, now: float, evidence: dict[str, Any]) -> None:
    """End a running release and its lease; one that did not succeed also loses its candidate's instances."""
    open_one = sa.and_(t.releases.c.id == release_id, t.releases.c.phase.in_(ACTIVE))
    ended = {"phase": phase, "reason": reason, "finished_at": now, "evidence": evidence}
    if c.execute(t.releases.update().where(open_one).values(**ended)).rowcount == 0:
        return
    c.execute(t.leases.delete().where(t.leases.c.release == release_id))
    row = _rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))[0]
    if phase in (Phase.ROLLED_BACK, Phase.FAILED) and row["candidate"] is not None:
        _retire(c, row["service"], row["candidate"], None)


def _retire(c: sa.Connection, service: str, number: int, due_by: float | None) -> bool:
    held = sa.select(t.leases.c.candidate).where(t.leases.c.service == service)
    free = sa.and_(_is(service, number), t.versions.c.instances > 0, t.versions.c.number.not_in(held))
    if due_by is not None:
        free = sa.and_(free, t.versions.c.retire_at <= due_by)
    if number == _stable(c, service):
        return False
    return c.execute(t.versions.update().where(free).values(instances=0, retire_at=None)).rowcount > 0


def _is(service: str, number: int | None) -> sa.ColumnElement[bool]:
    return sa.and_(t.versions.c.service == service, t.versions.c.number == number)


def _stable(c: sa.Connection, service: str) -> int | None:
    return c.execute(sa.select(t.services.c.stable).where(t.services.c.name == service)).scalar()


def _highest_number(c: sa.Connection, service: str) -> int:
    """Of all versions that a service ever had, also before it was dropped: an instance's id is never used again."""
    columns = (t.versions.c.number, t.releases.c.candidate, t.instances.c.version)
    queries = (sa.select(sa.func.max(column)).where(column.table.c.service == service) for column in columns)
    return max(c.execute(query).scalar() or 0 for query in queries)


def _release(row: dict[str, Any]) -> Release:
    return Release(**{**row, "phase": Phase(row["phase"])})
