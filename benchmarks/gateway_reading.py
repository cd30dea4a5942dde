"""How fast the judge reads records: real lines of this run, repeated to a log of a million, on one core."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.gateway_envoys import SERVICE
from benchmarks.gateway_parts import folder
from gateway.port import Cursor
from gateway.records import read_records
from gateway.samples import Arms, samples_of

LINES = 1_000_000
_MOST = 20_000  # real lines taken


def measure(records: Path, lines: int = LINES) -> float:
    """Records per second from a file to the judge's samples. ``records`` is the log that the load left behind."""
    with records.open("rb") as f:
        real = [line for line, _ in zip(f, range(_MOST), strict=False)]
    with folder() as at:
        log = at / records.name
        with log.open("wb") as f:
            for _ in range(lines // len(real)):
                f.writelines(real)
        return _read(log, lines // len(real) * len(real))


def _read(log: Path, lines: int) -> float:
    arms = Arms(SERVICE, stable=1, candidate=2, mirrored=False, since=0.0)
    begun = time.perf_counter()
    cursor, count, samples = Cursor(), 0, 0
    while True:
        found, cursor = read_records(log, cursor)
        if not found:
            break
        count += len(found)
        judged = samples_of(found, arms)
        samples += len(judged.stable) + len(judged.candidate)
    took = time.perf_counter() - begun
    if count != lines or not samples:
        raise RuntimeError(f"{count} of {lines} lines read, {samples} samples")
    return count / took
