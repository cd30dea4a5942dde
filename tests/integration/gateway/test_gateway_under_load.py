"""Nothing is lost: changes and deaths while clients keep calling."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
from running_envoy import ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, until

from gateway.port import GatewayState


@dataclass
class Load:
    """What clients saw: answers by (status, version), failures with their start and end, streams that were cut."""

    answers: Counter = field(default_factory=Counter)
    failures: list[tuple[float, float, str]] = field(default_factory=list)
    streams: int = 0
    cut: int = 0


@contextlib.contextmanager
def load(proxy: Proxy, clients: int = 6, streams: int = 4) -> Iterator[Load]:
    """Clients that call as fast as they are answered, and readers of streams, while inside."""
    seen, over = Load(), threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_call(f"{proxy.url}/api/predict/chat", seen, over, clients, streams))
    )
    thread.start()
    try:
        until(lambda: sum(seen.answers.values()) > 20)
        yield seen
    finally:
        over.set()
        thread.join()


async def _call(url: str, seen: Load, over: threading.Event, clients: int, streams: int) -> None:
    async with aiohttp.ClientSession(headers=ALICE_HEADERS) as session:
        callers = [_requests(session, url, seen, over) for _ in range(clients)]
        readers = [_streams(session, url, seen, over) for _ in range(streams)]
        await asyncio.gather(*callers, *readers)


async def _requests(session: aiohttp.ClientSession, url: str, seen: Load, over: threading.Event) -> None:
    while not over.is_set():
        begun = time.monotonic()
        try:
            async with session.post(f"{url}/x", data=b"{}") as answer:
                text = await answer.text()
                seen.answers[answer.status, answer.headers.get("x-roundhouse-version")] += 1
                if answer.status != 200:
                    seen.failures.append((begun, time.monotonic(), text))
        except aiohttp.ClientError as error:
            seen.failures.append((begun, time.monotonic(), repr(error)))
        await asyncio.sleep(0.004)


async def _streams(session: aiohttp.ClientSession, url: str, seen: Load, over: threading.Event) -> None:
    while not over.is_set():
        text = b""
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"{url}/v1/completions", json={"stream": True, "n": 10, "gap": 0.1}) as answer:
                text = await answer.read()
        seen.streams += 1
        seen.cut += not text.endswith(b"data: [DONE]\n\n")


def test_a_hundred_weight_changes_lose_nothing(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """120 changes of shares, mirrors and windows under load: no request fails, no stream is cut, none is structural."""
    gateway = proxy.gateway
    gateway.apply(a_state(v1, v2))
    with load(proxy) as seen:
        applied = [gateway.apply(a_state(v1, v2, lease=_lease_of(step))) for step in range(120)]
    assert not any(change.structural for change in applied)
    assert (seen.failures, seen.cut) == ([], 0)
    assert seen.streams > 0
    assert {key for key in seen.answers} == {(200, "1"), (200, "2")}


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
    with load(proxy) as seen:
        for state in states * 3:
            gateway.apply(state())
            time.sleep(0.05)
    assert (seen.failures, seen.cut) == ([], 0)
    assert seen.answers[200, "1"] > 0 and seen.answers[200, "2"] > 0


def test_a_killed_candidate_is_answered_for(proxy: Proxy, v1: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """SIGKILL of the candidate's only instance: only requests then open on it fail; stable answers for its share."""
    candidate = mortal(2)
    _killed(proxy, a_state(v1, candidate, lease=a_lease(canary=500)), candidate, survivor="1")


def test_a_killed_stable_is_answered_for(proxy: Proxy, v2: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """SIGKILL of stable's only instance during a canary: the candidate answers for it."""
    stable = mortal(1)
    _killed(proxy, a_state(stable, v2, lease=a_lease(canary=500)), stable, survivor="2")


def test_a_failover_is_told_in_the_records(proxy: Proxy, v1: Upstream, mortal: Callable[[int], Upstream]) -> None:
    """A record says which version the split chose and which one truly answered, as the answer's header does."""
    candidate = mortal(2)
    proxy.gateway.apply(a_state(v1, candidate, lease=a_lease(canary=1000)))
    candidate.kill()
    with load(proxy, clients=2, streams=0) as seen:
        until(lambda: seen.answers[200, "1"] > 20)
    records = proxy.records(20)
    assert {(r.arm, r.version, r.instance) for r in records if r.status == 200} == {(2, 1, "chat-v1-0")}


def test_a_short_restart_of_stable_is_bridged(proxy: Proxy, mortal: Callable[[int], Upstream]) -> None:
    """Connections refused for a moment are tried again: requests that begin while the only instance is away succeed."""
    stable = mortal(1).prepare()
    proxy.gateway.apply(a_state(stable))
    with load(proxy, streams=0) as seen:
        time.sleep(0.5)  # the spare process has imported all it needs
        killed = time.monotonic()
        stable.kill()
        time.sleep(0.2)
        stable.start()
        until(lambda: sum(seen.answers.values()) > 200)
    assert [failure for failure in seen.failures if failure[0] > killed + 0.05] == []


def _killed(proxy: Proxy, state: GatewayState, victim: Upstream, survivor: str) -> None:
    proxy.gateway.apply(state)
    with load(proxy, streams=0) as seen:
        killed = time.monotonic()
        victim.kill()
        before = seen.answers[200, survivor]
        until(lambda: seen.answers[200, survivor] > before + 300)
    later = [failure for failure in seen.failures if failure[0] > killed + 0.05]
    assert later == []
    assert len(seen.failures) <= 6, "more than the requests that were open"


def _lease_of(step: int):
    return a_lease(canary=step * 37 % 1001, mirror=step % 3 * 100, seconds=20 + step / 1000)
