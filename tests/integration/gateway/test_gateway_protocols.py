"""HTTP/2, event streams, WebSockets, gRPC, and token counts that an engine tells. Real Envoy."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import httpx
import pytest
from gateway_doors import a_service, at_ports, bearer, calling, token_of
from h2_peers import Call, GrpcEcho
from raw_servers import HEALTHY, Answering, read_request, serving
from running_envoy import Proxy, Upstream, a_lease, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gateway.port import Cursor, GatewayState, Limits, Traffic

HELD = bearer(token_of("chat"))
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
GRPC = {**HELD, "x-roundhouse-service": "chat"}
ECHO = "/rpc.Echo/Stream"


# --- HTTP/2 -------------------------------------------------------------------------------------------------------


def test_http2_is_spoken_without_asking(proxy: Proxy, v1: Upstream) -> None:
    """Clients may begin with HTTP/2: many requests on one connection, streams event by event, refusals as JSON."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1),)))
    with calling(proxy, "chat", http1=False, http2=True) as chat:
        assert [chat.client.get("x").http_version for _ in range(20)] == ["HTTP/2"] * 20
        big = chat.client.post("x", content=b"x" * (1 << 20))
        assert (big.status_code, big.json()["bytes"]) == (200, 1 << 20)
        assert chat.client.post("x", content=b"x" * ((1 << 20) + 1)).status_code == 413
        refused = chat.client.get("x", headers={"authorization": "wrong"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, 401)
        ask = {"stream": True, "n": 4, "gate": "http2"}
        with chat.client.stream("POST", "v1/completions", json=ask) as answer:
            events = (line for line in answer.iter_lines() if line)
            for token in range(4):
                v1.open("http2")  # the next event is sent only when the one before has come
                assert json.loads(next(events).removeprefix("data: "))["token"] == token
            assert list(events) == ["data: [DONE]"]


# --- event streams ------------------------------------------------------------------------------------------------


def in_pieces(
    *pieces: bytes, came: threading.Semaphore | None = None, trailers: bytes = b""
) -> Callable[..., Awaitable[None]]:
    """A server whose answer goes out in these pieces, each a chunk of its own, each one once the last ``came``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if (await read_request(reader)).path == "/health":
                writer.write(HEALTHY)
                continue
            writer.write(SSE)
            for piece in pieces:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                while came and not came.acquire(blocking=False):
                    await asyncio.sleep(0.01)
            writer.write(b"0\r\n" + trailers + b"\r\n")

    return handle


ODD = [
    b"data: {\"a\": 1}\r\n\r\n", b": comment\n\n", b"da", b"ta: split", b" in pieces\n", b"\n", b"id: 7\nretry: 10\n\n",
    b"event: x\ndata:\n\n", b"data: \xff\xfe not utf-8\n\n", b"data: " + b"x" * 100_000 + b"\n\n", b"\r\r", b"no end",
]  # fmt: skip


@pytest.mark.parametrize("usage", ["parsed", "engine", "none"])
def test_streams_pass_byte_by_byte(proxy: Proxy, usage: str) -> None:
    """Whatever an engine sends as events arrives as it was sent, however counts are read."""
    with serving(in_pieces(*ODD)) as port:
        proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=Traffic(usage=usage)),)))  # type: ignore[arg-type]
        with calling(proxy, "chat") as chat:
            answer = chat.client.post("x", json={"stream": True})
    assert answer.content == b"".join(ODD)
    assert answer.headers["content-type"] == "text/event-stream"
    assert proxy.records(1)[0].flags == "-"


def test_each_event_comes_when_it_is_sent(proxy: Proxy) -> None:
    """No event waits for the next one, whole or not: a client holds it before the engine goes on."""
    pieces, came = (b"data: one", b"\n\ndata: two\n\n", b"data: three\n\n"), threading.Semaphore(0)
    with serving(in_pieces(*pieces, came=came)) as port:
        proxy.gateway.apply(GatewayState((at_ports("chat", port),)))
        with calling(proxy, "chat") as chat, chat.client.stream("POST", "x", json={}) as answer:
            arriving = answer.iter_raw()
            for piece in pieces:
                assert next(arriving) == piece
                came.release()
            assert list(arriving) == []


# --- token counts -------------------------------------------------------------------------------------------------


def counts(proxy: Proxy, usage: str, port: int, body: bytes) -> tuple[int | None, int | None]:
    """Tokens in and out in the record of one request, whose client gets just ``body``."""
    proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=Traffic(usage=usage)),)))  # type: ignore[arg-type]
    with calling(proxy, "chat") as chat:
        answer = chat.client.post("v1/completions", json={})
    assert (answer.status_code, answer.content) == (200, body)
    (record,) = proxy.records(1)
    assert record.flags == "-"
    return record.tokens_in, record.tokens_out


WHOLE = b'{"usage": {"prompt_tokens": 5, "completion_tokens": 6}}'
LAST = b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 8}}\n\n'


@pytest.mark.parametrize(("usage", "counted"), [("engine", (11, 64)), ("parsed", (11, 64)), ("none", (11, 64))])
def test_an_engine_tells_its_counts_in_a_header(proxy: Proxy, usage: str, counted: tuple[int, int]) -> None:
    """``x-usage`` of a whole answer ends in the record."""
    head = b"HTTP/1.1 200 OK\r\nx-usage: 11,64\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with serving(Answering(head % len(WHOLE) + WHOLE)) as port:
        assert counts(proxy, usage, port, WHOLE) == counted


def test_an_engine_tells_its_counts_in_a_trailer(proxy: Proxy) -> None:
    """``x-usage`` behind the last chunk of a stream ends in the record; the client gets the same bytes as without."""
    events = (b"data: a\n\n", b"data: [DONE]\n\n")
    with serving(in_pieces(*events, trailers=b"x-usage: 12,65\r\n")) as port:
        assert counts(proxy, "engine", port, b"".join(events)) == (12, 65)


def test_odd_counts_are_none(proxy: Proxy) -> None:
    """What an engine tells wrongly is no count, and costs no record."""
    for told in (b"many", b"1", b"1,2,3,4", b"1,2,x", b"-1,2", b"1.5,2", b"99999999999,1", b"", b"1,2\t3"):
        answer = b"HTTP/1.1 200 OK\r\nx-usage: " + told + b"\r\ncontent-length: 2\r\n\r\nok"
        with serving(Answering(answer)) as port:
            proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=Traffic(usage="engine")),)))
            with calling(proxy, "chat") as chat:
                told_id = chat.client.get("x").headers["x-request-id"]
        until(lambda i=told_id: i in {r.request_id for r in proxy.gateway.records(Cursor())[0]})
        (record,) = [r for r in proxy.gateway.records(Cursor())[0] if r.request_id == told_id]
        assert (record.tokens_in, record.tokens_out) == (None, None), told


@pytest.mark.parametrize(
    ("usage", "whole", "streamed"), [("parsed", (5, 6), (7, 8)), ("none", (None, None), (None, None))]
)
def test_counts_are_read_off_answers_where_asked(proxy: Proxy, usage: str, whole, streamed) -> None:
    """From a JSON answer's ``usage`` and from a stream's last event; not at all where nobody asked."""
    with serving(in_pieces(b"data: {}\n\n", LAST, b"data: [DONE]\n\n")) as port:
        assert counts(proxy, usage, port, b"data: {}\n\n" + LAST + b"data: [DONE]\n\n") == streamed
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with serving(Answering(head % len(WHOLE) + WHOLE)) as port:
        proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=Traffic(usage=usage)),)))  # type: ignore[arg-type]
        with calling(proxy, "chat") as chat:
            assert chat.client.get("x").content == WHOLE
    record = max(proxy.records(2), key=lambda r: r.at)
    assert (record.tokens_in, record.tokens_out) == whole


@pytest.mark.parametrize("usage", ["parsed", "engine", "none"])
def test_large_bodies_pass_whoever_counts(proxy: Proxy, v1: Upstream, v2: Upstream, usage: str) -> None:
    """A request of the limit's size and a longer answer, copied as well as not, also over HTTP/2."""
    service = a_service("chat", v1, v2, traffic=Traffic(usage=usage), body_limit_bytes=3 << 20)  # type: ignore[arg-type]
    proxy.gateway.apply(GatewayState((replace(service, lease=a_lease(mirror=1000)),)))
    for http2 in (False, True):
        with calling(proxy, "chat", http2=http2, http1=not http2) as chat:
            assert chat.client.post("x", content=b"x" * (3 << 20)).json()["bytes"] == 3 << 20
            assert chat.client.post("x", content=b"x" * ((3 << 20) + 1)).status_code == 413
            assert len(chat.client.get(f"large?n={6 << 20}").json()["filler"]) == 6 << 20
    copies = [r for r in proxy.records(10) if r.kind == "mirror"]
    assert {(r.status, r.flags) for r in copies} == {(200, "-")}
    assert sorted(r.bytes_in for r in copies) == [0, 0, 3 << 20, 3 << 20]


# --- WebSockets ---------------------------------------------------------------------------------------------------


def socket_to(proxy: Proxy, door: str = "chat", **headers: str) -> ClientConnection:
    """An upgraded connection to a service."""
    address = f"{proxy.url}/api/predict/{door}/socket".replace("http:", "ws:")
    return connect(address, additional_headers=headers, proxy=None, compression=None)


def test_a_websocket_stays_open_and_passes_both_ways(proxy: Proxy, v1: Upstream) -> None:
    """Longer than the response timeout of silence, small and large messages, and its record at the end."""

    def taking(**limits: float) -> GatewayState:
        traffic = Traffic(websocket=True, limits=Limits(**limits))  # type: ignore[arg-type]
        return GatewayState((a_service("chat", v1, response_timeout_s=2, traffic=traffic),))

    proxy.gateway.apply(taking())
    with socket_to(proxy, **HELD) as open_one:
        assert open_one.recv() == "v1"
        for pause, word in ((0, "hello"), (3, "again"), (0, "x" * 500_000)):
            time.sleep(pause)
            open_one.send(word)
            assert open_one.recv() == word
        assert httpx.get(f"{proxy.url}/api/predict/chat/x", headers=HELD).status_code == 200
        proxy.gateway.apply(taking(requests_per_s=50))
        open_one.send("after a change")
        assert open_one.recv() == "after a change"
    records = proxy.records(2)
    assert [(r.status, r.client) for r in records if r.bytes_out > 500_000] == [(101, "alice")]


def test_a_websocket_needs_a_token_and_a_service_that_takes_it(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """401 without a token, 403 with another's, 403 where the service did not ask for it, and limits count."""
    limits = Limits(token_requests_per_s=0.1)
    taking = a_service("chat", v1, traffic=Traffic(websocket=True, limits=limits))
    proxy.gateway.apply(GatewayState((taking, a_service("other", v2))))
    asked = {401: {}, 403: bearer(token_of("other"))}
    for status, headers in asked.items():
        assert refusal(proxy, **headers) == status
    assert refusal(proxy, door="other", **bearer(token_of("other"))) == 403
    with socket_to(proxy, **HELD) as open_one:
        assert open_one.recv() == "v1"
    assert refusal(proxy, **HELD) == 429


def test_a_lost_websocket_is_told(proxy: Proxy, mortal) -> None:
    """When the instance dies both sides know."""
    upstream = mortal(1)
    proxy.gateway.apply(GatewayState((a_service("chat", upstream, traffic=Traffic(websocket=True)),)))
    with socket_to(proxy, **HELD) as open_one:
        assert open_one.recv() == "v1"
        upstream.kill()
        with pytest.raises(ConnectionClosed):
            open_one.recv(timeout=10)


def refusal(proxy: Proxy, door: str = "chat", **headers: str) -> int:
    """The status of a refused upgrade, whose body is JSON."""
    with pytest.raises(InvalidStatus) as refused:
        socket_to(proxy, door, **headers)
    response = refused.value.response
    assert json.loads(response.body)["error"]["code"] == response.status_code
    return response.status_code


# --- gRPC ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[GrpcEcho, int]]:
    """A gRPC server and its port."""
    server = GrpcEcho(status="5")
    with serving(server) as port:
        yield server, port


def takes_grpc(port: int, traffic: Traffic = Traffic(grpc=True), **more: object) -> GatewayState:
    return GatewayState((at_ports("chat", port, traffic=traffic, **more),))


@pytest.mark.parametrize("balance", ["least_request", "prompt"])
def test_a_grpc_call_streams_both_ways(proxy: Proxy, echo: tuple[GrpcEcho, int], balance: str) -> None:
    """Each message is answered before the next is sent, trailers arrive, and the server sees nothing but the call."""
    server, port = echo
    proxy.gateway.apply(takes_grpc(port, Traffic(grpc=True, balance=balance)))  # type: ignore[arg-type]
    call = Call(proxy.settings.port, ECHO, GRPC)
    said = b""
    for i in range(5):
        message = b"\0\0\0\0\5abcd%d" % i
        said += message
        assert call.say(message).hear(len(said)) == said
    call.say(b"", last=True).end()
    assert (call.headers[":status"], call.trailers["grpc-status"], call.trailers["grpc-message"]) == (
        "200",
        "5",
        "as told",
    )
    assert call.headers["x-roundhouse-version"] == "1"
    (seen,) = server.calls
    assert (seen.headers[":path"], b"".join(seen.pieces)) == (ECHO, said)
    assert not {"authorization", "x-roundhouse-service", "x-now-ms"} & seen.headers.keys()
    (record,) = proxy.records(1)
    assert (record.grpc_status, record.status, record.client, record.version) == (5, 200, "alice", 1)


@pytest.mark.parametrize("usage", ["parsed", "engine"])
def test_a_grpc_body_has_no_end_to_wait_for(proxy: Proxy, echo: tuple[GrpcEcho, int], usage: str) -> None:
    """A call may send more than a request's body may be, and silence as long as the response timeout allows."""
    _, port = echo
    traffic = Traffic(grpc=True, usage=usage)  # type: ignore[arg-type]
    proxy.gateway.apply(takes_grpc(port, traffic, body_limit_bytes=1000))
    call = Call(proxy.settings.port, ECHO, GRPC)
    for i in range(1, 21):
        call.say(b"x" * 10_000).hear(i * 10_000)
    call.say(b"", last=True).end()
    assert (len(call.body), call.trailers["grpc-status"]) == (200_000, "5")


def test_grpc_needs_a_token_and_a_service_that_takes_it(proxy: Proxy, echo: tuple[GrpcEcho, int], v1: Upstream) -> None:
    """Without the service's token, or where a service did not ask for gRPC, a call is refused and reaches nobody."""
    server, port = echo
    proxy.gateway.apply(GatewayState((*takes_grpc(port).services, a_service("other", v1))))
    other = bearer(token_of("other"))
    asked = [
        ({"x-roundhouse-service": "chat"}, "16"),  # UNAUTHENTICATED
        ({"x-roundhouse-service": "chat", **other}, "7"),  # PERMISSION_DENIED
        ({"x-roundhouse-service": "other", **other}, "12"),  # UNIMPLEMENTED: no such path
        ({**other}, "12"),
        (HELD, "12"),
    ]
    for headers, status in asked:
        call = Call(proxy.settings.port, ECHO, headers).say(b"", last=True).end()
        assert {**call.headers, **call.trailers}["grpc-status"] == status, headers
    assert server.calls == []


def test_a_grpc_call_obeys_the_lease(proxy: Proxy, echo: tuple[GrpcEcho, int]) -> None:
    """Shares and their end hold for calls as well, and calls are never copied."""
    server, port = echo
    candidate = GrpcEcho()
    with serving(candidate) as second:
        (stable,) = takes_grpc(port).services
        (endpoint,) = replace(stable.backends[0]).endpoints
        newer = replace(
            stable.backends[0], version=2, endpoints=(replace(endpoint, instance="chat-v2-0", port=second),)
        )
        for lease, version in ((a_lease(canary=1000, mirror=1000), "2"), (a_lease(mirror=1000, seconds=-1), "1")):
            proxy.gateway.apply(GatewayState((replace(stable, backends=(*stable.backends, newer), lease=lease),)))
            call = Call(proxy.settings.port, ECHO, GRPC).say(b"x", last=True).end()
            assert call.headers["x-roundhouse-version"] == version
    assert (len(server.calls), len(candidate.calls)) == (1, 1)


def test_the_admin_interface_is_not_to_be_had(proxy: Proxy, v1: Upstream) -> None:
    """No path on the data side leads to it."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1),)))
    for path in (
        "/stats",
        "/config_dump",
        "/quitquitquit",
        "/tap",
        "/clusters",
        "//stats",
        "/api/predict/chat/../../../stats",
    ):
        with socket.create_connection(("127.0.0.1", proxy.settings.port)) as client:
            client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 404 "), path
