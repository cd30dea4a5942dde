"""A client that streams completions without a pause until it is told to stop, and counts honestly. Never retries.

An independent witness: it shares no code with the load test's meter, and parses every event as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.plans import authorization
from loadtest.report import put, quantiles
from rollout.errors import RoundhouseError

MOST_FAILURES = 100  # whose details are kept; the counts know all


@dataclass
class Counts:
    """What this client saw. ``requests_failed`` holds the cut streams too; sent less ended is what is open."""

    started_at: float
    requests_sent: int = 0
    requests_ended: int = 0
    requests_failed: int = 0
    streams_cut: int = 0
    tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, at: float, status: int, error: str, request_id: str, cut: bool) -> None:
        """Count a request that did not end well."""
        self.requests_failed += 1
        self.streams_cut += cut
        if len(self.failures) < MOST_FAILURES:
            failure = {"at": at, "status": status, "error": error[:200], "request_id": request_id, "cut": cut}
            self.failures.append(failure)

    def facts(self, now: float) -> dict[str, Any]:
        """The counts as JSON types; TTFT as quantiles (s)."""
        found = quantiles(self.ttft_s)
        kept = {name: value for name, value in vars(self).items() if name != "ttft_s"}
        return kept | {"seconds": round(now - self.started_at, 3), "ttft_s": asdict(found) if found else None}


class Cut(Exception):
    """A stream that began and ended without [DONE], or with an error object."""


@dataclass(frozen=True)
class Wish:
    """What each request asks for."""

    url: str
    headers: dict[str, str]
    api: str
    max_tokens: int
    model: str

    def body(self, number: int) -> dict[str, Any]:
        """The request with this number; no two begin alike, so no prefix cache helps."""
        text = f"({number}) The railway line runs from the harbour to"
        asked = {"messages": [{"role": "user", "content": text}]} if self.api == "chat" else {"prompt": text}
        named = {"model": self.model} if self.model else {}
        return asked | named | {"stream": True, "max_tokens": self.max_tokens}

    @property
    def address(self) -> str:
        path = "chat/completions" if self.api == "chat" else "completions"
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1/{path}"


async def ask(session: aiohttp.ClientSession, wish: Wish, counts: Counts) -> None:
    """Send one request and follow its stream to the end; whatever happens is in the counts."""
    counts.requests_sent += 1
    sent, status, request_id = time.time(), 0, ""
    try:
        async with session.post(wish.address, json=wish.body(counts.requests_sent), headers=wish.headers) as answer:
            status, request_id = answer.status, answer.headers.get("x-request-id", "")
            if status != 200:
                return counts.fail(sent, status, (await answer.text())[:200], request_id, cut=False)
            await _stream(answer, sent, counts)
    except Cut as error:
        counts.fail(sent, status, str(error), request_id, cut=True)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        counts.fail(sent, status, f"{type(error).__name__}: {error}", request_id, cut=status == 200)
    finally:
        counts.requests_ended += 1


async def _stream(answer: aiohttp.ClientResponse, sent: float, counts: Counts) -> None:
    """Count tokens until [DONE], and read to the end, as clients do that keep their connection. Raises Cut."""
    first = None
    async for event in _events(answer):
        if event is None:
            if first is not None:
                counts.ttft_s.append(first - sent)
            await answer.read()
            return
        if "error" in event:
            raise Cut(f"error in the stream: {json.dumps(event['error'])}")
        if any(_text(choice) for choice in event.get("choices", ())):
            counts.tokens += 1
            first = first or time.time()
    raise Cut("the stream ended without [DONE]")


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any] | None]:
    """Each event as JSON, ``None`` for [DONE]. Raises Cut for what is no JSON object."""
    async for raw in answer.content:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            yield None
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise Cut(f"an event is no JSON: {data[:80]}") from error
        yield event if isinstance(event, dict) else {"error": data[:80]}


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


async def _user(session: aiohttp.ClientSession, wish: Wish, counts: Counts, gap_s: float, stop: asyncio.Event) -> None:
    """One client: ask, and ask again ``gap_s`` after the last send or at once, whichever is later."""
    while not stop.is_set():
        sent = time.monotonic()
        failed = counts.requests_failed
        await ask(session, wish, counts)
        pause = max(gap_s - (time.monotonic() - sent), 0.05 if counts.requests_failed > failed else 0.0)
        if pause:
            await _wait(stop, pause)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _report(out: Path, counts: Counts, stop: asyncio.Event) -> None:
    while not stop.is_set():
        write(out, counts)
        await _wait(stop, 1.0)


def write(out: Path, counts: Counts) -> dict[str, Any]:
    """Put the counts into ``out``, whole or not at all; and return them."""
    facts = counts.facts(time.time())
    put(out, json.dumps(facts, indent=1) + "\n")
    return facts


async def stream_steadily(wish: Wish, out: Path, users: int, rate: float, timeout_s: float, longest_s: float) -> Counts:
    """Until SIGTERM, SIGINT or ``longest_s`` (0: no end); open requests are finished, not dropped.

    ``rate`` is requests per second of all users together, 0: each asks again at once. ``timeout_s`` is the longest
    silence of a stream. The counts are in ``out`` from the start and each second.
    """
    stop, counts = asyncio.Event(), Counts(time.time())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if longest_s:
        loop.call_later(longest_s, stop.set)
    limits = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=timeout_s)
    reporter = asyncio.create_task(_report(out, counts, stop))
    async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
        gap_s = users / rate if rate else 0.0
        await asyncio.gather(*(_user(session, wish, counts, gap_s, stop) for _ in range(users)))
    await reporter
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.steady", description=__doc__)
    parser.add_argument("--url", required=True, help="base of an OpenAI API")
    parser.add_argument("--out", required=True, type=Path, help="JSON file of the counts, rewritten each second")
    parser.add_argument("--token-file", help="file with the token for Authorization")
    parser.add_argument("--users", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s of all users together; 0: no pause")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--api", choices=("chat", "completions"), default="completions")
    parser.add_argument("--model", default="")
    parser.add_argument("--timeout", type=float, default=60.0, help="longest silence, seconds")
    parser.add_argument("--seconds", type=float, default=0.0, help="0: until SIGTERM or SIGINT")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Stream until told to stop; print the counts, without the details of failures, as one line of JSON."""
    given = _parser().parse_args(arguments)
    try:
        headers = authorization(given.token_file)
    except RoundhouseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    os.makedirs(given.out.parent, exist_ok=True)
    wish = Wish(given.url, headers, given.api, given.max_tokens, given.model)
    counts = asyncio.run(stream_steadily(wish, given.out, given.users, given.rate, given.timeout, given.seconds))
    facts = write(given.out, counts)
    print(json.dumps({name: value for name, value in facts.items() if name != "failures"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
