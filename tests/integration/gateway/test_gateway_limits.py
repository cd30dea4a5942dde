"""Bounds on load, and what a client is told who meets one. Real Envoy."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from gateway_doors import Called, a_group, a_service, bearer, calling, token_of
from running_envoy import Proxy, Upstream, a_lease, until

from gateway.port import Backend, Cursor, GatewayState, Limits, Traffic

SLOWEST = 0.1  # a request each ten seconds: more must not pass while a test runs


def limited(*upstreams: Upstream, name: str = "chat", **limits: float) -> GatewayState:
    """A service with these limits."""
    return GatewayState((a_service(name, *upstreams, traffic=Traffic(limits=Limits(**limits))),))  # type: ignore[arg-type]


def statuses(called: Called, times: int) -> list[int]:
    return [called.client.get("x").status_code for _ in range(times)]


@pytest.mark.parametrize("limit", ["requests_per_s", "token_requests_per_s"])
def test_beyond_a_rate_is_429(proxy: Proxy, v1: Upstream, limit: str) -> None:
    """As many as the rate pass within a second; the rest are told which limit it was, and when to come again."""
    proxy.gateway.apply(limited(v1, **{limit: 20}))
    with calling(proxy, "chat") as chat:
        begun = time.monotonic()
        answers = [chat.client.get("x") for _ in range(60)]
        elapsed = time.monotonic() - begun
    passed = sum(answer.status_code == 200 for answer in answers)
    assert 20 <= passed <= 20 * (2 + elapsed)
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", 429)
    assert error["limit"].startswith(limit)
    assert error["request_id"] == refused.headers["x-request-id"]


def test_a_tokens_limit_is_its_own(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """One client's exhausted rate leaves another client, and the same name at another door, untouched."""
    alice, bob = token_of("chat"), token_of("chat", "bob")
    (chat,), (other,) = (
        limited(v1, token_requests_per_s=SLOWEST).services,
        limited(v2, name="other", token_requests_per_s=SLOWEST).services,
    )
    proxy.gateway.apply(GatewayState((replace(chat, tokens=(alice, bob)), other)))
    for door, token in (("chat", alice), ("chat", bob), ("other", token_of("other"))):
        with calling(proxy, door, token) as called:
            assert statuses(called, 3) == [200, 429, 429]


def test_a_services_limit_holds_for_all_its_clients(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """All tokens of a service draw on one bucket; other services do not."""
    alice, bob = token_of("chat"), token_of("chat", "bob")
    (chat,) = limited(v1, requests_per_s=SLOWEST).services
    proxy.gateway.apply(GatewayState((replace(chat, tokens=(alice, bob)), a_service("other", v2))))
    with (
        calling(proxy, "chat", alice) as first,
        calling(proxy, "chat", bob) as second,
        calling(proxy, "other") as other,
    ):
        assert statuses(first, 2) == [200, 429]
        assert statuses(second, 1) == [429]
        assert statuses(other, 3) == [200, 200, 200]


def test_a_group_is_no_way_round_a_members_limit(proxy: Proxy, v1: Upstream) -> None:
    """Calls through a group are bounded as its members' files say."""
    service = a_service("chat", v1, traffic=Traffic(limits=Limits(token_requests_per_s=0.1)))
    proxy.gateway.apply(GatewayState((service,), (a_group("prod", {"chat": 1}),)))
    with calling(proxy, "prod") as called:
        assert statuses(called, 4) == [200, 429, 429, 429]


def test_refused_requests_use_up_nothing(proxy: Proxy, v1: Upstream) -> None:
    """Requests without a token count for no limit."""
    proxy.gateway.apply(limited(v1, requests_per_s=SLOWEST, token_requests_per_s=SLOWEST))
    with calling(proxy, "chat") as chat:
        for headers in ({"authorization": "wrong"}, {"authorization": ""}):
            assert [chat.client.get("x", headers=headers).status_code for _ in range(5)] == [401] * 5
        assert statuses(chat, 2) == [200, 429]


@pytest.mark.parametrize("limit", ["requests_per_s", "token_requests_per_s"])
def test_a_renewed_lease_refills_no_bucket(proxy: Proxy, v1: Upstream, v2: Upstream, limit: str) -> None:
    """Nor does a changed share, a new token or an instance that drains."""
    (chat,) = limited(v1, v2, **{limit: SLOWEST}).services
    drained = tuple(
        replace(b, endpoints=tuple(replace(e, draining=b.version == 2) for e in b.endpoints)) for b in chat.backends
    )
    changes = [
        *(replace(chat, lease=a_lease(canary=10 * i)) for i in range(8)),
        replace(chat, tokens=(*chat.tokens, token_of("chat", "eve"))),
        replace(chat, backends=drained),
    ]
    proxy.gateway.apply(GatewayState((chat,)))
    with calling(proxy, "chat") as called:
        begun = time.monotonic()
        seen = statuses(called, 1)
        for change in changes:
            assert not proxy.gateway.apply(GatewayState((change,))).structural
            seen += statuses(called, 1)
            time.sleep(0.1)
        assert seen.count(200) <= 1 + (time.monotonic() - begun) * SLOWEST + 1
        assert seen[:3] == [200, 429, 429]


def test_changed_limits_act_on_open_connections(proxy: Proxy, v1: Upstream) -> None:
    """A limit set, raised and taken away while a client stays connected."""
    proxy.gateway.apply(limited(v1))
    with calling(proxy, "chat") as chat:
        assert statuses(chat, 5) == [200] * 5
        proxy.gateway.apply(limited(v1, token_requests_per_s=SLOWEST))
        assert statuses(chat, 2) == [200, 429]
        proxy.gateway.apply(limited(v1, token_requests_per_s=1000))
        assert statuses(chat, 5) == [200] * 5
        proxy.gateway.apply(limited(v1, token_requests_per_s=SLOWEST))
        assert statuses(chat, 2) == [200, 429]
        proxy.gateway.apply(limited(v1))
        assert statuses(chat, 5) == [200] * 5


def test_a_full_queue_is_450(proxy: Proxy, v1: Upstream) -> None:
    """Beyond the requests in flight nothing waits: 450, what limit it was, and when to come again; on open connections
    a raised bound counts at once."""

    def bounded(in_flight: int) -> GatewayState:
        traffic = Traffic(limits=Limits(in_flight=in_flight))
        return GatewayState((a_service("chat", v1, response_timeout_s=60, traffic=traffic),))

    proxy.gateway.apply(bounded(2))
    with calling(proxy, "chat", timeout=60) as chat, ThreadPoolExecutor(6) as pool:
        six = [pool.submit(chat.client.get, "slow?gate=two") for _ in range(6)]
        until(lambda: sum(one.done() for one in six) == 4)  # at once, while two are inside
        v1.open("two")
        answers = [one.result() for one in six]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 450, 450, 450, 450]
        full = next(answer for answer in answers if answer.status_code == 450)
        proxy.gateway.apply(bounded(6))
        six = [pool.submit(chat.client.get, "slow?gate=six") for _ in range(6)]
        until(lambda: dict(proxy.gateway.in_flight("chat", 1)) == {"chat-v1-0": 6})
        v1.open("six")
        assert {one.result().status_code for one in six} == {200}
    assert full.headers["retry-after"] == "1"
    error = full.json()["error"]
    assert (error["type"], error["code"], error["limit"]) == ("queue_full", 450, "in_flight")
    assert error["request_id"] == full.headers["x-request-id"]


def test_no_instance_is_503(proxy: Proxy, v1: Upstream, mortal) -> None:
    """A version without an instance, with a draining or a dead one: 503, and when to come again."""
    dead = mortal(2)
    (endpoint,) = v1.backend().endpoints
    backends = (Backend(1, ()), Backend(1, (replace(endpoint, draining=True),)), dead.backend())
    dead.kill()
    for backend in backends:
        service = a_service("chat", v1, stable=backend.version)
        proxy.gateway.apply(GatewayState((replace(service, backends=(backend,)),)))
        with calling(proxy, "chat") as chat:
            answer = chat.client.get("x")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable_error")
        assert answer.headers["retry-after"] == "1"


def test_every_error_is_json_with_the_requests_id(proxy: Proxy, v1: Upstream) -> None:
    """Whatever is refused, the client can read it, and its id is the one in the records."""
    service = a_service("chat", v1, response_timeout_s=0.3, body_limit_bytes=1000)
    proxy.gateway.apply(GatewayState((service, a_service("empty"), a_service("other", traffic=Traffic()))))
    with calling(proxy, "chat") as chat:
        get, root = chat.client.get, proxy.url
        answers = {
            401: get("x", headers={"authorization": "wrong"}),
            403: get(f"{root}/api/predict/empty/x"),
            404: get(f"{root}/nowhere"),
            413: chat.client.post("x", content=b"x" * 1001),
            503: get(f"{root}/api/predict/empty/x", headers=bearer(token_of("empty"))),
            504: get("slow?s=2"),
        }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("application/json"), status
        assert answer.json()["error"]["code"] == status
        assert answer.json()["error"]["request_id"], status
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert {status: answers[status].json()["error"].get("limit") for status in (413, 504)} == {
        413: "body_limit_bytes", 504: "response_timeout_s",
    }  # fmt: skip


def test_a_head_that_is_too_large_is_refused_unread(proxy: Proxy, v1: Upstream) -> None:
    """431 for too many or too long headers, 400 for a forbidden one, as JSON; what was not read has no id."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1),)))
    with calling(proxy, "chat") as chat:
        for headers in ({f"x-{i}": "y" for i in range(120)}, {"x-long": "x" * 20_000}):
            refused = chat.client.get("x", headers=headers)
            assert refused.status_code == 431
            assert refused.json()["error"]["limit"] == "request_headers"
            assert refused.json()["error"]["request_id"] is None
        assert chat.client.get("x", headers={"under_score": "1"}).json()["error"]["code"] == 400


@pytest.mark.parametrize("sent", ["x-slow: ", "content-length: 100\r\n\r\nsome"], ids=["head", "body"])
def test_a_slow_sender_is_cut(proxy: Proxy, v1: Upstream, sent: str) -> None:
    """Who begins a request's head or body and stops is told 408, and reaches no engine."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1, response_timeout_s=0.5),)))
    head = f"POST /api/predict/chat/x HTTP/1.1\r\nhost: x\r\nauthorization: {token_of('chat').secret}\r\n"
    with socket.create_connection(("127.0.0.1", proxy.settings.port)) as client:
        client.settimeout(20)
        client.sendall((head + sent).encode())
        answer = _all(client)
    assert answer.startswith("HTTP/1.1 408 ")
    error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
    assert (error["type"], error["limit"]) == ("timeout_error", "request_timeout")
    assert all(r.instance is None for r in proxy.gateway.records(Cursor())[0])


def test_broken_requests_reach_no_engine(proxy: Proxy, v1: Upstream) -> None:
    """What has two meanings, or none, is 400."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1),)))
    head = f"POST /api/predict/chat/x HTTP/1.1\r\nhost: x\r\nauthorization: {token_of('chat').secret}\r\n"
    for rest in (
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "content-length: -1\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\n",
        "x-a: \0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", proxy.settings.port)) as client:
            client.settimeout(5)
            client.sendall((head + rest).encode())
            assert client.recv(100).startswith(b"HTTP/1.1 400 "), rest
    assert all(r.instance is None for r in proxy.gateway.records(Cursor())[0])


def _all(client: socket.socket) -> str:
    """What comes until the answer has ended."""
    text = b""
    while b"\r\n\r\n" not in text or (not text.endswith(b"}\n") and not text.endswith(b"}")):
        more = client.recv(4096)
        if not more:
            break
        text += more
    return text.decode()
