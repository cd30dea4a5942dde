"""Sessions that stay on one version while a candidate's share grows. Real Envoy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from gateway_doors import Called, a_service, calling, token_of
from running_envoy import Proxy, Upstream, a_lease, an_envoy

from gateway.port import GatewayState, Sticky, Traffic
from rollout.nouns import Lease

USERS = [f"user-{i}" for i in range(300)]
HEADER = Sticky("header", "x-session-id")
COOKIE = Sticky("cookie", "session")
Ask = Callable[[str], dict[str, str]]


def by_header(user: str) -> dict[str, str]:
    return {"x-session-id": user}


def by_cookie(user: str) -> dict[str, str]:
    return {"cookie": f"theme=dark; session={user}"}


def leased(v1: Upstream, v2: Upstream, lease: Lease, sticky: Sticky | None, *more: Upstream, **traffic) -> GatewayState:
    """Stable 1, candidate 2, sessions as told."""
    service = a_service("chat", v1, v2, *more, traffic=Traffic(sticky=sticky, **traffic))
    return GatewayState((replace(service, lease=lease),))


def versions(chat: Called, headers: Ask, users: list[str] = USERS) -> dict[str, str]:
    """Who answers each user."""
    return {user: chat.client.get("x", headers=headers(user)).headers["x-roundhouse-version"] for user in users}


@pytest.mark.parametrize(("sticky", "headers"), [(HEADER, by_header), (COOKIE, by_cookie)], ids=["header", "cookie"])
def test_who_is_on_the_candidate_stays_there(proxy: Proxy, v1, v2, sticky: Sticky, headers: Ask) -> None:
    """From 1 % to all nobody who was on the candidate leaves it, and each session has one version."""
    on: set[str] = set()
    for canary in (10, 50, 250, 1000):
        proxy.gateway.apply(leased(v1, v2, a_lease(canary=canary), sticky))
        with calling(proxy, "chat") as chat:
            served = versions(chat, headers)
            assert versions(chat, headers, USERS[:50]) == {user: served[user] for user in USERS[:50]}
        now = {user for user, version in served.items() if version == "2"}
        assert on <= now
        share = canary / 1000
        assert abs(len(now) - 300 * share) <= 5 * (300 * share * (1 - share)) ** 0.5
        on = now
    assert on == set(USERS)


def test_a_token_is_a_session(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Each token has one version, whoever the client claims to be, and as the share grows none returns."""
    tokens = [token_of("chat", f"client-{i}") for i in range(40)]
    on: set[str] = set()
    for canary in (100, 500, 900):
        state = leased(v1, v2, a_lease(canary=canary), Sticky("token"))
        proxy.gateway.apply(GatewayState((replace(state.services[0], tokens=tuple(tokens)),)))
        served = {}
        for token in tokens:
            with calling(proxy, "chat", token) as chat:
                claimed = chat.versions(3, headers={"x-client-id": f"chat/client-{len(served) + 1}"})
                (served[token.client],) = chat.versions(2) | claimed
        now = {client for client, version in served.items() if version == "2"}
        assert on <= now
        on = now
    assert 20 < len(on) < 40


def test_every_gateway_gives_the_same_answer(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Two processes with the same state send each session to the same version."""
    state = leased(v1, v2, a_lease(canary=300), HEADER)
    with an_envoy() as other:
        served = []
        for one in (proxy, other):
            one.gateway.apply(state)
            with calling(one, "chat") as chat:
                served.append(versions(chat, by_header))
    assert served[0] == served[1]
    assert set(served[0].values()) == {"1", "2"}


def test_another_release_draws_other_sessions(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """It is not always the same users' lot to be first."""
    drawn = []
    for release in ("release-1", "release-2"):
        proxy.gateway.apply(leased(v1, v2, replace(a_lease(canary=100), release=release), HEADER))
        with calling(proxy, "chat") as chat:
            drawn.append({user for user, version in versions(chat, by_header).items() if version == "2"})
    assert drawn[0]
    assert drawn[0] != drawn[1]
    assert len(drawn[0] & drawn[1]) < len(drawn[0]) / 2


def test_without_a_session_each_request_is_drawn(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A client that names no session gets both versions, in their shares."""
    proxy.gateway.apply(leased(v1, v2, a_lease(canary=300), HEADER))
    with calling(proxy, "chat") as chat:
        seen = chat.versions(300)
    assert abs(seen["2"] - 90) < 40  # five standard deviations


def test_a_baseline_has_the_candidates_size_and_its_own_sessions(proxy: Proxy, v1, v2, mortal) -> None:
    """Three arms: candidate and baseline grow alike, and who is on either stays on it."""
    v3 = mortal(3)
    on: dict[str, set[str]] = {"2": set(), "3": set()}
    for canary in (20, 100, 250, 500):
        lease = replace(a_lease(canary=canary), baseline=3)
        proxy.gateway.apply(leased(v1, v2, lease, HEADER, v3))
        with calling(proxy, "chat") as chat:
            served = versions(chat, by_header)
        for arm, before in on.items():
            now = {user for user, version in served.items() if version == arm}
            assert before <= now
            assert abs(len(now) - 0.3 * canary) <= 5 * (0.3 * canary * (1 - canary / 1000)) ** 0.5
            on[arm] = now
    assert set(served.values()) == {"2", "3"}


def test_the_prompt_does_not_decide_the_version(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Balanced by prompt, a session still keeps its version whatever it asks, and whatever hash it claims to have."""
    proxy.gateway.apply(leased(v1, v2, a_lease(canary=500), HEADER, balance="prompt"))
    with calling(proxy, "chat") as chat:
        for user in USERS[:10]:
            told = [
                chat.client.post("x", json={"prompt": f"question {i}" * 9}, headers={**by_header(user), **claimed})
                for i in range(8)
                for claimed in ({}, {"x-roundhouse-prompt": str(i * 1234567)})
            ]
            assert len({answer.headers["x-roundhouse-version"] for answer in told}) == 1
