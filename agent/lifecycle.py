"""How an instance lives: from what is seen of it to its next state and one action. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from platforms.port import ProcessState, Running
from rollout.nouns import Health
from store.port import InstanceState

TRY_AGAIN_S = 0.5  # where a start did not fail by the instance's own fault
HUNG_AFTER_S = 6.0  # of unanswered health checks, of an instance that was ready
CALM_AFTER_S = 60.0  # of being ready, after which earlier restarts are forgotten
MAX_BACKOFF_S = 30.0
WARM_S = 600.0  # of warming up, more than its own bounds add up to; then it is ended from outside
KILL_AGAIN_S = 1.0  # after which a process that should be dead is killed once more: the first may have been lost


class Do(StrEnum):
    """What is to be done with an instance's process."""

    NOTHING = "nothing"
    START = "start"
    WARM_UP = "warm up"
    STOP = "stop"
    KILL = "kill"
    REMOVE = "remove"


@dataclass(frozen=True)
class Seen:
    """What was seen of an instance at one look."""

    process: Running | None
    answers: bool = False  # its health check says that it is loaded
    silent_s: float = 0.0  # how long its health check has gone unanswered
    warm_up: dict[str, float] | None = None  # the finished warm-up's numbers
    warm_up_error: str = ""
    open_requests: int = 0


@dataclass(frozen=True)
class Bounds:
    """How long things may take, in seconds."""

    load_s: float = 120.0
    drain_s: float = 30.0
    warm_s: float = WARM_S


def backoff_s(restarts: int) -> float:
    """Wait before the next start: 0.2, 0.4, 0.8 ... up to 30 s."""
    return min(MAX_BACKOFF_S, 0.2 * 2 ** min(restarts, 20))


def next_state(
    now: float, instance: InstanceState, seen: Seen, wanted: bool, bounds: Bounds
) -> tuple[InstanceState, Do]:
    """The instance's next state, and what to do to get there."""
    match instance.health:
        case Health.STARTING:
            return _starting(now, instance, seen, wanted, bounds)
        case Health.WARMING:
            return _warming(now, instance, seen, wanted, bounds)
        case Health.READY:
            return _ready(now, instance, seen, wanted)
        case Health.DRAINING:
            return _draining(now, instance, seen, bounds)
        case Health.BACKOFF:
            return _backing_off(now, instance, seen, wanted)
    return instance, Do.REMOVE


def _starting(now: float, i: InstanceState, seen: Seen, wanted: bool, bounds: Bounds) -> tuple[InstanceState, Do]:
    if not wanted:
        return _to(now, i, Health.DRAINING, "no longer wanted"), Do.STOP
    if seen.process is None:
        return i, Do.START
    if seen.process.state is ProcessState.EXITED:
        return _dead(now, i, seen, "its process exited while starting"), Do.NOTHING
    if seen.answers:
        return replace(_to(now, i, Health.WARMING), pid=seen.process.pid), Do.WARM_UP
    if now - i.since > bounds.load_s:
        return _dead(now, i, seen, f"not loaded within {bounds.load_s:g} s"), Do.KILL
    return replace(i, pid=seen.process.pid), Do.NOTHING


def _warming(now: float, i: InstanceState, seen: Seen, wanted: bool, bounds: Bounds) -> tuple[InstanceState, Do]:
    if not wanted:
        return _to(now, i, Health.DRAINING, "no longer wanted"), Do.STOP
    if _gone(seen):
        return _dead(now, i, seen, "its process exited during warm-up"), Do.NOTHING
    if seen.warm_up_error:
        return _dead(now, i, seen, f"warm-up failed: {seen.warm_up_error}"), Do.KILL
    if seen.warm_up is not None:
        return replace(_to(now, i, Health.READY), warm_up=seen.warm_up), Do.NOTHING
    if now - i.since > bounds.warm_s:
        return _dead(now, i, seen, f"not warmed up within {bounds.warm_s:g} s"), Do.KILL
    return i, Do.WARM_UP


def _ready(now: float, i: InstanceState, seen: Seen, wanted: bool) -> tuple[InstanceState, Do]:
    if _gone(seen):
        return _dead(now, i, seen, "its process exited"), Do.NOTHING
    if not wanted:
        return _to(now, i, Health.DRAINING, "retired"), Do.NOTHING
    if seen.silent_s > HUNG_AFTER_S:
        return _dead(now, i, seen, f"hung: no answer to health checks for {seen.silent_s:.0f} s"), Do.KILL
    calm = i.restarts and now - i.since > CALM_AFTER_S
    return (replace(i, restarts=0) if calm else i), Do.NOTHING


def _draining(now: float, i: InstanceState, seen: Seen, bounds: Bounds) -> tuple[InstanceState, Do]:
    if _gone(seen):
        return replace(i, health=Health.STOPPED), Do.REMOVE
    if seen.process is not None and seen.process.state is ProcessState.STOPPING:
        return i, Do.NOTHING
    waited = now - i.since
    if (waited > 1.0 and seen.open_requests == 0) or waited > bounds.drain_s:
        return i, Do.STOP
    return i, Do.NOTHING


def _backing_off(now: float, i: InstanceState, seen: Seen, wanted: bool) -> tuple[InstanceState, Do]:
    if not wanted:
        return _to(now, i, Health.DRAINING, i.reason), Do.STOP
    if now < (i.retry_at or 0.0):
        return i, Do.NOTHING
    if seen.process is not None and seen.process.state is not ProcessState.EXITED:
        return replace(i, retry_at=now + KILL_AGAIN_S), Do.KILL
    return replace(_to(now, i, Health.STARTING, i.reason), restarts=i.restarts + 1, retry_at=None, pid=None), Do.START


def not_started(now: float, instance: InstanceState, reason: str, counts: bool = True) -> InstanceState:
    """One that could not even be started, waiting for the next try. ``counts``: as a death of it, with longer waits."""
    waiting = replace(_to(now, instance, Health.BACKOFF, reason), pid=None)
    if counts:
        return replace(waiting, retry_at=now + backoff_s(instance.restarts))
    return replace(waiting, restarts=max(0, instance.restarts - 1), retry_at=now + TRY_AGAIN_S)


def _gone(seen: Seen) -> bool:
    return seen.process is None or seen.process.state is ProcessState.EXITED


def _to(now: float, instance: InstanceState, health: Health, reason: str = "") -> InstanceState:
    return replace(instance, health=health, since=now, reason=reason)


def _dead(now: float, instance: InstanceState, seen: Seen, reason: str) -> InstanceState:
    status = seen.process.exit_status if seen.process else None
    told = f"{reason} (exit status {status})" if status is not None else reason
    if seen.process and seen.process.reason:
        told = f"{told}: {seen.process.reason}"
    return replace(_to(now, instance, Health.BACKOFF, told), retry_at=now + backoff_s(instance.restarts))
