"""``python -m platforms.pinned 0,1 COMMAND...``: become the command, on these processors alone."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run as a program; the environment and the process id stay."""
    os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
