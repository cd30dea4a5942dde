"""Servers made by hand, byte by byte, for what no library sends: trailers, silence, an answer in odd pieces."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Request:
    """A request as it arrived. Names of headers are in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answering:
    """Answers each request with the same bytes, and keeps what arrived."""

    answer: bytes
    arrived: list[Request] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if request.path == "/health":
                writer.write(HEALTHY)
            else:
                self.arrived.append(request)
                writer.write(self.answer)
            await writer.drain()


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request of a connection, of an announced length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
    if headers.get("transfer-encoding") != "chunked":
        return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return Request(method, path, headers, body)


@contextlib.contextmanager
def a_loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs coroutines in a thread of their own, and gives back what they return."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda todo: asyncio.run_coroutine_threadsafe(todo, loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serving(connection: Connection) -> Iterator[int]:
    """The port of a server whose connections ``connection`` answers."""
    open_ones: set[asyncio.Task] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await connection(reader, writer)
        open_ones.discard(task)
        writer.close()

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in list(open_ones):
            task.cancel()
        await asyncio.sleep(0.05)

    with a_loop() as run:
        server = run(asyncio.start_server(handle, "127.0.0.1", 0))
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            run(stop(server))
