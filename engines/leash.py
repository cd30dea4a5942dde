"""``python -I -S leash.py PID CORES COMMAND...``: a command that dies with process PID, with all that it started.

The kernel tells this program of its parent's death (``PR_SET_PDEATHSIG``, prctl(2)), even by SIGKILL; it then ends its
whole process group. It imports nothing of ours, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> int:
    """Exits as the command does; 128 + n where signal n ended it."""
    parent, cores, argv = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    signal.signal(signal.SIGUSR1, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda *_: None)  # the group gets it; the command answers, and is waited for
    signal.signal(signal.SIGINT, lambda *_: None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != parent:  # it died before the kernel was asked
        return 128 + signal.SIGKILL
    child = os.fork()
    if child == 0:
        _become(argv)
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(argv: list[str]) -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as bad:
        print(f"{argv[0]} cannot be run: {bad.strerror}", flush=True)
        os._exit(127)


if __name__ == "__main__":
    sys.exit(main())
