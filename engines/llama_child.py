"""The process that holds the model: llama.cpp's own HTTP server on a free loopback port, behind ``llama_front``.

It lives as long as the pipe on its standard input: its parent's death, however it came, ends it. While the model
loads, the wheel holds the interpreter lock and no pipe can be watched: there the kernel's parent-death signal helps.
A port and not a unix socket, so that a killed instance leaves no file.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
_CACHE_MIB = 256  # of earlier prompts' keys and values, in memory; llama.cpp's own default is 8 GiB


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Linux only; elsewhere the pipe alone does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def serve(arguments: argparse.Namespace) -> None:
    """Load, print the address, serve until standard input ends. Raises RuntimeError when the model cannot be loaded."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.kv_unified = arguments.slots, False
    params.n_ctx = arguments.slots * arguments.context  # llama.cpp divides it by the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.n_threads_http = arguments.slots + 4
    params.cache_ram_mib = _CACHE_MIB
    params.endpoint_metrics, params.endpoint_slots, params.ui = True, False, False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # nothing is left to finish: the parent drains before it lets go


def main() -> int:
    """Run. 1 when the model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m engines.llama_child")
    for option in ("--model", "--name"):
        parser.add_argument(option, required=True)
    for option in ("--slots", "--context", "--threads", "--parent"):
        parser.add_argument(option, required=True, type=int)
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C reaches both processes; the parent decides
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    if os.getppid() != arguments.parent:
        return 1
    try:
        serve(arguments)
    except RuntimeError as bad:
        print(f"llama.cpp: {bad}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
