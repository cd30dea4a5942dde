"""Steps within a transaction that several verbs take: who may move traffic, how a release ends, what is noted."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from rollout.errors import Conflict
from rollout.nouns import Lease, Mirror, Phase
from store import tables as t
from store.database import rows
from store.port import Change, ChangeKind

ACTIVE = tuple(phase for phase in Phase if phase.active)


def active(c: sa.Connection, service: str) -> list[dict[str, Any]]:
    """The releases of a service that may still move traffic."""
    running = sa.and_(t.releases.c.service == service, t.releases.c.phase.in_(ACTIVE))
    return rows(c, sa.select(t.releases).where(running))


def must_run(c: sa.Connection, release_id: str, service: str | None = None) -> dict[str, Any]:
    """A release that was ended by somebody else may not move traffic any more. Raises Conflict."""
    found = rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))
    if not found or found[0]["phase"] not in ACTIVE or service not in (None, found[0]["service"]):
        state = f"has ended ({found[0]['phase']}: {found[0]['reason']})" if found else "is not known"
        raise Conflict(f"release {release_id} {state}; it may not move traffic")
    return found[0]


def end(c: sa.Connection, release_id: str, phase: Phase, reason: str, now: float, evidence: dict[str, Any]) -> None:
    """End a running release and its lease. Its baseline loses its instances; where it did not succeed, its candidate
    too."""
    open_one = sa.and_(t.releases.c.id == release_id, t.releases.c.phase.in_(ACTIVE))
    ended = {"phase": phase, "reason": reason, "finished_at": now, "evidence": evidence}
    ended |= {"waiting": "", "waiting_key": ""}
    if c.execute(t.releases.update().where(open_one).values(**ended)).rowcount == 0:
        return
    row = rows(c, sa.select(t.releases).where(t.releases.c.id == release_id))[0]
    failed = phase in (Phase.ROLLED_BACK, Phase.FAILED)
    _end_lease(c, row["service"], release_id, reason, now, failed)
    for number in (row["candidate"] if failed else None, row["baseline"]):
        if number is not None:
            take_out(c, row["service"], number, None)


def hand_over(c: sa.Connection, release_id: str, to: str, now: float) -> None:
    """End a release whose lease another one goes on with, as it is: no request goes elsewhere in between."""
    ended = {"phase": Phase.DEPLOYED, "reason": f"another command took over ({to})", "finished_at": now}
    c.execute(t.releases.update().where(t.releases.c.id == release_id).values(**ended))
    c.execute(t.leases.update().where(t.leases.c.release == release_id).values(release=to))


def _end_lease(c: sa.Connection, service: str, release_id: str, reason: str, now: float, failed: bool) -> None:
    before = held(c, service)
    if before is None or before.release != release_id:
        return
    c.execute(t.leases.delete().where(t.leases.c.release == release_id))
    present = stable(c, service)
    what = f"version {before.candidate} has no share any more: {reason}"
    kind: ChangeKind = "rollback" if failed else "lease"
    note(c, Change(now, service, kind, what, split(present, before), split(present, None), release_id))


def take_out(c: sa.Connection, service: str, number: int, due_by: float | None) -> bool:
    """No instances for a version, unless it is stable, part of the lease, or not due by then; whether it was done."""
    lease = held(c, service)
    kept = {stable(c, service), *(versions_of(lease, service) if lease else ())}
    free = sa.and_(is_version(service, number), t.versions.c.instances > 0)
    if due_by is not None:
        free = sa.and_(free, t.versions.c.retire_at <= due_by)
    if number in kept:
        return False
    return c.execute(t.versions.update().where(free).values(instances=0, retire_at=None)).rowcount > 0


def versions_of(lease: Lease, service: str) -> set[int]:
    """The versions of the leased service itself that the lease needs beside the stable one."""
    own = {m.version for m in lease.mirrors if m.service == service}
    return {number for number in (lease.candidate, lease.baseline, *own) if number is not None}


def is_version(service: str, number: int | None) -> sa.ColumnElement[bool]:
    """The condition that a row of ``versions`` is that one."""
    return sa.and_(t.versions.c.service == service, t.versions.c.number == number)


def stable(c: sa.Connection, service: str) -> int | None:
    """The version in service; None before the first."""
    return c.execute(sa.select(t.services.c.stable).where(t.services.c.name == service)).scalar()


def held(c: sa.Connection, service: str) -> Lease | None:
    """The lease that a service should have."""
    found = rows(c, sa.select(t.leases).where(t.leases.c.service == service))
    return lease_of({k: v for k, v in found[0].items() if k != "service"}) if found else None


def lease_of(values: dict[str, Any]) -> Lease:
    """A lease from its stored mapping, also from one that knew neither baseline nor mirrors."""
    return Lease(**{**values, "mirrors": tuple(Mirror(**m) for m in values.get("mirrors", ()))})


def split(stable: int | None, lease: Lease | None) -> dict[str, Any]:
    """Who gets the traffic, without the times: what the history keeps."""
    shares = {k: v for k, v in asdict(lease).items() if k not in ("from_ms", "until_ms", "release")} if lease else None
    return {"stable": stable, "lease": shares}


def clock(now: float | None) -> float:
    """``now``, or what the clock says."""
    return time.time() if now is None else now


def note(c: sa.Connection, change: Change) -> None:
    """Write a change down."""
    c.execute(t.changes.insert().values(**{k: v for k, v in asdict(change).items() if k != "id"}))
