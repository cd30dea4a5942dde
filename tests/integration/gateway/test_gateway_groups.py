"""Groups: several services behind one endpoint, by weights. Real Envoy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from gateway_doors import Called, a_group, a_service, calling
from running_envoy import Proxy, Upstream, a_lease, in_time, until

from gateway.port import Cursor, GatewayState, ServiceRoute, Sticky
from rollout.nouns import Lease


@pytest.fixture(scope="module")
def v3() -> Iterator[Upstream]:
    """The only version of a second service."""
    upstream = Upstream(3).start()
    yield upstream
    upstream.stop()


@pytest.fixture
def two(v1: Upstream, v2: Upstream, v3: Upstream) -> tuple[ServiceRoute, ServiceRoute]:
    """A service with stable version 1 and candidate 2, and one with version 3."""
    return a_service("chat", v1, v2), a_service("other", v3)


def members(called: Called, times: int) -> Counter[tuple[str, str]]:
    """Which member's which version answers so many requests."""
    answers = [called.client.get("x") for _ in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter((a.headers["x-roundhouse-service"], a.headers["x-roundhouse-version"]) for a in answers)


def test_a_group_splits_by_weight(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """Weights 3:1 give three of four requests to the first; each answer names who served."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 3, "other": 1}),)))
    with calling(proxy, "prod") as prod:
        seen = members(prod, 800)
    assert seen.keys() == {("chat", "1"), ("other", "3")}
    assert abs(seen["chat", "1"] - 600) < 62  # five standard deviations
    assert proxy.gateway.read_groups() == {"prod": {"chat": 7500, "other": 2500}}


def test_doors_have_tokens_of_their_own(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """Members are called directly by their own path and token; no token opens a second door."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 1, "other": 1}),)))
    for door in ("prod", "chat", "other"):
        with calling(proxy, door) as called:
            for other in ("prod", "chat", "other"):
                answer = called.client.get(f"{proxy.url}/api/predict/{other}/x")
                assert answer.status_code == (200 if other == door else 403)


def test_the_engine_sees_its_own_path_and_the_groups_client(proxy: Proxy, two, v1: Upstream) -> None:
    """A group's name is cut off the path; query and rest stay, no token passes."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 1}),)))
    with calling(proxy, "prod") as prod:
        paths = {path: prod.client.get(proxy.url + "/api/predict/prod" + path).json() for path in ("", "/", "/a/b?c=d")}
    assert {path: told["path"] for path, told in paths.items()} == {"": "/", "/": "/", "/a/b?c=d": "/a/b?c=d"}
    seen = paths["/a/b?c=d"]["headers"]
    assert seen["x-client-id"] == "prod/alice"
    assert "authorization" not in seen


@pytest.mark.parametrize("weights", [{"chat": 0, "other": 0}, {"chat": None, "other": None}, {}])
def test_a_group_without_weight_is_closed(proxy: Proxy, two, weights: dict[str, int | None]) -> None:
    """With no weight above 0 a group answers 503 to its own clients; its members live on."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", weights),)))
    with calling(proxy, "prod") as prod, calling(proxy, "chat") as chat:
        closed = prod.client.get("x")
        assert (closed.status_code, closed.json()["error"]["type"]) == (503, "unavailable_error")
        assert closed.headers["retry-after"]
        assert "prod" in closed.json()["error"]["message"]
        assert chat.client.get("x").status_code == 200
        assert chat.client.get(proxy.url + "/api/predict/prod/x").status_code == 403


def test_a_standalone_member_takes_direct_calls_only(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """A member without a weight gets nothing of the group's traffic."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": None, "other": 1}),)))
    with calling(proxy, "prod") as prod, calling(proxy, "chat") as chat:
        assert members(prod, 50).keys() == {("other", "3")}
        assert chat.versions(1) == {"1": 1}


def test_weights_are_numbers(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """Changing weights, to 0 and back as well, needs no check by the binary and acts on open connections."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 1, "other": 0}),)))
    with calling(proxy, "prod") as prod:
        for weights, served in (({"chat": 0, "other": 9}, "other"), ({"chat": 1000, "other": None}, "chat")):
            assert not proxy.gateway.apply(GatewayState(two, (a_group("prod", weights),))).structural
            until(lambda name=served: {service for service, _ in members(prod, 1)} == {name})  # type: ignore[misc]
            assert {service for service, _ in members(prod, 20)} == {served}


def test_a_members_lease_holds_inside_the_group(proxy: Proxy, two, v2: Upstream) -> None:
    """A candidate gets its share of its member's part, and nothing from its lease's end on."""
    chat, other = two
    prod_group = a_group("prod", {"chat": 1, "other": 1})

    def granted(seconds: float) -> Lease:
        lease = a_lease(canary=500, seconds=seconds)
        proxy.gateway.apply(GatewayState((replace(chat, lease=lease), other), (prod_group,)))
        return lease

    proxy.gateway.apply(GatewayState(two, (prod_group,)))
    granted(50)
    with calling(proxy, "prod") as prod:
        seen = members(prod, 400)
        lease, _ = in_time(granted, lambda: until(lambda: ("chat", "2") in members(prod, 1)))
        until(lambda: time.time() * 1000 > lease.until_ms)
        late = members(prod, 100)
    assert abs(seen["chat", "2"] - 100) < 44  # five standard deviations
    assert abs(seen["other", "3"] - 200) < 50
    assert late.keys() == {("chat", "1"), ("other", "3")}
    assert proxy.gateway.read_groups() == {"prod": {"chat": 5000, "other": 5000}}


def test_leases_that_never_meet_are_taken(proxy: Proxy, two, v1: Upstream, v2: Upstream, mortal) -> None:
    """Two members' leases that share no moment leave the group on stable versions, and break nothing."""
    chat, other = two
    now = a_lease(canary=1000)
    past = replace(now, from_ms=now.from_ms - 20_000, until_ms=now.from_ms - 10_000, candidate=4)
    more = replace(other, backends=(*other.backends, mortal(4).backend()), lease=past)
    state = GatewayState((replace(chat, lease=now), more), (a_group("prod", {"chat": 1, "other": 1}),))
    proxy.gateway.apply(state)
    with calling(proxy, "prod") as prod:
        assert members(prod, 60).keys() == {("chat", "1"), ("other", "3")}


def test_a_groups_records_say_who_was_called_and_who_answered(proxy: Proxy, two) -> None:
    """Door, member, arm, version, instance and client of each call; of a refused one the door."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 0, "other": 1}),)))
    with calling(proxy, "prod") as prod:
        prod.client.post("v1/completions", json={"n": 7})
        prod.client.get(f"{proxy.url}/api/predict/prod/x", headers={"authorization": "wrong"})
    until(lambda: len(proxy.gateway.records(Cursor())[0]) == 2)
    served, refused = proxy.gateway.records(Cursor())[0]
    assert (served.door, served.service, served.route) == ("prod", "other", "group")
    assert (served.arm, served.version, served.instance, served.client) == (3, 3, "chat-v3-0", "alice")
    assert (served.tokens_in, served.tokens_out) == (5, 7)
    assert (refused.door, refused.client, refused.status) == ("prod", None, 401)


def test_the_strictest_members_body_limit_holds(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """A group takes what each of its members would take."""
    chat, other = two
    strict = replace(other, body_limit_bytes=1000)
    proxy.gateway.apply(GatewayState((chat, strict), (a_group("prod", {"chat": 1, "other": 0}),)))
    with calling(proxy, "prod") as prod:
        statuses = [prod.client.post("x", content=b"x" * n).status_code for n in (1000, 1001)]
    assert statuses == [200, 200], "a member without a weight does not count"
    proxy.gateway.apply(GatewayState((chat, strict), (a_group("prod", {"chat": 1, "other": 1}),)))
    with calling(proxy, "prod") as prod:
        assert [prod.client.post("x", content=b"x" * n).status_code for n in (1000, 1001)] == [200, 413]


def test_sessions_stay_with_their_member(proxy: Proxy, two: tuple[ServiceRoute, ServiceRoute]) -> None:
    """In a sticky group a session keeps its member, and a changed weight moves no more than it must."""
    sticky = Sticky("header", "x-session-id")
    before, after = {}, {}
    for weight, served in ((5, before), (7, after)):
        state = GatewayState(two, (a_group("prod", {"chat": weight, "other": 10 - weight}, sticky=sticky),))
        proxy.gateway.apply(state)
        with calling(proxy, "prod") as prod:
            for user in (f"user-{i}" for i in range(100)):
                asked = {
                    prod.client.get("x", headers={"x-session-id": user}).headers["x-roundhouse-service"] for _ in "ab"
                }
                (served[user],) = asked
    assert {"chat", "other"} == set(before.values())
    assert [user for user in before if before[user] == "chat" != after[user]] == []
    assert 3 < sum(before[user] != after[user] for user in before) < 40  # 20 of 100, five standard deviations


def test_a_removed_group_is_gone(proxy: Proxy, two) -> None:
    """Its path is unknown from then on, on open connections too; its members live on."""
    proxy.gateway.apply(GatewayState(two, (a_group("prod", {"chat": 1}),)))
    with calling(proxy, "prod") as prod:
        assert prod.client.get("x").status_code == 200
        proxy.gateway.apply(GatewayState(two))
        assert prod.client.get("x").status_code == 404
        assert prod.client.get(f"{proxy.url}/api/predict/chat/x").status_code == 401
