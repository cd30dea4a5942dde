"""One engine instance: ``python -m engines.llama_server --params JSON --name NAME --host HOST --port PORT``.

It listens at once and answers /health with 503 until the model is loaded. SIGTERM or SIGINT: health turns 503, new
requests get 503, open ones are finished for up to ``--drain-s`` seconds, then it exits with 0. Exits with 1 when
llama.cpp dies, 2 when it is called wrongly. A full queue answers 450, as Alibaba's EAS does. The model is in a child
process because loading holds the interpreter lock.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING

from engines.port import OTLP_ENDPOINT, Faults

if TYPE_CHECKING:
    from aiohttp import web

    from engines.llama_front import Front
    from engines.traces import Spans


def arguments_of(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m engines.llama_server", description=__doc__.splitlines()[0])
    parser.add_argument("--params", required=True, help="llama.cpp's CommonParams as JSON: engines.llama_params")
    parser.add_argument("--name", required=True, help="how /v1/models calls it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2, help="requests at work at once")
    parser.add_argument("--cores", default="", help="processors of the process with the model, as 0,1; empty: all")
    parser.add_argument("--max-queue", type=int, default=64, help="requests that may wait; more get 450")
    parser.add_argument("--drain-s", type=float, default=30.0, help="seconds that open requests get after SIGTERM")
    for name, off in vars(Faults()).items():
        parser.add_argument(f"--fault-{name.replace('_', '-')}", type=type(off), default=off, help="deliberate defect")
    return parser.parse_args(words)


def log(line: str) -> None:
    """To standard output, at once."""
    print(f"engine[{os.getpid()}] {line}", flush=True)


async def start_child(arguments: argparse.Namespace) -> Process:
    """The process with the model in it; its log goes where ours goes."""
    options = {"params": arguments.params, "name": arguments.name, "parent": os.getpid(), "cores": arguments.cores}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engines.llama_child", *words, stdin=PIPE, stdout=PIPE, stderr=sys.stdout.fileno()
    )


async def listen(front: Front, host: str, port: int) -> web.AppRunner:
    """Answer on host:port. Raises OSError where the port is taken."""
    from aiohttp import web

    runner = web.AppRunner(front.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=512).start()
    return runner


def open_spans(served_name: str) -> Spans | None:
    """Traces, where a collector is named. What is wrong with them never keeps an engine from serving."""
    if not os.environ.get(OTLP_ENDPOINT):
        return None
    try:
        from engines.traces import Spans

        return Spans(served_name)
    except (ImportError, OSError, ValueError) as bad:
        log(f"WARNING: no traces: {bad}")
        return None


def open_front(arguments: argparse.Namespace, spans: Spans | None) -> Front:
    """What clients will talk to; it says if it was told to misbehave."""
    from engines.faults import FaultyPath, describe
    from engines.llama_front import Front

    faults = Faults(**{name: getattr(arguments, f"fault_{name}") for name in vars(Faults())})
    if describe(faults):
        log(f"WARNING: DELIBERATE FAULTS ARE ON: {describe(faults)}")
    return Front(arguments.slots, arguments.max_queue, FaultyPath(faults, random.Random()), spans)


async def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or the child's death. The exit status.

    The child begins to load before the HTTP library is imported, which takes as long as a small model's load.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    child = await start_child(arguments)
    spans = open_spans(arguments.name)
    front = open_front(arguments, spans)
    try:
        runner = await listen(front, arguments.host, arguments.port)
    except OSError as taken:
        log(f"cannot listen on {arguments.host}:{arguments.port}: {taken}")
        await end(child)
        return 1
    log(f"listening on {arguments.host}:{arguments.port}, loading {arguments.name}")
    status = await supervise(front, child, stop, arguments.drain_s)
    await runner.cleanup()
    await end(child)
    if spans:
        await spans.close()
    log(f"ended with {status}")
    return status


async def supervise(front: Front, child: Process, stop: asyncio.Event, drain_s: float) -> int:
    """Loading, serving, draining. 0 after a signal, 1 when the child died by itself."""
    dead, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
    loaded = asyncio.create_task(child.stdout.readline())
    await asyncio.wait({dead, stopped, loaded}, return_when=asyncio.FIRST_COMPLETED)
    if not stopped.done() and loaded.done() and loaded.result():
        front.open(loaded.result().decode().strip())
        log("ready")
        await asyncio.wait({dead, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not stopped.done():
        log(f"llama.cpp died with status {await dead}")
        return 1
    front.state = "draining"
    log(f"draining {front.open_requests} open requests for up to {drain_s:g} s")
    idle = asyncio.create_task(front.idle.wait())
    await asyncio.wait({dead, idle}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    if front.open_requests:
        log(f"cutting {front.open_requests} requests that are still open")
    return 1 if dead.done() else 0


async def end(child: Process) -> None:
    """Close the pipe that the child lives by; kill it if it does not follow."""
    child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), 3.0)
    except TimeoutError:
        child.kill()
        await child.wait()


def main() -> int:
    """Run as a program."""
    return asyncio.run(run(arguments_of(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())
