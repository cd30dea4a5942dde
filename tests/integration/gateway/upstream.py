"""A tiny OpenAI-like server that real Envoy talks to: ``python upstream.py NAME PORT [HOST...]``.

Paths choose how it behaves. An answer may wait at a gate: a name that a request gives, which stays shut until the test
opens it, once for each event of a stream.

It says ``ready`` on its standard output and takes its port when a line arrives on its standard input, so that a test
can replace a killed one within a moment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable

from aiohttp import web

NAME = sys.argv[1]
SEEN = {"requests": 0, "mirrored": 0, "failed": 0}
ARRIVED: dict[str, dict] = {}  # requests that bear an x-probe header, by it
OPENED: Counter[str] = Counter()  # how often, by the gate's name
MOVED = asyncio.Condition()


async def passed(gate: str | None, events: int = 0) -> None:
    """Wait until a gate, where one is given, was opened more often than ``events``."""
    if gate:
        async with MOVED:
            await MOVED.wait_for(lambda: OPENED[gate] > events)


async def opened(request: web.Request) -> web.Response:
    """Open a gate so many times."""
    async with MOVED:
        OPENED[request.query["gate"]] += int(request.query["times"])
        MOVED.notify_all()
    return web.Response()


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
    """A completion of ``n`` tokens, ``gap`` seconds apart, streamed where asked, event by event through a ``gate``."""
    ask = await request.json()
    SEEN["requests"] += 1
    n, gap = ask.get("n", 3), ask.get("gap", 0.0)
    if not ask.get("stream"):
        return web.json_response({"name": NAME, "usage": {"prompt_tokens": 5, "completion_tokens": n}})
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for i in range(n):
        await asyncio.sleep(gap)
        await passed(ask.get("gate"), i)
        last = {"timings": {"prompt_n": 4, "predicted_n": n}} if i == n - 1 else {}
        await answer.write(f"data: {json.dumps({'name': NAME, 'token': i, **last})}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def chat(request: web.Request) -> web.StreamResponse:
    """A chat completion as OpenAI's API has it, after ``gap`` seconds or behind a ``gate``, streamed where asked."""
    ask = await request.json()
    await asyncio.sleep(ask.get("gap", 0.0))
    await passed(ask.get("gate"))
    head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": ask["model"]}
    words = ["It", " is", f" {NAME}"]
    if not ask.get("stream"):
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for word in words:
        choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
        event = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def socket(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that says who answers, and then what it hears."""
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    await answer.send_str(NAME)
    async for message in answer:
        await answer.send_str(message.data)
    return answer


async def seen(request: web.Request) -> web.Response:
    """What arrived of the requests with these names, or of all that have one."""
    asked = request.query.getall("probe", list(ARRIVED))
    return web.json_response({probe: ARRIVED[probe] for probe in asked if probe in ARRIVED})


@web.middleware
async def note(request: web.Request, handler: Callable) -> web.StreamResponse:
    """Keep what arrived of a request with a name."""
    if "x-probe" in request.headers:
        body, headers = await request.read(), {key.lower(): value for key, value in request.headers.items()}
        ARRIVED[headers["x-probe"]] = {"headers": headers, "bytes": len(body), "path": request.path_qs}
    return await handler(request)


async def slow(request: web.Request) -> web.Response:
    """Silence for ``s`` seconds, or until the ``gate`` is open, before the answer's head."""
    await asyncio.sleep(float(request.query.get("s", 0)))
    await passed(request.query.get("gate"))
    return web.json_response({"name": NAME})


async def flaky(request: web.Request) -> web.Response:
    """Fails twice, then tells how often it failed."""
    SEEN["failed"] += 1
    return web.json_response({"failed": SEEN["failed"] - 1}, status=500 if SEEN["failed"] <= 2 else 200)


async def large(request: web.Request) -> web.Response:
    """A JSON answer of ``n`` bytes and a little."""
    return web.json_response({"name": NAME, "filler": "x" * int(request.query["n"])})


app = web.Application(client_max_size=64 << 20, middlewares=[note])
app.router.add_get("/health", health)
app.router.add_post("/v1/completions", completions)
app.router.add_post("/v1/chat/completions", chat)
app.router.add_get("/socket", socket)
app.router.add_get("/seen", seen)
app.router.add_post("/opened", opened)
app.router.add_post("/flaky", flaky)
app.router.add_get("/slow", slow)
app.router.add_get("/large", large)
app.router.add_route("*", "/{path:.*}", echo)

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    hosts = sys.argv[3:] or ["127.0.0.1"]
    web.run_app(app, host=hosts, port=int(sys.argv[2]), print=None, shutdown_timeout=0.1, access_log=None)
