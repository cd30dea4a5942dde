"""Declares desired state and waits until it was made so: what flows and the command line do to traffic, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rollout.errors import NotFound, Unavailable
from rollout.nouns import Health, Instance, Lease, Phase, Shift, Version
from store.port import Event, InstanceState, Observed, Release, Store, VersionState

CONFIRM_S = 10.0
MAX_RESTARTS = 3  # of one instance before it was ever ready
RETURN_S = 300.0  # how long a version that was taken out of service stays started

ACTIVE = (Phase.PENDING, Phase.RUNNING)


def grant(store: Store, service: str, release: str, candidate: int, step: Shift, lease_s: float, now: float) -> Lease:
    """Write the lease that should be in force from now on. Raises Conflict when the release was ended meanwhile."""
    lease = Lease(
        candidate=candidate,
        canary_permille=step.canary_permille,
        mirror_permille=step.mirror_permille,
        from_ms=int(now * 1000)
        - 5000,  # an earlier clock does not see it: a step back ends it instead of prolonging it
        until_ms=int((now + lease_s) * 1000),
        release=release,
    )
    store.grant(lease, service, now)
    return lease


def confirm(
    store: Store, service: str, reached: Callable[[Observed], bool], what: str, within_s: float = CONFIRM_S
) -> None:
    """Wait until the gateway's confirmed state is as asked. Raises Unavailable with the gateway's own reason."""
    until = time.monotonic() + within_s
    while True:
        observed = store.observed(service)
        if observed is not None and not observed.error and reached(observed):
            return
        if time.monotonic() > until:
            reason = (observed.error if observed else "") or "the agent has not made it so; see `roundhouse status`"
            raise Unavailable(f"the gateway did not confirm {what} within {within_s:g} s: {reason}")
        time.sleep(0.05)


def wait_ready(store: Store, service: str, number: int, count: int, timeout_s: float) -> Version:
    """The version with its instances once ``count`` are ready. Raises Unavailable with the last reason."""
    until = time.monotonic() + timeout_s
    while True:
        mine = [i for i in store.instances(service) if i.version == number]
        if sum(i.health is Health.READY for i in mine) >= count:
            return version_noun(store, service, number)
        for instance in mine:
            if instance.restarts >= MAX_RESTARTS:
                told = f"{instance.id} died {instance.restarts} times: {instance.reason}"
                raise Unavailable(f"{told}; see `roundhouse logs {instance.id}`")
        if time.monotonic() > until:
            seen = ", ".join(f"{i.id} {i.health} {i.reason}".strip() for i in mine)
            seen = seen or "the agent has started none; see `roundhouse status`"
            raise Unavailable(f"version {number} of {service} was not ready within {timeout_s:g} s: {seen}")
        time.sleep(0.1)


def version_noun(store: Store, service: str, number: int) -> Version:
    """A version with the instances it has now. Raises NotFound."""
    known = {v.number: v for v in store.versions(service)}
    if number not in known:
        raise NotFound(f"{service!r} has no version {number}; there are: {', '.join(map(str, known)) or 'none'}")
    mine = tuple(_instance(i) for i in store.instances(service) if i.version == number)
    version = known[number]
    return Version(service, number, version.model_uri, str(version.engine.get("digest", "")), mine)


def turn_back(store: Store, release: Release, phase: Phase, reason: str, evidence: dict[str, Any]) -> None:
    """End a release with all traffic on stable: one transaction, then its candidate is retired."""
    store.finish_release(release.id, phase, reason, time.time(), evidence)
    if release.candidate is not None and release.candidate != store.service(release.service).stable:
        store.scale(release.service, release.candidate, 0)


def end_release(store: Store, service: str, reason: str) -> str | None:
    """End the release under way, traffic on stable and confirmed; None when there is none."""
    for release in store.releases(service):
        if release.phase in ACTIVE:
            turn_back(store, release, Phase.ROLLED_BACK, reason, {})
            if release.stable_before is not None:
                confirm(store, service, lambda o: o.lease is None, "all traffic on stable")
            return f"release {release.id} ended: {reason}"
    return None


def turn(store: Store, service: str, present: int | None, number: int, release: str | None, keep_warm_s: float) -> None:
    """The stable name turns from ``present`` to ``number``, confirmed; what the gateway does not take is taken back.

    Raises Conflict when ``release`` has ended, Unavailable with the gateway's reason.
    """
    store.set_stable(service, number, release, time.time() + keep_warm_s)
    try:
        confirm(store, service, lambda o: o.stable == number, f"version {number} as stable")
    except Unavailable:
        if present is not None:
            store.set_stable(service, present, release)
        raise


def put_back(store: Store, service: str, to: int, reason: str, timeout_s: float = 900.0) -> str:
    """An earlier version in service again: started and warmed up first, then one change. Raises NotFound."""
    present = store.service(service).stable
    target = earlier_version(store, service, present, to)
    count = max(1, target.instances)
    store.scale(service, target.number, count)
    wait_ready(store, service, target.number, count, timeout_s)
    turn(store, service, present, target.number, None, RETURN_S)
    told = f"{service}: version {target.number} is in service again instead of {present}: {reason}"
    store.note(Event(time.time(), service, "rollback", told))
    return told


def earlier_version(store: Store, service: str, present: int | None, to: int) -> VersionState:
    """The version asked for, or the one that was in service before the present one. Raises NotFound."""
    versions = {v.number: v for v in store.versions(service)}
    before = [r.candidate for r in store.releases(service) if r.phase is Phase.PROMOTED and r.candidate != present]
    number = to or (before[0] if before else None)
    if number is None or number not in versions or number == present:
        there = ", ".join(str(n) for n in versions if n != present) or "none"
        raise NotFound(f"{service!r} has no version {to or 'before this one'} to return to; there are: {there}")
    return versions[number]


def _instance(state: InstanceState) -> Instance:
    return Instance(
        id=state.id,
        service=state.service,
        version=state.version,
        host=state.host,
        port=state.port,
        health=state.health,
        pid=state.pid,
        restarts=state.restarts,
        reason=state.reason,
    )
