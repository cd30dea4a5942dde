"""Nothing is lost: changes and deaths while clients keep calling."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from load_client import Load, Plan, load
from many_changes import DOORS, Fleet, Walk, many_changes
from running_envoy import ALICE, Proxy, Upstream, a_lease, a_state, until

from gateway.port import Backend, Cursor, Endpoint, GatewayState, ServiceRoute
from rollout.nouns import Lease

CHAT = (("chat", ALICE.secret),)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Two instances of two versions, and another service."""
    running = Fleet.start()
    yield running
    running.stop()


def plan(proxy: Proxy, **more: object) -> Plan:
    """Clients of ``chat``."""
    return Plan(proxy.settings.port, CHAT, **more)  # type: ignore[arg-type]


def lossless(running: Load) -> None:
    """No request failed and no stream was cut, of many."""
    seen = running.seen()
    assert (seen.failures, seen.cut) == ([], [])
    assert seen.requests > 100


def test_changes_of_all_kinds_lose_nothing(proxy: Proxy, fleet: Fleet) -> None:
    """300 changes of weights, instances, mirrors, tokens and groups under load; `make soak` makes 10,000."""
    outcome = many_changes(proxy, Walk(fleet, random.Random(7)), 300, Plan(proxy.settings.port, DOORS))
    lossless(outcome.running)
    seen = outcome.running.seen()
    assert seen.streams > 0
    assert {(door, version) for door, _, version in seen.answers} == {(d, v) for d, _ in DOORS for v in ("1", "2")}


def test_a_hundred_weight_changes_need_no_validation(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """120 changes of shares, mirrors and windows under load: no request fails, no stream is cut, none is structural."""
    gateway = proxy.gateway
    gateway.apply(a_state(v1, v2))
    with load(plan(proxy)) as running:
        applied = [gateway.apply(a_state(v1, v2, lease=_lease_of(step))) for step in range(120)]
    assert not any(change.structural for change in applied)
    lossless(running)
    assert running.seen().good("1") > 0 and running.seen().good("2") > 0


def test_versions_come_and_go_without_loss(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Versions added, promoted and removed under load: no request fails and no stream is cut."""
    states: list[Callable[[], GatewayState]] = [
        lambda: a_state(v1, v2),
        lambda: a_state(v1, v2, lease=a_lease(canary=500, mirror=500)),
        lambda: a_state(v2, v1),
        lambda: a_state(v2),
        lambda: a_state(v2, v1),
        lambda: a_state(v1, v2),
        lambda: a_state(v1),
    ]
    gateway = proxy.gateway
    gateway.apply(a_state(v1))
    with load(plan(proxy)) as running:
        for state in states * 3:
            gateway.apply(state())
            time.sleep(0.05)
    lossless(running)
    assert running.seen().good("1") > 0 and running.seen().good("2") > 0


def test_a_killed_instance_costs_its_open_requests_only(proxy: Proxy, mortal: Callable[[int], Upstream]) -> None:
    """SIGKILL of one of two instances: requests open on it fail, later ones and the other instance's streams do not."""
    victim, other = mortal(1), mortal(1)
    proxy.gateway.apply(GatewayState((_with_instances(victim, other),)))
    _killed(proxy, victim, survivor="1")


def test_a_killed_candidate_is_answered_for(proxy: Proxy, v1: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """SIGKILL of the candidate's only instance: only requests then open on it fail; stable answers for its share."""
    candidate = mortal(2)
    proxy.gateway.apply(a_state(v1, candidate, lease=a_lease(canary=500)))
    _killed(proxy, candidate, survivor="1")


def test_a_killed_stable_is_answered_for(proxy: Proxy, v2: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """SIGKILL of stable's only instance during a canary: the candidate answers for it."""
    stable = mortal(1)
    proxy.gateway.apply(a_state(stable, v2, lease=a_lease(canary=500)))
    _killed(proxy, stable, survivor="2")


def test_an_idle_instance_may_die_unnoticed(proxy: Proxy, mortal: Callable[[int], Upstream]) -> None:
    """Killed while no request is open on it, an instance costs no client anything: all that follow are tried again."""
    victim, other = mortal(1), mortal(1)
    proxy.gateway.apply(GatewayState((_with_instances(victim, other),)))
    with load(plan(proxy, streams=0)):
        pass  # connections to both stay open, idle
    victim.kill()
    with load(plan(proxy, streams=0)) as running:
        until(lambda: running.seen().good("1") > 300)
    lossless(running)


def test_a_failover_is_told_in_the_records(proxy: Proxy, v1: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """A record says which version the split chose and which one truly answered, as the answer's header does."""
    candidate = mortal(2)
    proxy.gateway.apply(a_state(v1, candidate, lease=a_lease(canary=1000)))
    candidate.kill()
    with load(plan(proxy, connections=2, streams=0)) as running:
        until(lambda: running.seen().good("1") > 20)
    records = proxy.records(20)
    assert {(r.arm, r.version, r.instance) for r in records if r.status == 200} == {(2, 1, "chat-v1-0")}


def test_a_short_restart_of_stable_is_bridged(proxy: Proxy, mortal: Callable[[int], Upstream]) -> None:
    """Connections refused for a moment are tried again: requests that begin while the only instance is away succeed."""
    stable = mortal(1)
    proxy.gateway.apply(a_state(stable))
    with load(plan(proxy, rate=300, streams=0)) as running:
        killed = _short_restart(running, stable)
    assert [failure for failure in running.seen().failures if failure[0] > killed] == []
    tried_again = [r for r in proxy.gateway.records(Cursor())[0] if r.attempts > 1 and r.status == 200]
    assert tried_again, "nothing was tried again"


def test_a_killed_envoy_comes_back_as_it_was(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """SIGKILL of Envoy under load, a bare restart loop beside it: the last confirmed state serves, nobody helps."""
    lease = a_lease(canary=1000)
    proxy.gateway.apply(a_state(v1, v2, lease=lease))
    over = threading.Event()
    with load(plan(proxy, streams=0)) as running:
        keeper = threading.Thread(target=_restart_for_ever, args=(proxy, over))
        keeper.start()
        first = proxy.process
        assert first is not None
        first.kill()
        before = running.seen().good("2")
        until(lambda: running.seen().good("2") > before + 200)
        over.set()
        keeper.join()
    assert running.seen().good("1") == 0
    assert proxy.process is not first
    (chat,) = proxy.gateway.read().values()
    assert (chat.stable, chat.lease) == (1, lease)


def _restart_for_ever(proxy: Proxy, over: threading.Event) -> None:
    """What any process manager does, and no more."""
    while not over.is_set():
        assert proxy.process is not None
        if proxy.process.poll() is not None:
            proxy.spawn()
        time.sleep(0.05)


def _with_instances(*upstreams: Upstream) -> ServiceRoute:
    endpoints = tuple(Endpoint(f"chat-v1-{i}", "127.0.0.1", u.port) for i, u in enumerate(upstreams))
    return ServiceRoute("chat", (ALICE,), (Backend(1, endpoints),), 1)


def _short_restart(running: Load, stable: Upstream) -> float:
    """Restart it until it was away for a moment only; when that began.

    The proxy waits for a drawn time before each try: longer than 0.15 s in all, but for one request of 10,000.
    """
    for _ in range(10):
        stable.prepare()
        stable.kill()
        killed = time.monotonic()
        time.sleep(0.05)
        stable.start()
        away_s, before = time.monotonic() - killed, running.seen().good("1")
        until(lambda enough=before + 100: running.seen().good("1") > enough)  # type: ignore[misc]
        if away_s <= 0.15:
            return killed
    raise AssertionError("it was away for too long each time")


def _killed(proxy: Proxy, victim: Upstream, survivor: str) -> None:
    """Kill an instance under load: what fails had begun before its death."""
    with load(plan(proxy, streams=0)) as running:
        victim.kill()
        killed = time.monotonic()
        before = running.seen().good(survivor)
        until(lambda: running.seen().good(survivor) > before + 300)
    assert [failure for failure in running.seen().failures if failure[0] > killed] == []


def _lease_of(step: int) -> Lease:
    return a_lease(canary=step * 37 % 1001, mirror=step % 3 * 100, seconds=20 + step / 1000)
