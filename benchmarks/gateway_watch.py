"""A client that asks at a steady rate over open connections and notes who answered.

    python benchmarks/gateway_watch.py PORT PATH TOKEN RATE CONNECTIONS OUT

It runs until its standard input closes; then ``OUT`` holds a JSON list of [sent, received, version, status] in
seconds of the machine's monotonic clock. Standard library only: it is started by its path.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_VERSION = re.compile(rb"\r\nx-roundhouse-version: *(\d+)", re.I)
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 200}]})

Seen = list[tuple[float, float, int, int]]


class Asker(asyncio.Protocol):
    """One open connection; it skips its turn while an answer is due."""

    def __init__(self, request: bytes, every_s: float, seen: Seen) -> None:
        self._request, self._every_s, self._seen = request, every_s, seen
        self._data, self._waiting = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._ask(self._loop.time())

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length.group(1))):
            return
        version, status = _VERSION.search(head), int(head[9:12])
        self._seen.append((self._sent, time.monotonic(), int(version.group(1)) if version else 0, status))
        self._data, self._waiting = b"", False

    def connection_lost(self, error: Exception | None) -> None:
        self._seen.append((self._sent, time.monotonic(), 0, 0))  # nobody but the proxy closes it before the end

    def _ask(self, due: float) -> None:
        if self._transport.is_closing():
            return
        if not self._waiting:
            self._waiting, self._sent = True, time.monotonic()
            self._transport.write(self._request)
        due = max(due + self._every_s, self._loop.time())
        self._loop.call_at(due, self._ask, due)


async def watch(port: int, path: str, token: str, rate: float, connections: int) -> Seen:
    """Ask until standard input closes."""
    lines = [f"POST {path} HTTP/1.1", f"host: {HOST}", "content-type: application/json"]
    lines += [f"authorization: Bearer {token}", f"content-length: {len(_BODY)}", "", _BODY]
    request, loop = "\r\n".join(lines).encode(), asyncio.get_running_loop()
    seen: Seen = []
    for _ in range(connections):
        await loop.create_connection(lambda: Asker(request, connections / rate, seen), HOST, port)
        await asyncio.sleep(1 / rate)
    await loop.run_in_executor(None, sys.stdin.read)
    return list(seen)


def main(words: list[str]) -> None:
    """The command above."""
    port, path, token, rate, connections, out = words
    seen = asyncio.run(watch(int(port), path, token, float(rate), int(connections)))
    Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1:])
