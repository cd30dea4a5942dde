"""A tiny OpenAI-like server that real Envoy talks to: ``python upstream.py NAME PORT``. Paths choose how it behaves.

It takes its port when a line arrives on its standard input, so that a test can replace a killed one within a moment.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

NAME = sys.argv[1]
SEEN = {"requests": 0, "mirrored": 0}


async def health(request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def echo(request: web.Request) -> web.Response:
    """What arrived, and who answers."""
    body = await request.read()
    SEEN["requests"] += 1
    headers = {key.lower(): value for key, value in request.headers.items()}
    seen = {"name": NAME, "path": request.path_qs, "headers": headers, "bytes": len(body), "seen": SEEN}
    return web.json_response(seen)


async def completions(request: web.Request) -> web.StreamResponse:
    """A completion of ``n`` tokens, ``gap`` seconds apart, streamed where asked."""
    ask = await request.json()
    SEEN["requests"] += 1
    n, gap = ask.get("n", 3), ask.get("gap", 0.0)
    if not ask.get("stream"):
        return web.json_response({"name": NAME, "usage": {"prompt_tokens": 5, "completion_tokens": n}})
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for i in range(n):
        await asyncio.sleep(gap)
        last = {"timings": {"prompt_n": 4, "predicted_n": n}} if i == n - 1 else {}
        await answer.write(f"data: {json.dumps({'name': NAME, 'token': i, **last})}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def slow(request: web.Request) -> web.Response:
    """Silence for ``s`` seconds before the answer's head."""
    await asyncio.sleep(float(request.query["s"]))
    return web.json_response({"name": NAME})


async def large(request: web.Request) -> web.Response:
    """A JSON answer of ``n`` bytes and a little."""
    return web.json_response({"name": NAME, "filler": "x" * int(request.query["n"])})


app = web.Application(client_max_size=64 << 20)
app.router.add_get("/health", health)
app.router.add_post("/v1/completions", completions)
app.router.add_get("/slow", slow)
app.router.add_get("/large", large)
app.router.add_route("*", "/{path:.*}", echo)

if __name__ == "__main__":
    sys.stdin.readline()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, shutdown_timeout=0.1, access_log=None)
