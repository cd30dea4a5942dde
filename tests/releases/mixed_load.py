"""A client that streams completions of short and long prompts at a steady rate until SIGTERM.

``python mixed_load.py URL TOKEN_FILE OUT RATE`` writes how many requests ended and how, as JSON, into OUT.
Requests begin at their times, whether or not others have ended, so what one arm does late does not thin out the
requests of the other; only on a machine that cannot keep up, with too many open, do they begin later. Each answer is
read to its very end, so that the gateway counts nobody as having left.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.plans import authorization
from loadtest.report import put

SHORT = "Once upon a time"
LONG = "responsibilities transportation infrastructure " * 10  # a body of another length class, in few tokens
SHARE_LONG = 0.25
MAX_TOKENS = 4
MOST_OPEN = 6
LIMITS = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=20.0)


def request(number: int) -> dict[str, Any]:
    """The request with this number: every run of the client asks the same."""
    prompt = LONG if random.Random(number).random() < SHARE_LONG else SHORT
    return {"prompt": prompt, "stream": True, "temperature": 0, "max_tokens": MAX_TOKENS, "ignore_eos": True}


async def ask(
    session: aiohttp.ClientSession, url: str, number: int, counts: Counter[str], room: asyncio.Semaphore
) -> None:
    """Send one request, read its answer to the end and count it by how that was; then its place is free."""
    try:
        async with session.post(f"{url}/v1/completions", json=request(number)) as answer:
            whole = (await answer.read()).rstrip().endswith(b"data: [DONE]")
            counts["answered" if answer.status == 200 and whole else f"{answer.status}"] += 1
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        counts[type(error).__name__] += 1
    finally:
        room.release()


async def load(url: str, headers: dict[str, str], out: Path, rate: float) -> None:
    """Until SIGTERM; open requests are finished. ``rate``: requests/s, with gaps that differ by up to a half."""
    stop, counts, chance, number = asyncio.Event(), Counter[str](), random.Random(1), 0
    room = asyncio.Semaphore(MOST_OPEN)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        aiohttp.ClientSession(timeout=LIMITS, headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as requests,
    ):
        at = time.monotonic()
        while not stop.is_set():
            await room.acquire()
            number += 1
            requests.create_task(ask(session, url, number, counts, room))
            at = max(at + chance.uniform(0.5, 1.5) / rate, time.monotonic())
            await asyncio.sleep(at - time.monotonic())
            put(out, json.dumps(counts))
    put(out, json.dumps(counts))


if __name__ == "__main__":
    base, token_file, counted, per_second = sys.argv[1:]
    asyncio.run(load(base, authorization(token_file), Path(counted), float(per_second)))
