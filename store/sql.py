"""The store on any SQL database, through SQLAlchemy Core. Each verb is one transaction."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rollout.errors import Conflict, NotFound
from rollout.nouns import Health, Phase
from store import tables as t
from store.database import of, put, rows
from store.persons import answer, ask, withdraw
from store.port import BY_HAND, Change, ChangeKind, Event, InstanceState, Release, Role, ServiceState, VersionState
from store.sql_traffic import TrafficVerbs, leave_groups, must_be_free
from store.steps import ACTIVE, active, clock, end, hand_over, held, is_version, must_run, note, split, stable, take_out


class SqlStore(TrafficVerbs):
    """Desired and observed state in one database. Safe to use from several threads and processes."""

    def revision(self) -> int:
        with self._begin() as c:
            return int(c.execute(sa.select(t.revision.c.value)).scalar_one())

    # --- services and versions

    def put_service(self, service: ServiceState, by: str = BY_HAND, now: float | None = None) -> None:
        settings = _settings(asdict(service))
        with self._begin(desired=True) as c:
            must_be_free(c, t.groups, service.name)
            before = rows(c, sa.select(t.services).where(t.services.c.name == service.name))
            if not before:
                c.execute(t.services.insert().values(**asdict(service)))
                return
            c.execute(t.services.update().where(t.services.c.name == service.name).values(**settings))
            if (old := _settings(before[0])) != settings:
                changed = ", ".join(_differs(k, old[k], settings[k]) for k in settings if old[k] != settings[k])
                note(c, Change(clock(now), service.name, "limits", changed, old, settings, by))

    def services(self) -> list[ServiceState]:
        with self._begin() as c:
            return [ServiceState(**r) for r in rows(c, sa.select(t.services).order_by(t.services.c.name))]

    def service(self, name: str) -> ServiceState:
        found = {s.name: s for s in self.services()}
        if name not in found:
            raise NotFound(f"there is no service {name!r}; there are: {', '.join(found) or 'none yet'}")
        return found[name]

    def drop_service(self, name: str, now: float) -> None:
        with self._begin(desired=True) as c:
            for release in active(c, name):
                end(c, release["id"], Phase.FAILED, "its service was removed", now, {})
            for table in (t.versions, t.leases, t.observed):
                c.execute(table.delete().where(table.c.service == name))
            c.execute(t.services.delete().where(t.services.c.name == name))
            leave_groups(c, name, now)

    def add_version(self, version: VersionState, release: str, role: Role = "candidate") -> VersionState:
        with self._begin(desired=True) as c:
            must_run(c, release, version.service)
            numbered = replace(version, number=_highest_number(c, version.service) + 1)
            c.execute(t.versions.insert().values(**asdict(numbered)))
            c.execute(t.releases.update().where(t.releases.c.id == release).values({role: numbered.number}))
            return numbered

    def versions(self, service: str | None = None) -> list[VersionState]:
        query = sa.select(t.versions).order_by(t.versions.c.service, t.versions.c.number)
        with self._begin() as c:
            return [VersionState(**r) for r in rows(c, of(query, t.versions, service))]

    def scale(self, service: str, number: int, instances: int) -> None:
        with self._begin(desired=True) as c:
            c.execute(
                t.versions.update().where(is_version(service, number)).values(instances=instances, retire_at=None)
            )

    def retire(self, service: str, number: int, due_by: float | None = None) -> bool:
        with self._begin(desired=True) as c:
            return take_out(c, service, number, due_by)

    def put_instance(self, instance: InstanceState) -> None:
        with self._begin() as c:
            put(c, t.instances, {"id": instance.id}, asdict(instance))

    def drop_instance(self, instance_id: str) -> None:
        with self._begin() as c:
            c.execute(t.instances.delete().where(t.instances.c.id == instance_id))
            c.execute(t.drained.delete().where(t.drained.c.instance == instance_id))

    def instances(self, service: str | None = None) -> list[InstanceState]:
        query = sa.select(t.instances).order_by(t.instances.c.id)
        with self._begin() as c:
            found = rows(c, of(query, t.instances, service))
        return [InstanceState(**{**r, "health": Health(r["health"])}) for r in found]

    # --- releases

    def begin_release(self, release: Release, now: float, stale_s: float) -> Release:
        with self._begin(desired=True) as c:
            must_be_free(c, t.groups, release.service)
            for other in active(c, release.service):
                if release.stage == other["stage"] == BY_HAND:
                    hand_over(c, other["id"], release.id, now)
                    continue
                if now - other["beat_at"] < stale_s:
                    raise Conflict(
                        f"release {other['id']} of service {release.service!r} is under way "
                        f"(stage {other['stage']!r}); "
                        f"wait for it, or end it with `roundhouse rollback {release.service}`"
                    )
                lost = f"its process was not heard of for {now - other['beat_at']:.0f} s"
                end(c, other["id"], Phase.FAILED, lost, now, {})
            present = stable(c, release.service)
            begun = replace(release, phase=Phase.RUNNING, created_at=now, beat_at=now, stable_before=present)
            c.execute(t.releases.insert().values(**asdict(begun)))
        return begun

    def beat(self, release_id: str, now: float) -> bool:
        running = sa.and_(t.releases.c.id == release_id, t.releases.c.phase.in_(ACTIVE))
        with self._begin() as c:
            return c.execute(t.releases.update().where(running).values(beat_at=now)).rowcount > 0

    def update_release(self, release_id: str, **changes: Any) -> Release:
        with self._begin(desired=True) as c:
            must_run(c, release_id)
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(**changes))
        return self.release(release_id)

    def promote(self, release_id: str, number: int, retire_at: float, reason: str, now: float) -> Release:
        with self._begin(desired=True) as c:
            service = must_run(c, release_id)["service"]
            before, lease = stable(c, service), held(c, service)
            kind: ChangeKind = "rollback" if _was_promoted(c, service, number) else "promote"
            c.execute(t.leases.delete().where(t.leases.c.service == service))
            c.execute(t.versions.update().where(is_version(service, before)).values(retire_at=retire_at))
            c.execute(t.versions.update().where(is_version(service, number)).values(retire_at=None))
            c.execute(t.services.update().where(t.services.c.name == service).values(stable=number))
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(candidate=number))
            end(c, release_id, Phase.PROMOTED, reason, now, {})
            what = f"version {number} is in service instead of {before or 'none'}: {reason}"
            note(c, Change(now, service, kind, what, split(before, lease), split(number, None), release_id))
        return self.release(release_id)

    def finish_release(
        self, release_id: str, phase: Phase, reason: str, now: float, evidence: dict[str, Any]
    ) -> Release:
        with self._begin(desired=True) as c:
            end(c, release_id, phase, reason, now, evidence)
        return self.release(release_id)

    def ask(self, release_id: str, question: str, key: str) -> Release:
        with self._begin(desired=True) as c:
            ask(c, must_run(c, release_id), question, key, clock(None))
        return self.release(release_id)

    def withdraw(self, release_id: str) -> dict[str, Any] | None:
        with self._begin(desired=True) as c:
            return withdraw(c, must_run(c, release_id), clock(None))

    def answer(
        self, release_id: str, yes: bool, who: str, reason: str, number: int, now: float | None = None
    ) -> Release:
        self.release(release_id)  # not known: said before anything else
        with self._begin(desired=True) as c:
            answer(c, must_run(c, release_id), number, {"yes": yes, "who": who, "reason": reason, "at": clock(now)})
        return self.release(release_id)

    def undo_promotion(self, release_id: str, reason: str, now: float) -> Release:
        release = self.release(release_id)
        service, before = release.service, release.stable_before
        with self._begin(desired=True) as c:
            mine = sa.and_(t.services.c.name == service, t.services.c.stable == release.candidate)
            turned = c.execute(t.services.update().where(mine).values(stable=before)).rowcount > 0
            c.execute(t.versions.update().where(is_version(service, before)).values(retire_at=None))
            ended = {"phase": Phase.FAILED, "reason": reason, "finished_at": now}
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(**ended))
            if release.candidate is not None:
                take_out(c, service, release.candidate, None)
            if turned:
                what = f"version {before or 'none'} is in service again instead of {release.candidate}: {reason}"
                after = split(before, held(c, service))
                note(c, Change(now, service, "rollback", what, split(release.candidate, None), after, release_id))
        return self.release(release_id)

    def attach_evidence(self, release_id: str, evidence: dict[str, Any]) -> None:
        with self._begin() as c:
            c.execute(t.releases.update().where(t.releases.c.id == release_id).values(evidence=evidence))

    def release(self, release_id: str) -> Release:
        with self._begin() as c:
            found = rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))
        if not found:
            raise NotFound(f"there is no release {release_id!r}")
        return _release(found[0])

    def releases(self, service: str | None = None, limit: int = 50) -> list[Release]:
        query = sa.select(t.releases).order_by(t.releases.c.created_at.desc()).limit(limit)
        with self._begin() as c:
            return [_release(r) for r in rows(c, of(query, t.releases, service))]

    def unsettled(self) -> list[Release]:
        numbers = (t.releases.c.candidate, t.releases.c.baseline)
        there = sa.and_(t.instances.c.service == t.releases.c.service, t.instances.c.version.in_(numbers))
        borrows = sa.and_(t.releases.c.borrowed > 0, sa.exists().where(there))
        query = sa.select(t.releases).where(sa.or_(t.releases.c.phase.in_(ACTIVE), borrows))
        with self._begin() as c:
            return [_release(r) for r in rows(c, query.order_by(t.releases.c.created_at.desc()))]

    # --- what happened

    def note(self, event: Event) -> None:
        with self._begin() as c:
            c.execute(t.events.insert().values(**asdict(event)))

    def events(self, service: str | None = None, release: str | None = None, limit: int = 100) -> list[Event]:
        query = of(sa.select(t.events).order_by(t.events.c.id.desc()).limit(limit), t.events, service)
        if release is not None:
            query = query.where(t.events.c.release == release)
        with self._begin() as c:
            found = rows(c, query)
        return [Event(**{k: v for k, v in r.items() if k != "id"}) for r in found]

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


def _highest_number(c: sa.Connection, service: str) -> int:
    """Of all versions that a service ever had, also before it was dropped: an instance's id is never used again."""
    columns = (t.versions.c.number, t.releases.c.candidate, t.releases.c.baseline, t.instances.c.version)
    queries = (sa.select(sa.func.max(column)).where(column.table.c.service == service) for column in columns)
    return max(c.execute(query).scalar() or 0 for query in queries)


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("name", "stable")}


def _differs(name: str, old: Any, new: Any) -> str:
    """Of a mapping only the keys: some of their values are long.

    >>> _differs("traffic", {"jwt": {}, "signed": True}, {"signed": True})
    'traffic (jwt)'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{name} ({', '.join(k for k in {**old, **new} if old.get(k) != new.get(k))})"
    return f"{name} {old} -> {new}"


def _was_promoted(c: sa.Connection, service: str, number: int) -> bool:
    same = sa.and_(t.releases.c.service == service, t.releases.c.candidate == number)
    return bool(rows(c, sa.select(t.releases.c.id).where(same, t.releases.c.phase == Phase.PROMOTED)))


def _release(row: dict[str, Any]) -> Release:
    return Release(**{**row, "phase": Phase(row["phase"])})
