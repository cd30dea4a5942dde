"""Pins: a request that names the version that is to answer it. Real Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from gateway_doors import a_group, at_ports, calling, token_of
from raw_servers import Answering, serving
from running_envoy import Proxy, Upstream, a_lease

from gateway.port import Backend, Endpoint, GatewayState, ServiceRoute, Traffic
from gateway.rules import MOST_PINNING
from rollout.errors import Refused

TESTER = token_of("chat", "tester", may_pin=True)
PLAIN = token_of("chat")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def engines() -> Iterator[dict[int, tuple[Answering, int]]]:
    """Two versions that keep what arrives, with their ports."""
    with ExitStack() as stack:
        made = {version: Answering(OK) for version in (1, 2)}
        yield {version: (engine, stack.enter_context(serving(engine))) for version, engine in made.items()}


def service(engines: dict[int, tuple[Answering, int]], **more: object) -> ServiceRoute:
    """Stable 1, candidate 2."""
    backends = tuple(Backend(v, (Endpoint(f"chat-v{v}-0", "127.0.0.1", port),)) for v, (_, port) in engines.items())
    return replace(at_ports("chat"), backends=backends, tokens=(PLAIN, TESTER), **more)


@pytest.mark.parametrize("canary", [0, 1000])
def test_a_pin_chooses_the_version(proxy: Proxy, engines, canary: int) -> None:
    """Whatever the candidate's share is, a token that may pin reaches either version by its number."""
    proxy.gateway.apply(GatewayState((service(engines, lease=a_lease(canary=canary)),)))
    with calling(proxy, "chat", TESTER) as chat:
        for version in "12":
            assert chat.versions(10, headers={"x-roundhouse-version": version}) == {version: 10}
        assert chat.versions(10) == {"2" if canary else "1": 10}
    kinds = [(r.route, r.arm, r.client) for r in proxy.records(30)]
    assert kinds.count(("pinned", 1, "tester")) == kinds.count(("pinned", 2, "tester")) == 10


def test_as_many_tokens_may_pin_as_the_rules_allow(proxy: Proxy, engines) -> None:
    """The proxy takes the most and longest names that our rules take, and one more is refused by name."""
    tokens = [token_of("chat", f"{i:.<99}z", may_pin=True) for i in range(MOST_PINNING)]
    proxy.gateway.apply(GatewayState((replace(service(engines, lease=a_lease()), tokens=tuple(tokens)),)))
    for token in (tokens[0], tokens[-1]):
        with calling(proxy, "chat", token) as chat:
            assert chat.versions(2, headers={"x-roundhouse-version": "2"}) == {"2": 2}
    with pytest.raises(Refused, match="may pin"):
        proxy.gateway.apply(GatewayState((replace(service(engines), tokens=(*tokens, TESTER)),)))


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_token_that_may_not_pin_is_refused(proxy: Proxy, engines, version: str) -> None:
    """A pin by any other token is 403, and reaches no engine."""
    proxy.gateway.apply(GatewayState((service(engines, lease=a_lease(canary=500)),)))
    with calling(proxy, "chat", PLAIN) as chat:
        refused = chat.client.get("x", headers={"x-roundhouse-version": version})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert "version" in refused.json()["error"]["message"]
    assert [engine.arrived for engine, _ in engines.values()] == [[], []]
    assert "x-roundhouse-version" not in refused.headers or not refused.headers["x-roundhouse-version"].isdecimal()


def test_nobody_pins_by_a_likeness(proxy: Proxy, engines) -> None:
    """A client whose name only looks like one that may pin may not."""
    likes = [replace(token_of("chat", name), client=name) for name in ("tester2", "a.tester", "testers")]
    dotted = token_of("chat", "a.b", may_pin=True)
    other = token_of("chat", "axb")
    tokens = (*likes, dotted, other, TESTER)
    proxy.gateway.apply(GatewayState((replace(service(engines), tokens=tokens),)))
    for token in (*likes, other):
        with calling(proxy, "chat", token) as chat:
            assert chat.client.get("x", headers={"x-roundhouse-version": "1"}).status_code == 403
    with calling(proxy, "chat", dotted) as chat:
        assert chat.versions(1, headers={"x-roundhouse-version": "1"}) == {"1": 1}


@pytest.mark.parametrize("pin", ["2", "3", "x", "", "01", "1, 2"])
def test_a_version_that_is_not_to_be_had_is_answered_by_stable(proxy: Proxy, engines, pin: str) -> None:
    """Without a lease, and for what is no version: stable answers, and the answer says so."""
    proxy.gateway.apply(GatewayState((service(engines),)))
    with calling(proxy, "chat", TESTER) as chat:
        assert chat.versions(3, headers={"x-roundhouse-version": pin}) == {"1": 3}


def test_the_pin_never_reaches_an_engine(proxy: Proxy, engines) -> None:
    """The header is the gateway's own where it means something."""
    proxy.gateway.apply(GatewayState((service(engines, lease=a_lease(canary=500)),)))
    with calling(proxy, "chat", TESTER) as chat:
        for version in "123":
            assert chat.client.get("x", headers={"x-roundhouse-version": version}).status_code == 200
    arrived = [request for engine, _ in engines.values() for request in engine.arrived]
    assert len(arrived) == 3
    assert not any("x-roundhouse-version" in request.headers for request in arrived)


def test_without_a_token_that_may_pin_the_header_means_nothing(proxy: Proxy, engines) -> None:
    """Where nobody may pin, all are routed as if they had not named a version."""
    proxy.gateway.apply(GatewayState((replace(service(engines, lease=a_lease(canary=0)), tokens=(PLAIN,)),)))
    with calling(proxy, "chat", PLAIN) as chat:
        assert chat.versions(5, headers={"x-roundhouse-version": "2"}) == {"1": 5}


def test_a_pin_in_a_group_means_nothing(proxy: Proxy, engines) -> None:
    """A group's versions are its members': its weights decide, whatever a client names."""
    group = a_group("prod", {"chat": 1}, tokens=(token_of("prod", may_pin=True),))
    proxy.gateway.apply(GatewayState((service(engines, lease=a_lease(canary=0)),), (group,)))
    with calling(proxy, "prod", token_of("prod")) as prod:
        assert prod.versions(5, headers={"x-roundhouse-version": "2"}) == {"1": 5}


def test_a_pinned_request_is_not_copied(proxy: Proxy, engines) -> None:
    """Tests by hand are not mirrored."""
    proxy.gateway.apply(GatewayState((service(engines, lease=a_lease(mirror=1000)),)))
    with calling(proxy, "chat", TESTER) as chat:
        assert chat.versions(5, headers={"x-roundhouse-version": "1"}) == {"1": 5}
        assert chat.versions(1) == {"1": 1}
    assert sorted(r.kind for r in proxy.records(7)) == ["live"] * 6 + ["mirror"]


def test_a_pin_goes_with_a_websocket(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A connection that asks to be upgraded may be pinned as well, by those who may."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    backends = (v1.backend(), v2.backend())
    made = replace(at_ports("chat"), backends=backends, tokens=(PLAIN, TESTER), traffic=Traffic(websocket=True))
    proxy.gateway.apply(GatewayState((replace(made, lease=a_lease()),)))
    address = f"{proxy.url}/api/predict/chat/socket".replace("http:", "ws:")
    pin = {"x-roundhouse-version": "2"}
    with connect(address, additional_headers={"authorization": TESTER.secret, **pin}, proxy=None) as socket:
        assert socket.recv() == "v2"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, additional_headers={"authorization": PLAIN.secret, **pin}, proxy=None)
    assert refused.value.response.status_code == 403
