"""The HTTP front of an engine process: passes requests to llama.cpp, knows loading, waiting, draining and faults.

A request waits here, not in llama.cpp, whose HTTP threads would be held by waiting requests until it cannot even
answer for its health; and a client that leaves while it waits costs nothing here. A client that leaves later ends a
stream's work at once; unstreamed work ends when llama.cpp looks, which it does after a second without any result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, HttpVersion11, TCPConnector, web

from engines import usage
from engines.faults import Cut, Fate, FaultyPath

if TYPE_CHECKING:
    from engines.traces import Spans

_MAX_BODY = 32 * 1024 * 1024
_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
        "proxy-authenticate",
        "host",
        "content-length",
        "expect",
    }
)  # RFC 9110, 7.6.1, and what we set anew


class Front:
    """One engine process as its clients see it."""

    def __init__(self, slots: int, max_queue: int, faults: FaultyPath, spans: Spans | None = None) -> None:
        self._slots, self._room, self._faults = slots, slots + max_queue, faults
        self._gate, self._spans = asyncio.Semaphore(slots), spans
        self._base = ""
        self._session: ClientSession | None = None
        self.state = "loading"
        self.open_requests = 0
        self.refused = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def waiting(self) -> int:
        """Requests that no slot works on."""
        return max(0, self.open_requests - self._slots)

    def application(self) -> web.Application:
        """The routes."""
        around = [self._spans.around] if self._spans else []
        app = web.Application(client_max_size=_MAX_BODY, middlewares=around)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_route("*", "/{path:.*}", self._any)
        app.on_cleanup.append(self._close)
        return app

    def open(self, base: str) -> None:
        """The model is loaded and served at ``base``. Each request gets a connection of its own: llama.cpp's server
        closes a kept one whenever it likes, and holds a thread for it until then."""
        self._base = base
        self._session = ClientSession(
            connector=TCPConnector(limit=0, force_close=True),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=5),
        )
        self.state = "ok"

    async def _close(self, _: web.Application) -> None:
        if self._session:
            await self._session.close()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": self.state}, status=200 if self.state == "ok" else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        theirs = ""
        if self._session and self.state != "loading":
            async with self._session.get(f"{self._base}/metrics") as response:
                theirs = await response.text() if response.status == 200 else ""
        return web.Response(text=theirs + self._own_metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})

    def _own_metrics(self) -> str:
        numbers = (
            ("requests_running", "gauge", self.open_requests - self.waiting),
            ("requests_waiting", "gauge", self.waiting),
            ("requests_refused_total", "counter", self.refused),
        )
        return "".join(f"# TYPE roundhouse_{name} {kind}\nroundhouse_{name} {value}\n" for name, kind, value in numbers)

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if self.state != "ok":
            return self._refuse(failure(503, "unavailable_error", f"the engine is {self.state}"))
        if request.method != "POST":
            return await self._forward(request)
        if self.open_requests >= self._room:
            full = f"{self.waiting} requests are waiting, the bound is {self._room - self._slots}"
            return self._refuse(failure(450, "queue_full", full, limit="queue"))
        self.open_requests += 1
        self.idle.clear()
        arrived = time.monotonic()
        request["arrived"] = arrived
        try:
            async with self._gate:
                request["queue_wait_s"] = time.monotonic() - arrived
                return await self._at_work(request)
        finally:
            self.open_requests -= 1
            if not self.open_requests:
                self.idle.set()

    async def _at_work(self, request: web.Request) -> web.StreamResponse:
        if self._faults.spares(request.headers):
            return await self._forward(request)
        await self._faults.hold()
        body = await request.read()
        fate = self._faults.fate(len(body))
        return await _deliberate(fate, _asks_for_stream(body)) if fate else await self._forward(request)

    def _refuse(self, answer: web.Response) -> web.Response:
        self.refused += 1
        answer.headers["Retry-After"] = "1"
        if self.state == "draining":
            answer.force_close()
        return answer

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        body = await request.read() or None
        headers = end_to_end(request.headers)
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, f"{self._base}{request.raw_path}", data=body, headers=headers, allow_redirects=False
            ) as upstream:
                headers = end_to_end(upstream.headers)
                if upstream.content_length is not None:
                    return _whole(request, upstream.status, headers, await upstream.read())
                response = web.StreamResponse(status=upstream.status, headers=headers)
                await self._stream(request, upstream, response)
            return response
        except (ClientError, ConnectionError, Cut) as broken:
            request["broken"] = type(broken).__name__
            if response is None:
                return failure(502, "server_error", f"the engine broke the connection ({type(broken).__name__})")
            if request.transport:  # the only honest end of a stream that cannot be finished
                request.transport.close()
            return response

    async def _stream(self, request: web.Request, upstream: ClientResponse, response: web.StreamResponse) -> None:
        """Pass the answer on as it comes; the counts follow it as a trailer where it goes out in chunks."""
        if upstream.content_type == "text/event-stream" and request.version >= HttpVersion11:
            response.headers["Trailer"] = usage.HEADER
        writer = await response.prepare(request)
        counts = usage.tokens_told(await self._copy(request, upstream, response))
        last = b""
        if counts:
            request["usage"] = counts
            if writer.chunked:
                writer.chunked = False  # aiohttp has no trailers, but now sends the last bytes as they are
                last = f"0\r\n{usage.HEADER}: {usage.as_value(counts)}\r\n\r\n".encode()
        await response.write_eof(last)

    async def _copy(self, request: web.Request, upstream: ClientResponse, response: web.StreamResponse) -> bytes:
        """The last bytes of what was passed on."""
        chunks, end = upstream.content.iter_any(), b""
        is_stream = upstream.content_type == "text/event-stream"
        if is_stream and self._faults.touches_streams and not self._faults.spares(request.headers):
            chunks = self._faults.stream(chunks, request.get("arrived", time.monotonic()))
        async for chunk in chunks:
            await response.write(chunk)
            end = (end + chunk)[-usage.KEPT :]
        return end


async def _deliberate(fate: Fate, is_stream: bool) -> web.Response:
    """The answer that a fault gives in place of the model's; of "hang" none, until the client leaves."""
    if fate == "error":
        return failure(500, "server_error", "a deliberate fault of this engine process")
    if fate == "hang":
        await asyncio.Event().wait()
    body = b'{"object": "text_completion", "choices": [{"index": 0, "te' if fate == "malformed" else b""
    kind, start = ("text/event-stream", b"data: ") if is_stream else ("application/json", b"")
    return web.Response(body=body and start + body, content_type=kind)


def _asks_for_stream(body: bytes) -> bool:
    try:
        asked = json.loads(body)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


def _whole(request: web.Request, status: int, headers: dict[str, str], body: bytes) -> web.Response:
    """An answer that is not streamed, with its counts in a header."""
    counts = usage.tokens_told(body[-usage.KEPT :])
    if counts:
        request["usage"] = counts
        headers = {**headers, usage.HEADER: usage.as_value(counts)}
    return web.Response(status=status, headers=headers, body=body)


def end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are not for one connection only."""
    return {name: value for name, value in headers.items() if name.lower() not in _HOP}


def failure(status: int, kind: str, message: str, **more: str) -> web.Response:
    """An error in the OpenAI API's form."""
    return web.json_response({"error": {"message": message, "type": kind, "code": status, **more}}, status=status)
