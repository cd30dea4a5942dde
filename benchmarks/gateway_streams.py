"""Event streams for the gateway's benchmark: a small fast server, and many clients in one process.

    python benchmarks/gateway_streams.py serve PORT...
    python benchmarks/gateway_streams.py ask PORT PATH TOKEN CLIENTS SECONDS    (prints one JSON object)

A stream is 64 chunks, 10 ms apart, with the token counts in the trailer ``x-usage`` behind the last one. Standard
library only: it is started by its path, next to a module that bears the name of the package under test.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time

HOST = "127.0.0.1"
CHUNKS, GAP_S = 64, 0.01
_PATIENCE_S = 300.0  # until the last streams end, for the slowest peer
_TAIL = 96  # bytes kept to see a stream's end
_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
_END = re.compile(rb"\r\n0\r\n(?:[^\r\n]+\r\n)*\r\n\Z")


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return _chunk(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntrailer: x-usage\r\ntransfer-encoding: chunked\r\n\r\n"
_WORD = _event({"content": " word"})
_LAST = _event({}, "stop")
_DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\nx-usage: 11,62\r\n\r\n"
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}
_WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [_CHOICE],
    "data": [{"id": "m", "object": "model"}],  # also serves those who ask for the models
    "usage": {"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12},
}


class Server(asyncio.Protocol):
    """One connection: a stream for who asks for one, a whole answer for others."""

    def __init__(self) -> None:
        self._data, self._sent = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._loop = transport, asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < int(length.group(1) if length else 0):
            return
        self._data = b""
        if b'"stream":true' in body.replace(b" ", b""):
            self._sent = 0
            self._transport.write(_HEAD)
            self._next(self._loop.time())
            return
        whole = json.dumps(_WHOLE).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-usage: 11,1\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(whole) + whole)

    def _next(self, due: float) -> None:
        if self._transport.is_closing():
            return
        self._sent += 1
        self._transport.write(_WORD if self._sent < CHUNKS - 1 else _LAST if self._sent < CHUNKS else _DONE)
        if self._sent < CHUNKS:
            self._loop.call_at(due + GAP_S, self._next, due + GAP_S)


class Client(asyncio.Protocol):
    """One connection that asks for stream after stream until ``until`` (of the monotonic clock)."""

    def __init__(self, request: bytes, until: float) -> None:
        self._request, self._until = request, until
        self.firsts: list[float] = []
        self.broken = self.streams = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._tail:
            self.firsts.append(time.perf_counter() - self._asked)
        self._tail = (self._tail + data)[-_TAIL:]
        if not _END.search(self._tail):
            return
        self.streams += 1
        self.broken += b"[DONE]" not in self._tail
        if time.monotonic() > self._until:
            self._transport.close()
            self._finish()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.broken += 1
            self._finish()

    def _ask(self) -> None:
        self._tail, self._asked = b"", time.perf_counter()
        self._transport.write(self._request)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def serve(ports: list[int]) -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Server, HOST, port, backlog=1024) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def ask(port: int, path: str, token: str, count: int, seconds: float) -> dict[str, float]:
    """So many clients for so long: {streams, broken, seconds, first_p50_ms, first_p99_ms}."""
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x" * 200}]})
    lines = [f"POST {path} HTTP/1.1", f"host: {HOST}", "content-type: application/json"]
    lines += [f"authorization: Bearer {token}", f"content-length: {len(body)}", "", body]
    request, begun = "\r\n".join(lines).encode(), time.monotonic()
    loop, clients = asyncio.get_running_loop(), []
    for _ in range(count):
        _, client = await loop.create_connection(lambda: Client(request, begun + seconds), HOST, port)
        clients.append(client)
        await asyncio.sleep(CHUNKS * GAP_S / count)  # so that streams do not beat in step
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), seconds + _PATIENCE_S)
    took = time.monotonic() - begun
    firsts = sorted(first for client in clients for first in client.firsts)
    return {
        "streams": sum(client.streams for client in clients),
        "broken": sum(client.broken for client in clients),
        "seconds": took,
        "first_p50_ms": statistics.median(firsts) * 1000,
        "first_p99_ms": firsts[int(len(firsts) * 0.99)] * 1000,
    }


def main(words: list[str]) -> None:
    """The two commands above."""
    if words[0] == "serve":
        asyncio.run(serve([int(word) for word in words[1:]]))
    else:
        port, path, token, count, seconds = words[1:]
        print(json.dumps(asyncio.run(ask(int(port), path, token, int(count), float(seconds)))))


if __name__ == "__main__":
    main(sys.argv[1:])
