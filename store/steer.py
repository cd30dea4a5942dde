"""Declares desired state and waits until it was made so: what flows and the command line do to traffic, once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from rollout.errors import NotFound, RoundhouseError, Unavailable
from rollout.nouns import Health, Instance, Lease, Mirror, Phase, Shift, Version
from store.port import PUT_BACK, Event, InstanceState, Observed, Release, Store, VersionState

CONFIRM_S = 10.0
MAX_RESTARTS = 3  # of one instance before it was ever ready
RETURN_S = 300.0  # how long a version that was taken out of service stays started
STALE_S = 60.0  # a release of which nothing was heard for so long makes way for the next

Sleep = Callable[[float], None]


class NotTaken(RoundhouseError):
    """The gateway said no: what was in force before still is."""

    exit_code = 7


def grant(
    store: Store,
    service: str,
    release: str,
    candidate: int,
    step: Shift,
    lease_s: float,
    now: float,
    baseline: int | None = None,
    mirrors: tuple[Mirror, ...] = (),
) -> Lease:
    """Write the lease that should be in force from now on. Raises Conflict when the release was ended meanwhile."""
    lease = Lease(
        candidate=candidate,
        canary_permille=step.canary_permille,
        mirror_permille=step.mirror_permille,
        from_ms=int(now * 1000) - 5000,  # an earlier clock does not see it: a step back ends it, not prolongs it
        until_ms=int((now + lease_s) * 1000),
        release=release,
        baseline=baseline,
        mirrors=mirrors,
    )
    store.grant(lease, service, now)
    return lease


def confirm(
    store: Store,
    service: str,
    reached: Callable[[Observed], bool],
    what: str,
    within_s: float = CONFIRM_S,
    sleep: Sleep = time.sleep,
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
        sleep(0.05)


def confirm_all(
    store: Store,
    doors: Iterable[str],
    what: str,
    tokens: int = 0,
    within_s: float = CONFIRM_S,
    sleep: Sleep = time.sleep,
) -> None:
    """Wait until the gateway has in force all that the store says now, and the token file of that serial or newer.

    Raises NotTaken with the reason when one of ``doors`` (services, groups) was refused, or nothing could be changed;
    Unavailable when no agent makes it so in time.
    """
    revision, doors, until = store.revision(), tuple(doors), time.monotonic() + within_s
    while True:
        now = store.in_force()
        if now is not None and now.revision >= revision and now.tokens >= tokens:
            _raise_refused(store, doors)
            return
        if time.monotonic() > until:
            if now is not None and now.error:
                raise NotTaken(f"{what}: {now.error}")
            raise Unavailable(f"{what} was not confirmed within {within_s:g} s: no agent runs; see `roundhouse status`")
        sleep(0.02)


def _raise_refused(store: Store, doors: Iterable[str]) -> None:
    for door in doors:
        observed = store.observed(door)
        if observed is not None and observed.error:
            raise NotTaken(observed.error)


def answers(store: Store, release: str) -> list[dict[str, Any]]:
    """What people said to a release's questions, as ``Release.answer`` has it, the first first."""
    return [event.data for event in reversed(store.events(release=release, limit=100_000)) if event.kind == "answer"]


def wait_settled(
    store: Store, service: str, number: int, count: int, timeout_s: float, sleep: Sleep = time.sleep
) -> Version:
    """The version once ``count`` instances are ready, or one has died too often to go on waiting.

    Raises Unavailable when neither happens in time.
    """
    until = time.monotonic() + timeout_s
    while True:
        mine = [i for i in store.instances(service) if i.version == number]
        ready = sum(i.health is Health.READY for i in mine)
        if ready >= count or any(i.restarts >= MAX_RESTARTS and i.health is not Health.READY for i in mine):
            return version_noun(store, service, number)
        if time.monotonic() > until:
            seen = ", ".join(f"{i.id} {i.health} {i.reason}".strip() for i in mine)
            seen = seen or "the agent has started none; see `roundhouse status`"
            raise Unavailable(f"version {number} of {service} was not ready within {timeout_s:g} s: {seen}")
        sleep(0.1)


def failure(version: Version, count: int) -> str:
    """Why a settled version cannot serve; empty when it can."""
    if len(version.ready) >= count:
        return ""
    dead = next((i for i in version.instances if i.health is not Health.READY), None)
    if dead is None:
        return f"version {version.number} has no instance"
    return f"{dead.id} died {dead.restarts} times: {dead.reason}; see `roundhouse logs {dead.id}`"


def version_noun(store: Store, service: str, number: int) -> Version:
    """A version with the instances it has now. Raises NotFound."""
    known = {v.number: v for v in store.versions(service)}
    if number not in known:
        raise NotFound(f"{service!r} has no version {number}; there are: {', '.join(map(str, known)) or 'none'}")
    mine = tuple(_instance(i) for i in store.instances(service) if i.version == number)
    version = known[number]
    return Version(service, number, version.model_uri, str(version.engine.get("digest", "")), mine)


def turn(store: Store, release: Release, number: int, keep_warm_s: float, reason: str) -> None:
    """The stable name turns to a version, confirmed; what the gateway does not take is taken back.

    Raises Conflict when the release has ended, Unavailable with the gateway's reason.
    """
    now = time.time()
    store.promote(release.id, number, now + keep_warm_s, reason, now)
    try:
        confirm(store, release.service, lambda o: o.stable == number, f"version {number} as stable")
    except Unavailable as error:
        store.undo_promotion(release.id, str(error), time.time())
        raise


def end_release(store: Store, service: str, reason: str) -> str | None:
    """End the release under way, traffic on stable; None when there is none.

    Returns when the gateway has confirmed it, or when Envoy has ended the lease by itself because nobody answers.
    """
    for release in store.releases(service):
        if release.phase.active:
            lease = store.leases().get(service)
            store.finish_release(release.id, Phase.ROLLED_BACK, reason, time.time(), {})
            how = _wait_for_stable(store, service, lease)
            return f"release {release.id} ended: {reason}{how}"
    return None


def _wait_for_stable(store: Store, service: str, lease: Lease | None) -> str:
    if lease is None:
        return ""
    left = max(0.0, lease.until_ms / 1000 - time.time())
    try:
        confirm(store, service, lambda o: o.lease is None, "all traffic on stable", within_s=left)
    except Unavailable:
        return " (the agent does not answer; Envoy has ended the lease by itself)"
    return ""


def put_back(store: Store, service: str, to: int, reason: str, timeout_s: float = 900.0) -> VersionState:
    """An earlier version in service again: started and warmed up first, then one change. The version.

    Whatever release is under way is ended first, and none can begin meanwhile. Where the version in service runs in
    room that this one lent, the turn is made with what is left of it (one instance at least); the other is not kept
    warm then, so that the room comes back. Raises NotFound, Conflict, Unavailable.
    """
    target = earlier_version(store, service, to)
    end_release(store, service, reason)
    taken = Release(f"back-{uuid.uuid4().hex[:8]}", service, target.model_uri, Phase.PENDING, stage=PUT_BACK)
    release = store.begin_release(taken, time.time(), STALE_S)
    present = next((v for v in store.versions(service) if v.number == release.stable_before), None)
    loan = loans(store.unsettled()).get((service, target.number), 0)
    count = max(1 + loan, target.instances, present.instances if present else 0)
    try:
        store.scale(service, target.number, count)
        version = _kept_alive(store, release, target.number, count - loan, timeout_s)
        if why := failure(version, count - loan):
            raise Unavailable(why)
        turn(store, release, target.number, RETURN_S, reason)
    except BaseException as error:
        store.finish_release(release.id, Phase.FAILED, f"not put back: {error}", time.time(), {})
        raise
    if loan and release.stable_before is not None:
        store.retire(service, release.stable_before)  # only now: until it is confirmed, that one serves
    told = f"version {target.number} is in service again instead of {release.stable_before}: {reason}"
    store.note(Event(time.time(), service, "rollback", told))
    return target


def loans(releases: Iterable[Release]) -> dict[tuple[str, int | None], int]:
    """How many instances each (service, version) lends: of several loans the largest, they are the same room."""
    found: dict[tuple[str, int | None], int] = {}
    for release in releases:
        lender = (release.service, release.stable_before)
        found[lender] = max(release.borrowed, found.get(lender, 0))
    return found


def _kept_alive(store: Store, release: Release, number: int, count: int, timeout_s: float) -> Version:
    """Wait for a version while saying that this release lives."""

    def sleep(seconds: float) -> None:
        store.beat(release.id, time.time())
        time.sleep(seconds)

    return wait_settled(store, release.service, number, count, timeout_s, sleep)


def earlier_version(store: Store, service: str, to: int) -> VersionState:
    """The version asked for, or the one that was stable before the present one was promoted. Raises NotFound."""
    present = store.service(service).stable
    versions = {v.number: v for v in store.versions(service)}
    promoted = [r for r in store.releases(service, limit=10_000) if r.phase is Phase.PROMOTED]
    before = [r.stable_before for r in promoted if r.candidate == present]
    number = to or (before[-1] if before else None)  # the oldest: a put back must not lead forward again
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
