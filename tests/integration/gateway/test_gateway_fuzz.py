"""States and requests that nobody thought of."""

from __future__ import annotations

import io
import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse

import httpx
import pytest
from gateway_strategies import HOSTS, states
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from running_envoy import ALICE, Proxy, Upstream, a_state, an_envoy

from gateway.port import Backend, Endpoint, GatewayState, GroupRoute, Member, ServiceRoute, Token
from gateway.rules import check
from rollout.errors import Refused
from rollout.nouns import Lease, Split

BOB, OPS = Token("bob", "token-of-bob"), Token("ops", "token-of-ops")
LIMIT = 4096  #: bytes of a body that pass
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),
)
NUMBERS = itertools.count()
PATIENCE_S = 0.5


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Upstream]:
    """One server at many addresses."""
    upstream = Upstream(1, hosts=tuple(HOSTS)).start()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module")
def steered() -> Iterator[Proxy]:
    """An Envoy that all drawn states are applied to, one after the other."""
    with an_envoy() as running:
        yield running


@settings(BOUNDED, max_examples=150)
@given(data=st.data())
def test_what_the_rules_let_pass_is_served(steered: Proxy, everywhere: Upstream, data: st.DataObject) -> None:
    """Any state within the rules is taken by the binary and by the running Envoy, and read back as it was asked."""
    state = data.draw(states(everywhere.port))
    try:
        check(state)
    except Refused:
        assume(False)
    gateway = steered.gateway
    gateway.apply(state)
    now = int(time.time() * 1000)
    assert gateway.read() == {s.name: _expected(s, now) for s in state.services}
    for name, weights in gateway.read_groups().items():
        assert weights.keys() <= _taking(state, name)
        assert sum(weights.values()) in (0, 10_000)
        assert bool(weights) == bool(_taking(state, name))
    assert steered.process is not None and steered.process.poll() is None


def _expected(service: ServiceRoute, now: int) -> Split:
    lease = service.lease
    if lease is None or not lease.from_ms <= now < lease.until_ms:
        return Split(service.name, service.stable)
    return Split(service.name, service.stable, _drawn(lease))


def _drawn(lease: Lease) -> Lease:
    """Targets that get no copies are none."""
    return replace(lease, mirrors=tuple(m for m in lease.mirrors if m.permille))


def _taking(state: GatewayState, group: str) -> set[str]:
    stable = {s.name for s in state.services if s.stable is not None}
    (members,) = [g.members for g in state.groups if g.name == group]
    return {m.service for m in members if m.weight and m.service in stable}


@dataclass(frozen=True)
class Doors:
    """Three doors and two servers that remember what reached them."""

    proxy: Proxy
    servers: dict[str, httpx.Client]

    def arrived(self, door: str, *probes: str) -> dict[str, dict]:
        """What a server saw of these requests; without any name, of all."""
        return self.servers[door].get("/seen", params={"probe": probes}).json()


@pytest.fixture(scope="module")
def doors(v1: Upstream, v2: Upstream) -> Iterator[Doors]:
    """``chat`` for Alice, ``other`` for Bob, the group ``prod`` of chat for operators."""
    with an_envoy() as running:
        other = ServiceRoute("other", (BOB,), (Backend(1, (Endpoint("other-v1-0", "127.0.0.1", v2.port),)),), 1)
        group = GroupRoute("prod", (OPS,), (Member("chat", 1),))
        services = (*a_state(v1).services, other)
        bounded = tuple(replace(service, body_limit_bytes=LIMIT) for service in services)
        running.gateway.apply(GatewayState(bounded, (group,)))
        behind = {"chat": v1, "other": v2}
        servers = {name: httpx.Client(base_url=f"http://127.0.0.1:{u.port}") for name, u in behind.items()}
        open_doors = Doors(running, servers)
        yield open_doors
        reached = {name: len(open_doors.arrived(name)) for name in servers}
        assert min(reached.values()) > 10, "too few good requests among the drawn ones"
        assert running.process is not None and running.process.poll() is None, "Envoy died"


methods = st.sampled_from(
    ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "get", "CONNECT", "TRACE", "X-Y"]
)
SEGMENTS = (
    "api predict chat other prod Chat nobody .. . %2e%2e %2F %2f %5c ;a=b %00 %zz \u00fc %C3%BC x * ? # \\ health"
)
segments = st.sampled_from([*SEGMENTS.split(), "", "?a=/api/predict/other", "a" * 3000])
below = st.lists(segments, max_size=4).map("/".join)
odd_paths = "* http://gateway/api/predict/chat/x //api//predict//chat//x chat:80 /api/predict/chat:x /gateway/health"
paths = st.one_of(
    st.sampled_from(["/api/predict/chat/x", "/api/predict/other", "/api/predict/prod/x?y=1"]),
    st.builds(lambda door, rest: f"/api/predict/{door}/{rest}", st.sampled_from(["chat", "other", "prod"]), below),
    st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from(odd_paths.split()),
)
words = st.sampled_from([ALICE.secret, BOB.secret, OPS.secret, "wrong-token", "", "x" * 600, "token-of-alic", "*"])
good = st.sampled_from(["Bearer token-of-alice", "token-of-bob", "Bearer token-of-ops"])
authorizations = good | st.builds(
    lambda scheme, word, tail: (f"{scheme} {word}" if scheme else word) + tail,
    st.sampled_from(["", "Bearer", "bearer", "BEARER", "Basic", "EAS", "Bearer Bearer", "Bearer,", "Token"]),
    words,
    st.sampled_from(["", "", " ", ", Bearer wrong-token", "\t", ";"]),
)
keyrings = good.map(lambda key: [key]) | st.lists(authorizations, max_size=2)
INNER = """
x-client-id: chat/alice | x-client-id: other/bob | X-Client-Id: prod/ops | x_client_id: chat/alice
x-roundhouse-mirror: other@v1 | x-roundhouse-version: 1 | x-roundhouse-version: 9 | x-roundhouse-prompt: 7
x-roundhouse-service: other | x-now-ms: 5 | x-request-id: spoofed | x-forwarded-for: ::1 | host: other
x-envoy-original-path: /api/predict/other | x-envoy-retry-on: 5xx | x-envoy-max-retries: 99 | x-envoy-internal: true
x-envoy-upstream-rq-timeout-ms: 1 | x-envoy-expected-rq-timeout-ms: 0 | x-envoy-decorator-operation: x
upgrade: websocket | connection: upgrade | connection: authorization | connection: x-client-id | te: trailers
expect: 100-continue | expect: nonsense | trailer: authorization | content-type: application/grpc
a b: c | x-empty: | : no-name | x-bytes: \u00ff\u00e9
"""
inner = st.sampled_from(
    [*(each.strip() for each in INNER.replace("\n", "|").split("|") if each.strip()), "x: " + "y" * 9000]
)


@dataclass(frozen=True)
class Body:
    """A body and the headers that frame it, rightly or wrongly. ``most``: how many bytes of it may arrive."""

    headers: tuple[str, ...]
    content: bytes


SMUGGLED = b"GET /api/predict/chat/smuggled HTTP/1.1\r\nhost: x\r\nx-probe: smuggled\r\n\r\n"
plain_bodies = st.sampled_from([Body((), b""), Body(("content-length: 2",), b"{}")])
odd_bodies = st.sampled_from(
    [
        Body(("content-length: 0",), b""),
        Body((f"content-length: {LIMIT}",), b"x" * LIMIT),
        Body((f"content-length: {LIMIT + 1}",), b"x" * (LIMIT + 1)),
        Body(("transfer-encoding: chunked",), b"2\r\n{}\r\n0\r\n\r\n"),
        Body(("transfer-encoding: chunked",), b"1001\r\n" + b"x" * 4097 + b"\r\n0\r\n\r\n"),
        Body(
            ("transfer-encoding: chunked",), b"2\r\n{}\r\n0\r\nauthorization: token-of-bob\r\nx-probe: smuggled\r\n\r\n"
        ),
        Body(("transfer-encoding: chunked",), b"zz\r\n{}\r\n0\r\n\r\n"),
        Body(("transfer-encoding: chunked",), b'2;ext="1"\r\n{}\r\n0\r\n\r\n'),
        Body(("transfer-encoding: gzip",), b"{}"),
        Body(("transfer-encoding: chunked, identity",), b"0\r\n\r\n"),
        Body(("transfer-encoding:\x0bchunked",), b"0\r\n\r\n" + SMUGGLED),
        Body(("Transfer-Encoding : chunked",), b"0\r\n\r\n" + SMUGGLED),
        Body(("transfer-encoding: chunked", "content-length: 4"), b"0\r\n\r\n" + SMUGGLED),
        Body(("content-length: 4", "transfer-encoding: chunked"), b"0\r\n\r\n" + SMUGGLED),
        Body((f"content-length: {len(SMUGGLED)}",), SMUGGLED),
        Body(("content-length: 0",), SMUGGLED),
        Body(("content-length: 2", "content-length: 3"), b"{}" + SMUGGLED),
        Body(("content-length: -1",), SMUGGLED),
        Body(("content-length: +2",), b"{}" + SMUGGLED),
        Body(("content-length: 2, 2",), b"{}" + SMUGGLED),
        Body(("content-length: 99999999999999999999",), b"{}"),
    ]
)


@settings(BOUNDED, max_examples=2500)
@given(methods, paths, keyrings, st.lists(inner, max_size=3), plain_bodies | odd_bodies)
def test_no_request_gets_past_the_door(
    doors: Doors, method: str, path: str, keys: list[str], others: list[str], body: Body
) -> None:
    """Whatever is sent: each answer is whole and no 5xx of ours, and only a door's token opens it, within limits."""
    probe = f"probe-{next(NUMBERS)}"
    lines = [f"x-probe: {probe}", "host: gateway", *(f"authorization: {key}" for key in keys), *others, *body.headers]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "connection: close"]) + "\r\n\r\n"
    answers = _answers(doors.proxy, head.encode("utf-8") + body.content, method)
    for answer in answers:
        assert answer.status < 500 or answer.status == 501 or not answer.ours, answer
        assert answer.status < 400 or b'"error"' in answer.content or method == "HEAD" or not answer.ours, answer
    for door, tokens in {"chat": (ALICE, OPS), "other": (BOB,)}.items():
        arrived = doors.arrived(door, probe, "smuggled")
        assert "smuggled" not in arrived
        if arrived:
            _entitled(arrived[probe], [token for token in tokens if any(token.secret in key for key in keys)])


def _entitled(arrived: dict, owners: list[Token]) -> None:
    """What a server saw of a request: whose it truly is, no key, and not too much."""
    seen = arrived["headers"]
    assert seen["x-client-id"].partition("/")[2] in {token.client for token in owners}
    assert arrived["bytes"] <= LIMIT
    assert not {"authorization", "x-now-ms", "x-envoy-original-path", "x_client_id"} & seen.keys()


@dataclass(frozen=True)
class Answer:
    """One answer. ``ours``: no engine gave it. ``last``: the connection ends with it."""

    status: int
    content: bytes
    ours: bool
    last: bool


def _answers(proxy: Proxy, sent: bytes, method: str) -> list[Answer]:
    """All answers to what was sent, until one is the last or Envoy waits for more of a body that was broken off."""
    received = b""
    with socket.create_connection(("127.0.0.1", proxy.settings.port), timeout=PATIENCE_S) as client:
        with suppress(ConnectionError, TimeoutError):
            client.sendall(sent)
            while more := client.recv(65536):
                received += more
                with suppress(HTTPException):
                    if b"\r\n\r\n" in received and _parsed(received, method)[-1].last:
                        break
    try:
        return _parsed(received, method)
    except HTTPException as error:
        raise AssertionError(f"{error!r}: no whole answer in {received!r}") from error


def _parsed(received: bytes, method: str) -> list[Answer]:
    """Raises HTTPException for anything but whole answers."""
    found, rest = [], io.BytesIO(received)
    while rest.tell() < len(received):
        answer = HTTPResponse(_Pipe(rest), method=method)  # type: ignore[arg-type]
        answer.begin()
        ours, last = answer.getheader("x-roundhouse-version") is None, answer.getheader("connection") == "close"
        found.append(Answer(answer.status, answer.read(), ours, last))
        if method == "HEAD" and answer.status in (400, 431, 501):
            rest.read()  # of a head that it cannot read Envoy does not know that it asks for no body
    return found


class _Pipe:
    """What HTTPResponse reads from."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Open(self._stream)  # type: ignore[return-value]


class _Open(io.BytesIO):
    """A view that leaves the stream where the answer ended."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._under = stream

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._under.readline(-1 if size is None else size)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._under.read(-1 if size is None else size)

    def readinto(self, buffer, /) -> int:
        return self._under.readinto(buffer)

    def close(self) -> None:
        """The stream goes on with the next answer."""
