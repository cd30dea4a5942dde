"""The process that holds the model: llama.cpp's own HTTP server on a free loopback port, behind ``llama_front``.

It lives as long as the pipe on its standard input: its parent's death, however it came, ends it. While the model
loads, the wheel holds the interpreter lock and no pipe can be watched: there the kernel's parent-death signal helps.
A port and not a unix socket, so that a killed instance leaves no file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys

from engines.llama_params import apply

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Linux only; elsewhere the pipe alone does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def pin(cores: str) -> None:
    """Keep this process, and the threads it will have, on these processors ("0,3"); empty: where it is.

    llama.cpp's threads wait for each other by spinning, so two instances on the same processors slow each other by far
    more than half. The front stays free: it works in between, and a token must not wait for a computing core.
    """
    if not cores:
        return
    try:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    except (OSError, ValueError) as bad:  # slower, but right: never a reason not to serve
        print(f"WARNING: not kept on processors {cores}: {bad}", file=sys.stderr, flush=True)


def serve(arguments: argparse.Namespace) -> None:
    """Load, print the address, serve until standard input ends. Raises RuntimeError when the model cannot be loaded."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    kinds = {device["type"].name for device in xllamacpp.get_device_info()}
    params.fit_params = any(kind.endswith("GPU") for kind in kinds)  # a trial load, to see what fits into a GPU
    apply(json.loads(arguments.params), params)
    params.model_alias = {arguments.name}
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # nothing is left to finish: the parent drains before it lets go


def main() -> int:
    """Run. 1 when the model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m engines.llama_child")
    parser.add_argument("--params", required=True, help="CommonParams as JSON, see engines.llama_params")
    parser.add_argument("--name", required=True)
    parser.add_argument("--cores", default="")
    parser.add_argument("--parent", required=True, type=int)
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C reaches both processes; the parent decides
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    if os.getppid() != arguments.parent:
        return 1
    pin(arguments.cores)
    try:
        serve(arguments)
    except RuntimeError as bad:
        print(f"llama.cpp: {bad}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
