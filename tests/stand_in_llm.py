"""A real HTTP server that answers like an LLM with known times, and keeps its own record of what it did.

The first part of the path says how it behaves: /good /refuse /cut /error /drip /empty /close. GET /truth gives the
record. ``with serving(ttft_s, tpot_s) as url`` runs it in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

TRUTH: list[dict] = []


@contextmanager
def serving(ttft_s: float, tpot_s: float) -> Iterator[str]:
    """The server's address while it runs."""
    command = [sys.executable, __file__, str(ttft_s), str(tpot_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def truth_of(url: str) -> dict:
    """The record of the server at this address."""
    with urllib.request.urlopen(f"{url}/truth", timeout=10) as answer:
        return json.load(answer)


async def answer(request: web.Request) -> web.StreamResponse:
    """One completion: ``max_tokens`` tokens, the first after ``ttft``, then one each ``tpot`` seconds."""
    began, asked = time.time(), await request.json()
    kind, ttft = request.match_info["kind"], request.app["ttft"]
    record = {"kind": kind, "stream": asked["stream"], "prompt": asked.get("prompt") or asked["messages"][0]["content"]}
    TRUTH.append(record | {"token": request.headers.get("Authorization", ""), "model": asked.get("model")})
    if kind == "refuse":
        return web.json_response({"error": {"message": "<b>no</b> capacity"}}, status=503)
    if not asked["stream"]:
        await asyncio.sleep(ttft)
        usage = {"completion_tokens": asked["max_tokens"]}
        return web.json_response({"choices": [{"text": "a b c"}], "usage": usage})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    if kind == "close":
        response.force_close()
    await response.prepare(request)
    await _stream(request, response, asked["max_tokens"], began)
    return response


async def _stream(request: web.Request, response: web.StreamResponse, count: int, began: float) -> None:
    kind, stamps = request.match_info["kind"], []
    await _send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}, "text": ""}]})
    for number in range(0 if kind == "empty" else count):
        await asyncio.sleep(request.app["tpot"] if number else request.app["ttft"])
        if kind in ("cut", "error") and number == 2:
            if kind == "error":
                await _send(response, {"error": {"message": "slot lost"}})
            request.transport.abort() if kind == "cut" else None
            return
        piece = f'tok"{number} '
        await _send(response, {"choices": [{"delta": {"content": piece}, "text": piece}]})
        stamps.append(time.time())
        if kind == "drip":
            await asyncio.sleep(3600)
    await _send(response, {"choices": [], "usage": {"completion_tokens": len(stamps)}})
    await response.write(b"data: [DONE]\n\n")
    if len(stamps) > 1:
        request.app["times"].append(
            (stamps[0] - began, (stamps[-1] - stamps[0]) / (len(stamps) - 1), time.time() - began)
        )


async def _send(response: web.StreamResponse, event: dict) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


async def truth(request: web.Request) -> web.Response:
    """What was asked, and (TTFT, TPOT, E2E) of each stream that was sent to its end."""
    return web.json_response({"requests": TRUTH, "times": request.app["times"]})


async def main() -> None:
    """Listen on a free port of loopback and print it."""
    app = web.Application()
    app["ttft"], app["tpot"], app["times"] = float(sys.argv[1]), float(sys.argv[2]), []
    app.router.add_get("/truth", truth)
    app.router.add_post("/{kind}/v1/completions", answer)
    app.router.add_post("/{kind}/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
