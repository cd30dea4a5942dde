"""What a lease gives ends by itself: shares, pins and copies, whatever else happens."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import httpx
import pytest
from certificates import issue, put
from load_client import Plan
from many_leases import DOORS, SERVICES, fleet, many_leases
from running_envoy import ALICE, ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, an_envoy, in_time, until

from gateway.port import GatewayState, Tls, Token, Traffic
from rollout.nouns import Lease

PATH = "/api/predict/chat/x"
PINNER = Token("tester", "token-of-tester", may_pin=True)


@pytest.fixture
def running() -> Iterator[dict[str, tuple[Upstream, Upstream]]]:
    """Two versions of three services."""
    made = fleet()
    yield made
    for pair in made.values():
        for upstream in pair:
            upstream.stop()


def window(from_s: float, until_s: float, mirror: int = 0) -> Lease:
    """All traffic to the candidate, between two moments counted from now."""
    now = time.time()
    return replace(a_lease(1000, mirror), from_ms=int((now + from_s) * 1000), until_ms=int((now + until_s) * 1000))


def versions(proxy: Proxy, headers: dict[str, str] | list[tuple[str, str]] | None = None, **client: bool) -> set[str]:
    """Who answers on plain HTTP."""
    with httpx.Client(headers=ALICE_HEADERS, **client) as calling:  # type: ignore[arg-type]
        answers = [calling.get(f"{proxy.url}{PATH}", headers=headers) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["x-roundhouse-version"] for answer in answers}


def test_many_windows_begin_and_end_under_load(proxy: Proxy, running: dict[str, tuple[Upstream, Upstream]]) -> None:
    """Three services' leases renewed and let go under load; `make soak` does it a thousand times."""
    outcome = many_leases(proxy, running, 3, 10, Plan(proxy.settings.port, DOORS, streams=6))
    seen = outcome.running.seen()
    assert (seen.failures, seen.cut) == ([], [])
    assert not any(change.structural for change in outcome.renewals)
    assert sum(len(outcome.windows.gaps(name)) for name in SERVICES) >= 2
    assert outcome.late() == []
    assert {(r.kind, r.version) for r in outcome.records} == {("live", 1), ("live", 2), ("mirror", 2)}


@pytest.mark.parametrize(("step_s", "version"), [(-3600, "1"), (-10, "1"), (-1, "2"), (0, "2"), (30, "1"), (3600, "1")])
def test_a_stepped_clock_never_prolongs_a_lease(
    proxy: Proxy, v1: Upstream, v2: Upstream, step_s: float, version: str
) -> None:
    """The proxy's clock is ``step_s`` ahead of the writer's: the window is left at both ends, never stretched."""
    proxy.gateway.apply(a_state(v1, v2, lease=window(-5 - step_s, 20 - step_s)))
    assert versions(proxy) == {version}


STAMPS = ["{inside}", "{inside}, {inside}", "0", "", "-1", "99999999999999999999999", "x"]


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_feigned_stamp_opens_no_ended_lease(proxy: Proxy, v1: Upstream, v2: Upstream, http2: bool) -> None:
    """Whatever a client claims as its time of arrival, once, twice or in capitals: an ended lease stays ended."""
    ended = window(-30, -1)
    proxy.gateway.apply(a_state(v1, v2, lease=ended))
    protocol = {"http1": not http2, "http2": http2}
    for stamp in STAMPS:
        told = stamp.format(inside=ended.from_ms + 5)
        assert versions(proxy, {"x-now-ms": told}, **protocol) == {"1"}
        assert versions(proxy, [("X-Now-Ms", told), ("x-now-ms", told)], **protocol) == {"1"}


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_feigned_stamp_evades_no_lease(proxy: Proxy, v1: Upstream, v2: Upstream, http2: bool) -> None:
    """Nor can a client leave a lease that holds."""
    proxy.gateway.apply(a_state(v1, v2, lease=window(-5, 30)))
    for stamp in STAMPS:
        told = {"x-now-ms": stamp.format(inside=0)}
        assert versions(proxy, told, http1=not http2, http2=http2) == {"2"}


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_feigned_stamp_is_worth_nothing_under_tls(v1: Upstream, v2: Upstream, tmp_path: Path, http2: bool) -> None:
    """The encrypted listener stamps as the plain one does."""
    put(tmp_path, issue("gateway"))
    with an_envoy(tls=Tls(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))) as secure:
        for lease, version in ((window(-30, -1), "1"), (window(-5, 30), "2")):
            secure.gateway.apply(a_state(v1, v2, lease=lease))
            feigned = {"x-now-ms": str(lease.from_ms + 5 if version == "1" else 0)}
            assert versions(secure, feigned, http1=not http2, http2=http2, verify=False) == {version}


def test_a_websocket_obeys_the_window(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """An upgrade is routed by its time of arrival as well, and a feigned one is worth nothing there."""
    sockets = Traffic(websocket=True)
    ended = window(-30, -1)
    proxy.gateway.apply(a_state(v1, v2, lease=window(-5, 30), traffic=sockets))
    assert asyncio.run(_first_word(proxy, {"x-now-ms": "0"})) == "v2"
    proxy.gateway.apply(a_state(v1, v2, lease=ended, traffic=sockets))
    assert asyncio.run(_first_word(proxy, {"x-now-ms": str(ended.from_ms + 5)})) == "v1"


def test_a_restart_neither_ends_nor_prolongs_a_lease(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Envoy started again inside a lease serves it, after it stable, with nobody's help."""
    lease = window(-5, 4)
    proxy.gateway.apply(a_state(v1, v2, lease=lease))
    proxy.kill()
    proxy.start()
    asked = httpx.get(f"{proxy.url}{PATH}", headers=ALICE_HEADERS)
    (record,) = proxy.records(1)
    assert (record.route == "leased") == (record.at * 1000 < lease.until_ms)
    assert asked.headers["x-roundhouse-version"] == str(record.version)
    proxy.kill()
    until(lambda: time.time() * 1000 > lease.until_ms)
    proxy.start()
    until(lambda: versions(proxy) == {"1"})


def test_a_stopped_envoy_wakes_after_the_end(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Requests sent before the end to an Envoy that sleeps over it are answered by stable when it wakes."""
    proxy.gateway.apply(a_state(v1, v2))
    assert proxy.process is not None
    pid = proxy.process.pid
    with ExitStack() as after:
        after.callback(os.kill, pid, signal.SIGCONT)

        def granted(seconds: float) -> Lease:
            os.kill(pid, signal.SIGCONT)
            lease = window(-5, seconds)
            proxy.gateway.apply(a_state(v1, v2, lease=lease))
            return lease

        def sent_to_a_sleeper() -> socket.socket:
            until(lambda: versions(proxy) == {"2"})
            os.kill(pid, signal.SIGSTOP)
            client = after.enter_context(socket.create_connection(("127.0.0.1", proxy.settings.port)))
            client.sendall(f"GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: {ALICE.secret}\r\n\r\n".encode())
            return client

        lease, client = in_time(granted, sent_to_a_sleeper)
        until(lambda: time.time() * 1000 > lease.until_ms)
        os.kill(pid, signal.SIGCONT)
        assert b"x-roundhouse-version: 1\r\n" in client.recv(4096)


def test_pins_end_with_the_lease(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Within the lease a token that may pin reaches the candidate by name; after it the same request gets stable."""
    (chat,) = a_state(v1, v2).services
    pin = {"authorization": PINNER.secret, "x-roundhouse-version": "2"}
    for lease, version in ((replace(window(-5, 30), canary_permille=0), "2"), (window(-30, -1), "1")):
        proxy.gateway.apply(GatewayState((replace(chat, tokens=(ALICE, PINNER), lease=lease),)))
        assert versions(proxy, pin) == {version}
    assert {r.route for r in proxy.records(10)} == {"pinned", "stable"}


def test_copies_end_with_the_lease(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Each request within the lease is copied, none after it."""
    for lease in (replace(window(-5, 30, mirror=1000), canary_permille=0), window(-30, -1, mirror=1000)):
        proxy.gateway.apply(a_state(v1, v2, lease=lease))
        assert versions(proxy) == {"1"}
    assert sorted(r.kind for r in proxy.records(15)) == ["live"] * 10 + ["mirror"] * 5


async def _first_word(proxy: Proxy, headers: dict[str, str]) -> str:
    async with aiohttp.ClientSession(headers={**ALICE_HEADERS, **headers}) as session:
        async with session.ws_connect(f"{proxy.url}/api/predict/chat/socket") as connection:
            return await connection.receive_str()
