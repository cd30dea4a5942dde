"""The store's verbs about who gets the traffic: leases, groups, draining by hand, and the history of all of it."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from rollout.errors import Conflict, NotFound, Refused
from rollout.limits import SERVICE_NAME
from rollout.nouns import FULL, Lease
from store import tables as t
from store.database import Database, of, put, rows
from store.port import BY_HAND, Change, Group, GroupMember, InForce, Observed
from store.steps import clock, held, lease_of, must_run, note, split, stable


class TrafficVerbs(Database):
    """Each verb is one transaction, in which the history is written too."""

    def grant(self, lease: Lease, service: str, now: float) -> None:
        with self._begin(desired=True) as c:
            release, present = must_run(c, lease.release, service), stable(c, service)
            _check_lease(lease, release["candidate"], release["baseline"], present)
            before, after = split(present, held(c, service)), split(present, lease)
            put(c, t.leases, {"service": service}, {"service": service, **asdict(lease)})
            c.execute(t.releases.update().where(t.releases.c.id == lease.release).values(beat_at=now))
            if before != after:
                note(c, Change(now, service, "lease", _told(lease), before, after, lease.release))

    def leases(self) -> dict[str, Lease]:
        with self._begin() as c:
            found = rows(c, sa.select(t.leases))
        return {r.pop("service"): lease_of(r) for r in found}

    def put_observed(self, observed: Observed) -> None:
        with self._begin() as c:
            put(c, t.observed, {"service": observed.service}, asdict(observed))

    def observed(self, service: str) -> Observed | None:
        with self._begin() as c:
            found = rows(c, of(sa.select(t.observed), t.observed, service))
        for row in found:
            return Observed(**{**row, "lease": lease_of(row["lease"]) if row["lease"] else None})
        return None

    def put_in_force(self, in_force: InForce) -> None:
        with self._begin() as c:
            put(c, t.in_force, {"id": 1}, {"id": 1, **asdict(in_force)})

    def in_force(self) -> InForce | None:
        with self._begin() as c:
            found = rows(c, sa.select(t.in_force))
        return InForce(**{k: v for k, v in found[0].items() if k != "id"}) if found else None

    # --- groups

    def put_group(self, group: Group, by: str = BY_HAND, now: float | None = None) -> None:
        _check_group(group)
        with self._begin(desired=True) as c:
            must_be_free(c, t.services, group.name)
            known = c.execute(sa.select(t.services.c.name)).scalars().all()
            for member in group.members:
                if member.service not in known:
                    listed = ", ".join(sorted(known)) or "none yet"
                    raise NotFound(f"group {group.name!r}: there is no service {member.service!r}; there are: {listed}")
            _replace_group(c, group.name, group, by, clock(now))

    def groups(self) -> list[Group]:
        with self._begin() as c:
            return [_group(r) for r in rows(c, sa.select(t.groups).order_by(t.groups.c.name))]

    def group(self, name: str) -> Group:
        with self._begin() as c:
            return _known_group(c, name)

    def drop_group(self, name: str, by: str = BY_HAND, now: float | None = None) -> None:
        with self._begin(desired=True) as c:
            _known_group(c, name)
            c.execute(t.observed.delete().where(t.observed.c.service == name))
            _replace_group(c, name, None, by, clock(now))

    def set_weight(
        self, group: str, service: str, weight: int | None, by: str = BY_HAND, now: float | None = None
    ) -> Group:
        with self._begin(desired=True) as c:
            present = _known_group(c, group)
            if service not in [m.service for m in present.members]:
                listed = ", ".join(m.service for m in present.members) or "none"
                raise NotFound(f"group {group!r} has no member {service!r}; its members: {listed}")
            if present.mode == "auto":
                rule = "this group's weights follow the number of ready instances"
                raise Refused("weight", weight, rule, f"give it weights of its own: `roundhouse group set {group} ...`")
            members = tuple(replace(m, weight=weight) if m.service == service else m for m in present.members)
            changed = replace(present, members=members)
            _check_group(changed)
            _replace_group(c, group, changed, by, clock(now))
        return changed

    # --- draining by hand

    def drain(self, instance_id: str, by: str = BY_HAND, now: float | None = None) -> None:
        self._drain(instance_id, True, by, clock(now))

    def undrain(self, instance_id: str, by: str = BY_HAND, now: float | None = None) -> None:
        self._drain(instance_id, False, by, clock(now))

    def drained(self) -> frozenset[str]:
        with self._begin() as c:
            return frozenset(c.execute(sa.select(t.drained.c.instance)).scalars())

    def _drain(self, instance: str, draining: bool, by: str, now: float) -> None:
        with self._begin(desired=True) as c:
            found = rows(c, sa.select(t.instances.c.id, t.instances.c.service))
            services = {r["id"]: r["service"] for r in found}
            if instance not in services:
                raise NotFound(f"there is no instance {instance!r}; there are: {', '.join(sorted(services)) or 'none'}")
            before = bool(rows(c, sa.select(t.drained).where(t.drained.c.instance == instance)))
            if before == draining:
                return
            c.execute(
                t.drained.insert().values(instance=instance, since=now)
                if draining
                else t.drained.delete().where(t.drained.c.instance == instance)
            )
            what = f"{instance} gets no new request" if draining else f"{instance} gets requests again"
            was, now_is = ({"instance": instance, "draining": state} for state in (before, draining))
            note(c, Change(now, services[instance], "drain", what, was, now_is, by))

    # --- the history

    def changes(self, name: str | None = None, limit: int = 100) -> list[Change]:
        query = sa.select(t.changes).order_by(t.changes.c.id.desc()).limit(limit)
        with self._begin() as c:
            found = rows(c, query if name is None else query.where(t.changes.c.name == name))
        return [Change(**r) for r in found]


def leave_groups(c: sa.Connection, service: str, now: float) -> None:
    """A service that is gone is no member of any group."""
    for group in [_group(r) for r in rows(c, sa.select(t.groups))]:
        left = tuple(m for m in group.members if m.service != service)
        if left != group.members:
            _replace_group(c, group.name, replace(group, members=left), f"{service} was removed", now)


def must_be_free(c: sa.Connection, table: sa.Table, name: str) -> None:
    """A service and a group never share a name: both are paths of the gateway. Raises Refused."""
    if rows(c, sa.select(table.c.name).where(table.c.name == name)):
        rule = f"one of the {table.name} has this name, and names are paths of the gateway"
        raise Refused("name", name, rule, "choose another name")


def _check_lease(lease: Lease, own: int | None, beside: int | None, present: int | None) -> None:
    if lease.candidate == present or own not in (None, lease.candidate):
        told = f"version {lease.candidate} is not the candidate of release {lease.release} ({own})"
        raise Conflict(f"{told}, or it is stable already; nothing was moved")
    if lease.baseline is not None and lease.baseline in (lease.candidate, present):
        told = f"the baseline must be another version than candidate {lease.candidate} and stable {present}"
        raise Conflict(f"{told}, not version {lease.baseline}; nothing was moved")
    if beside is not None and lease.baseline not in (None, beside):
        told = f"the baseline of release {lease.release} is version {beside}"
        raise Conflict(f"{told}, not version {lease.baseline}; nothing was moved")


def _check_group(group: Group) -> None:
    if not re.fullmatch(SERVICE_NAME, group.name):
        rule = "a group's name is 2 to 40 lower-case letters, digits and inner dashes, and begins with a letter"
        raise Refused("name", group.name, rule, "choose a name such as 'prod'")
    names = [m.service for m in group.members]
    if len(set(names)) < len(names):
        raise Refused(f"group {group.name}: members", ", ".join(names), "one of them occurs twice", "list each once")
    for member in group.members:
        if member.weight is not None and not 0 <= member.weight <= FULL:
            field, rule = f"group {group.name}: weight of {member.service}", f"a weight lies between 0 and {FULL}"
            raise Refused(field, member.weight, rule, "weights are relative: 1 and 3 are a quarter and the rest")


def _told(lease: Lease) -> str:
    shares = f"{lease.canary_permille / 10:g} % live, {lease.mirror_permille / 10:g} % mirrored"
    beside = f", version {lease.baseline} as much as a baseline" if lease.baseline is not None else ""
    copies = "".join(f", {m.permille / 10:g} % mirrored to {m.service}" for m in lease.mirrors)
    return f"version {lease.candidate} gets {shares}{beside}{copies}"


def _known_group(c: sa.Connection, name: str) -> Group:
    found = {r["name"]: r for r in rows(c, sa.select(t.groups))}
    if name not in found:
        raise NotFound(f"there is no group {name!r}; there are: {', '.join(sorted(found)) or 'none yet'}")
    return _group(found[name])


def _group(row: dict[str, Any]) -> Group:
    return Group(**{**row, "members": tuple(GroupMember(**m) for m in row["members"])})


def _replace_group(c: sa.Connection, name: str, group: Group | None, by: str, now: float) -> None:
    """Write or delete a group, and note it if it is another one than before."""
    found = rows(c, sa.select(t.groups).where(t.groups.c.name == name))
    before = _group(found[0]) if found else None
    if before == group:
        return
    c.execute(t.groups.delete().where(t.groups.c.name == name))
    if group:
        c.execute(t.groups.insert().values(**asdict(group)))
    was, now_is = (_plain(asdict(g)) if g else None for g in (before, group))
    note(c, Change(now, name, "weights", _weights(group), was, now_is, by))


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {**group, "members": list(group["members"])}


def _weights(group: Group | None) -> str:
    if group is None:
        return "the group was removed"
    if group.mode == "auto":
        named = (m.service for m in group.members)
        return f"traffic by ready instances among {', '.join(named) or 'nobody'}"
    shares = (f"{m.service} {'alone' if m.weight is None else m.weight}" for m in group.members)
    return f"weights: {', '.join(shares) or 'nobody'}"
