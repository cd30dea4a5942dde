"""What this machine has, read in a thread of its own: an NVIDIA driver may take long to answer, or never do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from engines.hardware import Hardware, read_hardware
from rollout.errors import Unavailable

EVERY_S = 2.0
PAUSE_S = 0.2  # between two readings, however often is asked
SILENT_S = 30.0  # after which the last reading says nothing of the GPUs any more
NOT_READ = "the NVIDIA driver has not answered yet"
log = logging.getLogger("roundhouse.agent")


class _Unasked:
    """Stands where the driver's bindings do, to read what can be read without it."""

    NVMLError = ()

    def nvmlInit(self) -> NoReturn:
        raise Unavailable(NOT_READ)


class Machine:
    """``read`` gives the whole, and may block; ``directory`` is the one whose disk is told."""

    def __init__(
        self, read: Callable[[], Hardware], directory: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._host = replace(read_hardware(directory, nvml=_Unasked()), gpu_note=NOT_READ)
        self._seen, self._at, self._asked = self._host, clock(), threading.Event()

    def last(self) -> Hardware:
        """The last reading, at once; the next one begins. ``gpu_note`` is NOT_READ, and there are no GPUs, before the
        first and while the driver hangs."""
        self._asked.set()
        return self._seen if self._clock() - self._at <= SILENT_S else self._host

    def look(self) -> None:
        """Read once; what fails is told and leaves the last reading."""
        try:
            seen = self._read()
        except Exception:
            log.exception("this machine's hardware could not be read")
            return
        self._seen, self._at = seen, self._clock()

    def keep_looking(self) -> None:
        """Look again and again, for a thread of its own."""
        while True:
            self.look()
            time.sleep(PAUSE_S)
            self._asked.wait(EVERY_S)
            self._asked.clear()
