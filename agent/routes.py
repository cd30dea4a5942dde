"""Desired and observed state to the gateway's whole state. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from configs.desired import sticky_of, traffic_of
from engines.port import Usage
from gateway.port import Backend, Endpoint, GatewayState, GroupRoute, Member, ServiceRoute, Token, Traffic
from rollout.errors import Refused
from rollout.nouns import FULL, Health, Lease, Mirror
from store.port import Group, InstanceState, ServiceState, VersionState

Key = tuple[str, int]  # service and version


@dataclass(frozen=True)
class Desired:
    """All that the store and the token file say at one moment."""

    services: list[ServiceState]
    versions: list[VersionState]
    instances: list[InstanceState]
    leases: Mapping[str, Lease] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    drained: frozenset[str] = frozenset()
    tokens: Mapping[str, tuple[Token, ...]] = field(default_factory=dict)


def gateway_state(desired: Desired, usage: Callable[[str], Usage], now_ms: int) -> tuple[GatewayState, dict[str, str]]:
    """What the gateway should have in force, and why a service's or group's settings could not be read, by name.

    Leases that have ended are left out; Envoy ended them by itself. ``usage`` says of an engine kind who counts tokens.
    """
    versions, ready = _versions(desired), _instances(desired.instances)
    stable = {s.name: s.stable for s in desired.services if s.stable is not None}
    routes, unreadable = [], {}
    for service in desired.services:
        try:
            traffic = _traffic(service, versions.get(service.name, []), ready, usage)
        except Refused as error:
            unreadable[service.name], traffic = str(error), Traffic()
        known = [v.number for v in versions.get(service.name, [])]
        live = _lease(service, desired.leases.get(service.name), known, stable, now_ms)
        backends = _backends(service, known, live, ready, desired.drained)
        routes.append(_route(service, desired.tokens.get(service.name, ()), backends, live, traffic))
    groups = []
    for group in desired.groups:
        try:
            groups.append(_group(group, stable, ready, desired))
        except Refused as error:
            unreadable[group.name] = str(error)
            groups.append(GroupRoute(group.name, desired.tokens.get(group.name, ()), ()))
    return GatewayState(tuple(routes), tuple(groups)), unreadable


def acceptable(
    wanted: GatewayState,
    applied: GatewayState | None,
    check: Callable[[GatewayState], None],
    unreadable: Mapping[str, str] | None = None,
) -> tuple[GatewayState, dict[str, str]]:
    """``wanted`` with each service and group that is refused left as it was applied (or out), and why, by name.

    What is left as it was still gets its tokens as they are wanted: one that was revoked opens nothing.
    """
    refused = dict(unreadable or {})
    before = {door.name: door for door in applied.services} if applied else {}
    all_stable = {s.name: s for s in wanted.services if s.stable is not None}
    kept = []
    for service in wanted.services:
        beside = tuple(_bare(all_stable[n]) for n in _targets(service) if n in all_stable)
        why = refused.get(service.name) or _why(GatewayState((service, *beside)), check)
        if not why:
            kept.append(service)
            continue
        refused[service.name] = why
        if service.name in before:
            kept.append(_with_tokens(before[service.name], service.tokens, check))
    there = {s.name: s for s in kept}
    services = tuple(_without_lost_targets(s, there) for s in kept)
    groups, bad = _acceptable_groups(wanted.groups, applied, there, check, refused)
    return GatewayState(services, groups), refused | bad


def _acceptable_groups(
    wanted: tuple[GroupRoute, ...],
    applied: GatewayState | None,
    services: Mapping[str, ServiceRoute],
    check: Callable[[GatewayState], None],
    unreadable: Mapping[str, str],
) -> tuple[tuple[GroupRoute, ...], dict[str, str]]:
    before = {g.name: g for g in applied.groups} if applied else {}
    kept, refused = [], {}
    for group in wanted:
        present = _without_lost(group, services)
        why = unreadable.get(group.name) or _why(_around(present, services), check)
        if not why:
            kept.append(present)
            continue
        refused[group.name] = why
        if group.name in before:
            old = _without_lost(before[group.name], services)
            if not _why(_around(replace(old, tokens=()), services), check):
                tokens = usable(group.tokens, old.tokens, _opens_group(old, services, check))
                kept.append(replace(old, tokens=tokens))
    return tuple(kept), refused


def _why(state: GatewayState, check: Callable[[GatewayState], None]) -> str:
    try:
        check(state)
    except Refused as error:
        return str(error)
    return ""


def _with_tokens(old: ServiceRoute, tokens: tuple[Token, ...], check: Callable[[GatewayState], None]) -> ServiceRoute:
    """An earlier route with today's tokens, or those of them that can be."""

    def passes(some: tuple[Token, ...]) -> bool:
        return not _why(GatewayState((replace(old, tokens=some, lease=None),)), check)

    return replace(old, tokens=usable(tokens, old.tokens, passes), lease=None)


def _opens_group(
    old: GroupRoute, services: Mapping[str, ServiceRoute], check: Callable[[GatewayState], None]
) -> Callable[[tuple[Token, ...]], bool]:
    return lambda some: not _why(_around(replace(old, tokens=some), services), check)


def usable(
    wanted: tuple[Token, ...], old: tuple[Token, ...], passes: Callable[[tuple[Token, ...]], bool]
) -> tuple[Token, ...]:
    """``wanted`` if that passes; else what was in force of it, or as many as pass. Never one that is not wanted."""
    if passes(wanted):
        return wanted
    secrets = {token.secret for token in wanted}
    still = tuple(token for token in old if token.secret in secrets)
    if still and passes(still):
        return still
    good = [token for token in {t.secret: t for t in wanted}.values() if passes((token,))]
    fits = bisect_left(range(1, len(good) + 1), True, key=lambda n: not passes(tuple(good[:n])))
    return tuple(good[:fits])


def _without_lost(group: GroupRoute, services: Mapping[str, ServiceRoute]) -> GroupRoute:
    return replace(group, members=tuple(m for m in group.members if m.service in services))


def _without_lost_targets(service: ServiceRoute, services: Mapping[str, ServiceRoute]) -> ServiceRoute:
    """No copies for a service that was refused and had never been in force."""
    lost = _targets(service) - services.keys()
    if not lost or service.lease is None:
        return service
    mirrors = tuple(m for m in service.lease.mirrors if m.service not in lost)
    return replace(service, lease=replace(service.lease, mirrors=mirrors))


def _around(group: GroupRoute, services: Mapping[str, ServiceRoute]) -> GatewayState:
    """A group with as much of its members as its check needs."""
    return GatewayState(tuple(_bare(services[m.service]) for m in group.members), (group,))


def _bare(service: ServiceRoute) -> ServiceRoute:
    backends = (Backend(service.stable, ()),) if service.stable is not None else ()
    return ServiceRoute(service.name, (), backends, service.stable, traffic=Traffic(signed=service.traffic.signed))


def _targets(service: ServiceRoute) -> set[str]:
    mirrors = service.lease.mirrors if service.lease else ()
    return {m.service for m in mirrors} - {service.name}


# --- one service


def _route(
    service: ServiceState,
    tokens: tuple[Token, ...],
    backends: tuple[Backend, ...],
    lease: Lease | None,
    traffic: Traffic,
) -> ServiceRoute:
    return ServiceRoute(
        name=service.name,
        tokens=tokens,
        backends=backends,
        stable=service.stable,
        lease=lease,
        response_timeout_s=service.response_timeout_s,
        body_limit_bytes=service.body_limit_bytes,
        traffic=traffic,
    )


def _traffic(
    service: ServiceState,
    versions: list[VersionState],
    instances: Mapping[Key, list[InstanceState]],
    usage: Callable[[str], Usage],
) -> Traffic:
    """The service's settings; who counts tokens is the engines' answer where the settings leave it open."""
    traffic = traffic_of(service.traffic)
    if "usage" in service.traffic:
        return traffic
    running = [v for v in versions if v.instances or (v.service, v.number) in instances]
    told = {usage(str(v.spec.get("kind", ""))) for v in running}
    return replace(traffic, usage="engine" if told == {"engine"} else "parsed")


def _lease(
    service: ServiceState, lease: Lease | None, known: list[int], stable: Mapping[str, int | None], now_ms: int
) -> Lease | None:
    """The lease if it still holds, without a baseline or targets of copies that are gone."""
    if lease is None or lease.until_ms <= now_ms or lease.candidate not in known:
        return None
    baseline = lease.baseline if lease.baseline in known else None
    mirrors = tuple(m for m in lease.mirrors if _is_there(m, service, known, stable))
    return replace(lease, baseline=baseline, mirrors=mirrors)


def _is_there(mirror: Mirror, service: ServiceState, known: list[int], stable: Mapping[str, int | None]) -> bool:
    if mirror.service == service.name:
        return mirror.version in known
    return mirror.service in stable


def _backends(
    service: ServiceState,
    known: list[int],
    lease: Lease | None,
    instances: Mapping[Key, list[InstanceState]],
    drained: frozenset[str],
) -> tuple[Backend, ...]:
    """Versions that can answer, and those that are named although they cannot yet."""
    copied = {m.version for m in lease.mirrors if m.service == service.name} if lease else set()
    named = {service.stable, *((lease.candidate, lease.baseline) if lease else ()), *copied}
    return tuple(
        Backend(number, endpoints)
        for number in known
        if (endpoints := _endpoints(instances.get((service.name, number), []), drained)) or number in named
    )


def _endpoints(instances: list[InstanceState], drained: frozenset[str]) -> tuple[Endpoint, ...]:
    """Those that were warmed up; a draining one keeps its open requests."""
    return tuple(
        Endpoint(i.id, i.host, i.port, draining=i.health is Health.DRAINING or i.id in drained)
        for i in instances
        if i.health is Health.READY or (i.health is Health.DRAINING and i.warm_up)
    )


# --- one group


def _group(
    group: Group, stable: Mapping[str, int | None], instances: Mapping[Key, list[InstanceState]], desired: Desired
) -> GroupRoute:
    """Members without a stable version are left out; when no weight is above 0 the gateway answers 503."""

    def weight(service: str) -> int:
        mine = instances.get((service, stable[service] or 0), [])
        return min(FULL, sum(i.health is Health.READY and i.id not in desired.drained for i in mine))

    members = tuple(
        Member(m.service, weight(m.service) if group.mode == "auto" else m.weight)
        for m in group.members
        if m.service in stable
    )
    return GroupRoute(group.name, desired.tokens.get(group.name, ()), members, sticky_of(group.sticky))


def _versions(desired: Desired) -> dict[str, list[VersionState]]:
    by_service: dict[str, list[VersionState]] = {}
    for version in desired.versions:
        by_service.setdefault(version.service, []).append(version)
    return by_service


def _instances(instances: list[InstanceState]) -> dict[Key, list[InstanceState]]:
    by_version: dict[Key, list[InstanceState]] = {}
    for instance in instances:
        by_version.setdefault((instance.service, instance.version), []).append(instance)
    return by_version
