"""Load from a process of its own: requests on open keep-alive connections, and event streams checked event by event.

``with load(plan) as running`` starts it; ``running.seen()`` tells what clients saw so far, and after the block all of
it. It speaks HTTP/1.1 on plain sockets, so that a thousand requests a second cost a third of a core.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

PATIENCE_S = 30.0  # a request that takes longer is a failure


@dataclass(frozen=True)
class Plan:
    """What is called, and how much. ``doors`` are (name, token), shared out among connections and streams."""

    port: int
    doors: tuple[tuple[str, str], ...]
    rate: float = 600.0  # requests per second in all; a client that fell behind catches up
    connections: int = 16
    streams: int = 4
    events: int = 10  # of each stream
    gap_s: float = 0.1  # between two events


@dataclass
class Seen:
    """What clients saw. ``failures`` are (begun, ended, text), by the monotonic clock that all processes share."""

    answers: Counter[tuple[str, int, str | None]] = field(default_factory=Counter)  # by (door, status, version)
    failures: list[tuple[float, float, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # streams that did not bring each event, or no end
    streams: int = 0
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def requests(self) -> int:
        return self.answers.total()

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / (self.ended - self.began)

    def good(self, version: str) -> int:
        """How many whole answers with status 200 a version gave."""
        return sum(n for (_, status, by), n in self.answers.items() if (status, by) == (200, version))

    def to_line(self) -> str:
        """As one line of JSON."""
        self.ended = time.monotonic()
        return json.dumps({**vars(self), "answers": [[*key, n] for key, n in self.answers.items()]})

    @classmethod
    def from_line(cls, line: str) -> Seen:
        """The inverse of ``to_line``."""
        told = json.loads(line)
        answers = Counter({(door, status, by): n for door, status, by, n in told.pop("answers")})
        return cls(answers, **told)


class Load:
    """A running client."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._last = process, ""

    def seen(self) -> Seen:
        """What clients saw until now; after the end, all of it."""
        if not self._last:
            return Seen.from_line(self._ask())
        return Seen.from_line(self._last)

    def close(self) -> None:
        """Let open requests and streams end."""
        self._last, _ = self._process.communicate(timeout=2 * PATIENCE_S)

    def _ask(self) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def load(plan: Plan) -> Iterator[Load]:
    """Clients that call while inside. They have begun when it is entered."""
    command = [sys.executable, __file__, json.dumps(asdict(plan))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        running = Load(process)
        try:
            while running.seen().requests < 20:
                time.sleep(0.02)
            yield running
            running.close()
        finally:
            process.kill()


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int, door: str, token: str) -> None:
        self._port, self._door, self._token = port, door, token
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def request(self, path: str, body: Any) -> bytes:
        """The bytes of a POST to the door."""
        content = json.dumps(body)
        return (
            f"POST /api/predict/{self._door}{path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n{content}"
        ).encode()

    async def ask(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send a request; the answer's status and headers. Its body is to be read next."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        return int(head[0].split(" ")[1]), headers

    async def body(self, headers: dict[str, str]) -> bytes:
        """The whole body of an answer."""
        assert self._reader is not None
        if "content-length" in headers:
            content = await self._reader.readexactly(int(headers["content-length"]))
        else:
            content = b"".join([chunk async for chunk in self.chunks()])
        if headers.get("connection") == "close":
            self.close()
        return content

    async def chunks(self) -> Any:
        """The chunks of a chunked body, to its proper end."""
        assert self._reader is not None
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        while (await self._reader.readuntil(b"\r\n")) != b"\r\n":
            pass  # trailers

    def close(self) -> None:
        """The next request opens a new connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def call(client: Client, door: str, every: float, first: float, seen: Seen, over: asyncio.Event) -> None:
    """A request each ``every`` seconds, later ones at once where an answer came late."""
    request, due = client.request("/x", {}), time.monotonic() + first
    while not over.is_set():
        await asyncio.sleep(due - time.monotonic())
        due, begun = due + every, time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, headers = await client.ask(request)
                content = await client.body(headers)
            seen.answers[door, status, headers.get("x-roundhouse-version")] += 1
            if status != 200:
                seen.failures.append((begun, time.monotonic(), content.decode()))
        except (OSError, EOFError, ValueError) as error:
            seen.failures.append((begun, time.monotonic(), repr(error)))
            client.close()
            await asyncio.sleep(0.01)
    client.close()


async def read_streams(client: Client, plan: Plan, seen: Seen, over: asyncio.Event) -> None:
    """One stream after the other."""
    request = client.request("/v1/completions", {"stream": True, "n": plan.events, "gap": plan.gap_s})
    while not over.is_set():
        text = b""
        try:
            async with asyncio.timeout(PATIENCE_S + plan.events * plan.gap_s):
                status, headers = await client.ask(request)
                text = b"" if status == 200 else await client.body(headers)
                if status == 200:
                    async for chunk in client.chunks():
                        text += chunk
            fault = amiss(text, plan.events)
        except (OSError, EOFError, ValueError) as error:
            fault = f"{error!r} after {text[-200:]!r}"
        seen.streams += 1
        if fault:
            seen.cut.append(fault)
            client.close()
            await asyncio.sleep(0.01)
    client.close()


def amiss(text: bytes, events: int) -> str:
    """What is wrong with a stream of ``events`` numbered events from one server; nothing where nothing is."""
    told = [line.removeprefix("data: ") for line in text.decode().split("\n\n") if line]
    if not told or told[-1] != "[DONE]":
        return f"no end in {text[-200:]!r}"
    found = [json.loads(line) for line in told[:-1]]
    whole = [event["token"] for event in found] == list(range(events)) and len({e["name"] for e in found}) == 1
    return "" if whole else f"not all events in {text!r}"


async def main(plan: Plan) -> None:
    """Call until standard input ends; tell what was seen at each line of it, and at the end."""
    seen, over = Seen(), asyncio.Event()
    every = plan.connections / plan.rate
    doors = [plan.doors[i % len(plan.doors)] for i in range(max(plan.connections, plan.streams))]
    callers = [
        call(Client(plan.port, *doors[i]), doors[i][0], every, every * i / plan.connections, seen, over)
        for i in range(plan.connections)
    ]
    readers = [read_streams(Client(plan.port, *doors[i]), plan, seen, over) for i in range(plan.streams)]
    at_work = asyncio.gather(*callers, *readers)
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    while await asked.readline():
        print(seen.to_line(), flush=True)
    over.set()
    await at_work
    print(seen.to_line(), flush=True)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    asyncio.run(main(Plan(**{**told, "doors": tuple(map(tuple, told["doors"]))})))
