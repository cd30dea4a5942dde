"""The agent's watch over the traffic, on the gateway and the store in memory."""

from __future__ import annotations

import random

from history import GOOD, begun, deployed, promoted

from agent.watch import TrafficWatch
from gateway.memory import MemoryGateway
from gateway.port import Backend, Cursor, Endpoint, GatewayState, ServiceRoute, Token
from rollout.nouns import Lease
from store.port import ServiceState, StoreSettings, open_store

NOW = 1_000_000.0


def leased(release, canary, mirror=0):
    """A state of the gateway with a lease of that release."""
    backends = tuple(Backend(v, (Endpoint(f"chat-v{v}-0", "127.0.0.1", 18100 + v),)) for v in (1, 2))
    lease = Lease(2, canary, mirror, int(NOW * 1000) - 5000, int(NOW * 1000) + 5000, release)
    return GatewayState((ServiceRoute("chat", (Token("default", "rh-" + "s" * 43),), backends, 1, lease),))


def watched(clock=lambda: NOW, dropped=dict):
    """A store with a release under way, its gateway, and the watch over both."""
    store, gateway = open_store(StoreSettings("sqlite://")), MemoryGateway(clock)
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    deployed(store)
    release = begun(store, now=NOW - 60)
    return store, gateway, release, TrafficWatch(store, gateway, dropped, Cursor(), clock)


def requests(gateway, n, delivered, asked=100, start=0):
    rng = random.Random(1)
    for i in range(start, start + n):
        arm = 2 if rng.random() < delivered else 1
        gateway.add(GOOD._replace(at=NOW - 50 + i / 100, request_id=f"r{i}", arm=arm, canary_permille=asked))


def test_an_alarm_is_noted_once_in_a_lease():
    """10 % asked, none delivered: one event, however often one looks, with the release and a sentence."""
    store, gateway, release, watch = watched()
    gateway.apply(leased(release.id, 100))
    for start in (0, 150, 300):
        requests(gateway, 150, 0.0, start=start)
        assert watch.look().alarms
    events = [e for e in store.events("chat") if e.kind == "alarm"]
    assert [(e.release, e.text.split(",")[0]) for e in events] == [(release.id, "v2: asked 10 %")]


def test_a_split_as_asked_leaves_no_event():
    """What is shown then are the numbers; the page for scripts holds them too."""
    store, gateway, release, watch = watched()
    gateway.apply(leased(release.id, 100))
    requests(gateway, 400, 0.1)
    watch.look()
    assert [e for e in store.events("chat") if e.kind == "alarm"] == []
    assert watch.page()["shares"][0]["requests"] == 400


def test_the_proxys_own_count_of_dropped_copies_is_no_alarm():
    """Every copy is missing and the proxy says that it dropped as many; without that word it is an alarm."""
    for told, alarm in ((500, False), (0, True)):
        totals = {"chat": 0}
        store, gateway, release, watch = watched(dropped=lambda totals=totals: dict(totals))
        gateway.apply(leased(release.id, 0, 1000))
        watch.look()
        totals["chat"] = told
        for i in range(400):
            at = NOW - 40 + i / 10
            gateway.add(GOOD._replace(at=at, request_id=f"r{i}", mirror_permille=1000, canary_permille=0))
        assert bool(watch.look().alarms) is alarm
        assert any(e.kind == "alarm" for e in store.events("chat")) is alarm


def test_nothing_in_force_is_nothing_seen():
    """Before a first change of the gateway there is nothing to judge."""
    _, _, _, watch = watched()
    assert watch.look().alarms == () and watch.page()["shares"] == ()
