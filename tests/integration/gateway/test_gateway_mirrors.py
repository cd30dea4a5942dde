"""Copies of live requests: to whom, of what, and at no cost to the client. Real Envoy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest
from gateway_doors import a_group, at_ports, bearer, calling, token_of
from raw_servers import HEALTHY, Answering, serving
from running_envoy import Proxy, Upstream, a_lease, a_state, until

from gateway.port import Backend, Cursor, Endpoint, GatewayState, Limits, ServiceRoute, Traffic
from rollout.nouns import Lease, Mirror

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SECRETS = ("authorization", "x-client-id", "x-now-ms", "x-roundhouse-mirror")


class Stalling:
    """Takes connections; reads nothing of what is sent, or all of it, and answers once ``release`` is set."""

    def __init__(self, reads: bool) -> None:
        self.reads, self.arrived, self.release = reads, 0, threading.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            begin = await reader.readuntil(b"\r\n")
            if b"/health" in begin:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(HEALTHY)
                continue
            if self.reads:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(size or 0))
            self.arrived += 1
            while not self.release.is_set():
                await asyncio.sleep(0.02)
            writer.write(OK)


@pytest.fixture
def engines() -> Iterator[dict[int, tuple[Answering, int]]]:
    """Four servers that keep what arrives, with their ports."""
    with ExitStack() as stack:
        made = {n: Answering(OK) for n in (1, 2, 3, 4)}
        yield {n: (engine, stack.enter_context(serving(engine))) for n, engine in made.items()}


def chat(ports: dict[int, int], lease: Lease | None, **more: object) -> ServiceRoute:
    """A service of these versions, 1 of them stable."""
    backends = tuple(Backend(v, (Endpoint(f"chat-v{v}-0", "127.0.0.1", port),)) for v, port in ports.items())
    return replace(at_ports("chat"), backends=backends, lease=lease, **more)


def ports_of(engines: dict[int, tuple[Answering, int]], *versions: int) -> dict[int, int]:
    return {version: engines[version][1] for version in versions}


@pytest.mark.parametrize(("permille", "requests"), [(500, 400), (20, 1500)])
def test_a_share_of_the_requests_is_copied(proxy: Proxy, v1: Upstream, v2: Upstream, permille, requests) -> None:
    """Shares are per mille of live requests, and each live record tells the chance that it had."""
    proxy.gateway.apply(a_state(v1, v2, lease=a_lease(mirror=permille)))
    headers = {"authorization": "token-of-alice"}
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=headers) as client:
        assert {client.get("/x").status_code for _ in range(requests)} == {200}
    records = proxy.records(requests + 1)
    until(lambda: sum(r.kind == "live" for r in proxy.gateway.records(Cursor())[0]) == requests)
    records = proxy.gateway.records(Cursor())[0]
    share = permille / 1000
    copies = sum(r.kind == "mirror" for r in records)
    assert abs(copies - requests * share) <= 5 * (requests * share * (1 - share)) ** 0.5
    assert {r.mirror_permille for r in records if r.kind == "live"} == {permille}


def test_copies_go_to_several_targets(proxy: Proxy, engines: dict[int, tuple[Answering, int]]) -> None:
    """The candidate, one more version and another service's stable one each get every request, whole."""
    lease = replace(a_lease(mirror=1000), mirrors=(Mirror("chat", 3, 1000), Mirror("other", None, 1000)))
    other = at_ports("other", engines[4][1])
    proxy.gateway.apply(GatewayState((chat(ports_of(engines, 1, 2, 3), lease), other)))
    body = bytes(range(256)) * 1000
    with calling(proxy, "chat") as called:
        for i in range(5):
            assert called.client.post(f"v1/x?i={i}", content=body, headers={"x-a": "b"}).status_code == 200
    until(lambda: [len(engine.arrived) for engine, _ in engines.values()] == [5] * 4)
    for engine, _ in engines.values():
        assert sorted(r.path for r in engine.arrived) == [f"/v1/x?i={i}" for i in range(5)]
        assert {(r.method, r.body, r.headers["x-a"]) for r in engine.arrived} == {("POST", body, "b")}
    seen = {(r.kind, r.service, r.arm) for r in proxy.records(20)}
    assert seen == {("live", "chat", 1), ("mirror", "chat", 2), ("mirror", "chat", 3), ("mirror", "other", 1)}


def test_copies_say_nothing_of_the_client(proxy: Proxy, engines: dict[int, tuple[Answering, int]]) -> None:
    """No token, no client, no stamp; what a client claims under those names is gone as well."""
    proxy.gateway.apply(GatewayState((chat(ports_of(engines, 1, 2), a_lease(mirror=1000)),)))
    with calling(proxy, "chat") as called:
        assert called.client.get("x", headers={"x-client-id": "root", "x-roundhouse-mirror": "chat@v1"}).is_success
    until(lambda: bool(engines[2][0].arrived))
    (copy,) = engines[2][0].arrived
    assert [name for name in SECRETS if name in copy.headers] == []
    assert "token-of-alice" not in str(copy.headers)
    (live,) = engines[1][0].arrived
    assert live.headers["x-request-id"] == copy.headers["x-request-id"]


def test_what_is_refused_is_never_copied(proxy: Proxy, engines: dict[int, tuple[Answering, int]]) -> None:
    """401, 403, 413 and 429 are decided before a copy is made."""
    limits = Limits(token_requests_per_s=1)
    service = chat(ports_of(engines, 1, 2), a_lease(mirror=1000), traffic=Traffic(limits=limits), body_limit_bytes=10)
    proxy.gateway.apply(GatewayState((service, at_ports("other", engines[3][1]))))
    with calling(proxy, "chat") as called:
        asked = [
            called.client.get("x", headers={"authorization": "wrong"}),
            called.client.get("x", headers=bearer(token_of("other"))),
            called.client.post("x", content=b"x" * 11),
            *(called.client.get("x") for _ in range(8)),
        ]
    statuses = [answer.status_code for answer in asked]
    assert statuses[:3] == [401, 403, 413]
    assert set(statuses[3:]) <= {200, 429}
    assert 429 in statuses
    served = statuses.count(200)
    live, copies = engines[1][0].arrived, engines[2][0].arrived
    until(lambda: len(copies) >= served)
    assert len(live) == len(copies) == served


@pytest.mark.parametrize("reads", [True, False], ids=["slow", "never-reading"])
def test_a_stalling_target_costs_the_client_nothing(proxy: Proxy, engines, reads: bool) -> None:
    """All live requests, the largest too, are answered while the target has answered none; beyond the bound of copies
    in flight they are dropped, not queued; and copies go on once the target does."""
    stalling = Stalling(reads)
    with serving(stalling) as port:
        service = chat({1: engines[1][1], 2: port}, a_lease(mirror=1000, seconds=50), response_timeout_s=60)
        proxy.gateway.apply(GatewayState((replace(service, traffic=Traffic(limits=Limits(mirror_in_flight=3))),)))
        with calling(proxy, "chat") as called:
            answers = [called.client.post("x", content=b"x" * (1 << 20)) for _ in range(30)]
            assert {answer.status_code for answer in answers} == {200}
            assert stalling.arrived <= 3
            assert [r for r in proxy.records(30) if r.kind == "mirror"] == []
            stalling.release.set()
            if reads:
                until(lambda: len([r for r in proxy.records(33) if r.kind == "mirror"]) == 3)
                called.client.post("x", content=b"x")
                assert len([r for r in proxy.records(35) if (r.kind, r.status) == ("mirror", 200)]) == 4


def test_a_copy_outlives_its_client(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A client that leaves ends its own request; the copy runs to its end and brings its counts."""
    proxy.gateway.apply(a_state(v1, v2, lease=a_lease(mirror=1000, seconds=50), response_timeout_s=60))
    ask = {"stream": True, "n": 10, "gate": "copy"}
    headers = {"authorization": "token-of-alice"}
    url = f"{proxy.url}/api/predict/chat/v1/completions"
    with httpx.stream("POST", url, json=ask, headers=headers, timeout=60) as answer:
        v1.open("copy")
        next(answer.iter_lines())
        until(lambda: dict(proxy.gateway.in_flight("chat", 2)) == {"chat-v2-0": 1})
    assert [r.kind for r in proxy.records(1)] == ["live"]
    v2.open("copy", 10)
    live, copy = sorted(proxy.records(2), key=lambda r: r.kind)
    assert ("DC" in live.flags, live.tokens_out) == (True, None)
    assert (copy.status, copy.flags, copy.tokens_out, copy.streamed, copy.version) == (200, "-", 10, True, 2)
    assert 0 < (copy.ttft_s or 0) < (copy.total_s or 0)


def test_copies_are_not_copied(proxy: Proxy, engines: dict[int, tuple[Answering, int]]) -> None:
    """Two services that mirror each other make one copy of each live request, no echo."""
    to_other = replace(a_lease(), mirrors=(Mirror("other", None, 1000),))
    to_chat = replace(a_lease(), mirrors=(Mirror("chat", None, 1000),))
    other = at_ports("other", engines[3][1])
    candidate = Backend(2, (Endpoint("other-v2-0", "127.0.0.1", engines[4][1]),))
    other = replace(other, backends=(*other.backends, candidate), lease=to_chat)
    proxy.gateway.apply(GatewayState((chat(ports_of(engines, 1, 2), to_other), other)))
    for door in ("chat", "other"):
        with calling(proxy, door) as called:
            assert called.client.get("x").status_code == 200
    assert sorted((r.kind, r.service) for r in proxy.records(4)) == [
        ("live", "chat"), ("live", "other"), ("mirror", "chat"), ("mirror", "other"),
    ]  # fmt: skip
    assert [len(engine.arrived) for engine, _ in engines.values()] == [2, 0, 2, 0]


def test_a_groups_requests_are_copied_as_its_members_leases_ask(proxy: Proxy, engines) -> None:
    """A member with half of the group's traffic, all of it mirrored, gets copies of half of the group's requests."""
    members = (chat(ports_of(engines, 1, 2), a_lease(mirror=1000)), at_ports("other", engines[3][1]))
    proxy.gateway.apply(GatewayState(members, (a_group("prod", {"chat": 1, "other": 1}),)))
    with calling(proxy, "prod") as prod:
        assert {prod.client.get("x").status_code for _ in range(300)} == {200}
    until(lambda: sum(r.kind == "live" for r in proxy.gateway.records(Cursor())[0]) == 300)
    copies = [r for r in proxy.gateway.records(Cursor())[0] if r.kind == "mirror"]
    assert abs(len(copies) - 150) < 44  # five standard deviations
    assert {(r.service, r.arm) for r in copies} == {("chat", 2)}
