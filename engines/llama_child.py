"""The process that holds the model: llama.cpp's own HTTP server on a unix socket, for ``llama_server`` in front of it.

It lives as long as the pipe on its standard input: its parent's death, however it came, ends it. While the model
loads, the wheel holds the interpreter lock and no pipe can be watched; there the kernel's parent-death signal stands in.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_CACHE_MIB = 256  # of earlier prompts' keys and values, in memory; llama.cpp's own default is 8 GiB


def die_with_parent(number: int) -> None:
    """Have the kernel send that signal when the parent dies; 0 ends the arrangement. Linux only, else without effect."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def serve(arguments: argparse.Namespace) -> None:
    """Load, say 'ready' on standard output, serve until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name}
    params.hostnames = [arguments.socket]
    params.n_parallel, params.kv_unified = arguments.slots, False
    params.n_ctx = arguments.slots * arguments.context  # llama.cpp divides it by the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.n_threads_http = arguments.slots + 4
    params.cache_ram_mib = _CACHE_MIB
    params.endpoint_metrics, params.endpoint_slots, params.ui = True, False, False
    server = xllamacpp.Server(params)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    die_with_parent(0)
    sys.stdin.buffer.read()
    _end_within(5.0)
    del server


def _end_within(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def main() -> int:
    """Run. 1 when the model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m engines.llama_child")
    for option in ("--model", "--name", "--socket"):
        parser.add_argument(option, required=True)
    for option in ("--slots", "--context", "--threads", "--parent"):
        parser.add_argument(option, required=True, type=int)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches both; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != arguments.parent:
        return 1
    try:
        serve(arguments)
    except RuntimeError as bad:
        print(f"llama.cpp: {bad}", file=sys.stderr, flush=True)
        return 1
    finally:
        shutil.rmtree(Path(arguments.socket).parent, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
