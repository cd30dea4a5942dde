"""What the records of a real Envoy prove of its splits, groups and mirrors."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

import httpx
from running_envoy import ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, until

from gateway.admin import Admin
from gateway.copies import Copies
from gateway.dropped import dropped_copies
from gateway.observed import Observer
from gateway.port import Cursor, GatewayState, GroupRoute, Limits, Member, Record, Token, Traffic

AGO = 60.0


WAIT_S = 0.5


def watching(state):
    observer = Observer(Copies(WAIT_S))
    observer.ask(state, {"chat": time.time() - AGO}, time.time() - AGO)
    return observer


def send(url: str, paths: list[str], at_once: int = 8, **options: object) -> list[int]:
    """The statuses of requests, so many at once."""

    async def all_of_them() -> list[int]:
        left, statuses = iter(paths), []

        async def one(client: httpx.AsyncClient) -> None:
            for path in left:
                answer = await client.request(options.get("method", "GET"), url + path, json=options.get("json"))
                statuses.append(answer.status_code)

        async with httpx.AsyncClient(headers=ALICE_HEADERS, timeout=20.0, trust_env=False) as client:
            await asyncio.gather(*(one(client) for _ in range(at_once)))
        return statuses

    return asyncio.run(all_of_them())


def settled(proxy: Proxy, url: str, live: int) -> list[Record]:
    """The records of ``live`` requests, of each copy that Envoy sent, and of one more request, so much later that an
    observer waits for no copy of those before."""
    (sent,) = Admin(proxy.layout.admin).matching(r"^cluster\.chat@mirror\.upstream_rq_total$").values()
    until(lambda: _kinds(proxy) == {"live": live, "mirror": sent})
    time.sleep(WAIT_S + max(r.total_s or 0.0 for r in proxy.records(live)))
    send(url, ["/x"], 1)
    until(lambda: _kinds(proxy)["live"] == live + 1)
    return proxy.records(live + 1)


def _kinds(proxy: Proxy) -> Counter[str]:
    return Counter(r.kind for r in proxy.gateway.records(Cursor())[0])


def test_a_real_split_and_its_mirror_are_as_asked(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """20 % live and half copied: both are observed, no alarm; pins are counted apart."""
    state = a_state(v1, v2, lease=a_lease(canary=200, mirror=500))
    proxy.gateway.apply(state)
    url, observer = f"{proxy.url}/api/predict/chat", watching(state)
    assert set(send(url, ["/x"] * 600)) == {200}
    observer.see(settled(proxy, url, 600))
    seen = observer.seen(time.time())
    (share,), (copies,) = seen.shares, seen.copies
    assert (share.asked, share.alarm, share.requests) == (200, False, 601)
    assert 120 < share.observed < 280
    assert not copies.alarm and copies.requests >= 600
    assert 230 < copies.arrived < 370


def test_a_split_other_than_asked_is_found_in_real_records(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """What is in force is 20 %; an observer that is told of another candidate sees none of it and says so."""
    state = a_state(v1, v2, lease=a_lease(canary=200))
    proxy.gateway.apply(state)
    observer = watching(a_state(v1, v2, lease=replace(a_lease(canary=200), candidate=3)))
    send(f"{proxy.url}/api/predict/chat", ["/x"] * 300)
    observer.see(proxy.records(300))
    (share,) = observer.seen(time.time()).shares
    assert share.alarm and share.seen == 0


def test_copies_over_the_bound_are_told_by_envoy_and_excused(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """One copy may be open and answers take long: most are dropped, Envoy counts each, and nothing is missing."""
    lease = a_lease(mirror=1000)
    state = a_state(v1, v2, lease=lease, traffic=Traffic(limits=Limits(mirror_in_flight=1)))
    proxy.gateway.apply(state)
    observer, admin = watching(state), Admin(proxy.layout.admin)
    observer.dropped(dropped_copies(admin))
    slow = {"model": "m", "messages": [], "gap": 0.2}
    url = f"{proxy.url}/api/predict/chat"
    assert set(send(url, ["/v1/chat/completions"] * 60, method="POST", json=slow)) == {200}
    records = settled(proxy, url, 60)
    observer.dropped(dropped_copies(admin))
    observer.see(records)
    (copies,) = observer.seen(time.time()).copies
    assert copies.requests >= 60
    assert copies.dropped > 10 and copies.arrived + copies.dropped >= copies.requests
    assert not copies.alarm and "dropped" in copies.text


def test_a_real_groups_members_get_their_weights(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Weights 1 and 3."""
    (chat,) = a_state(v1).services
    chat = replace(chat, tokens=())
    other = replace(chat, name="other", backends=(v2.backend(),), stable=2)
    group = GroupRoute("prod", (Token("alice", "token-of-alice"),), (Member("chat", 1), Member("other", 3)))
    state = GatewayState((chat, other), (group,))
    proxy.gateway.apply(state)
    observer = watching(state)
    assert set(send(f"{proxy.url}/api/predict/prod", ["/x"] * 400)) == {200}
    observer.see(proxy.records(400))
    members = observer.seen(time.time()).members
    assert [(m.arm, m.asked, m.requests, m.alarm) for m in members] == [
        ("chat", 250, 400, False),
        ("other", 750, 400, False),
    ]
