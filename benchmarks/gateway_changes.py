"""How soon a change of ours is in force for requests on open connections, while 1,000 requests/s are answered.

A change is in force with the first answer behind which none comes from the old weights any more; its time runs from
the call of our own API. Answers say who served them in ``x-roundhouse-version``.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gateway_envoys import Asked, Full
from benchmarks.gateway_parts import folder

RATE, CONNECTIONS = 1000, 32
_SETTLE_S = 0.04  # between changes
_STABLE, _CANDIDATE = 1, 2

Seen = list[list[float]]  # sent, received, version, status


@dataclass(frozen=True)
class Change:
    """One call of our API: what it was, when it began and returned, and which version is to answer from then on."""

    kind: str
    begun: float
    returned: float
    version: int


@dataclass(frozen=True)
class Changes:
    """Milliseconds of each change of a kind: until the call returned, the first new answer came, no old one did."""

    calls: dict[str, list[float]]
    first: dict[str, list[float]]
    in_force: dict[str, list[float]]
    add_version: list[float]
    requests_per_s: float
    failed: int
    unsettled: int  # changes not seen in force before the next one; they count with the whole time until then


def measure(full: Full, changes: int, rollbacks: int, versions: int) -> Changes:
    """Move weights between 0 and 1000 permille, roll back by removing the lease, and add versions."""
    full.ask(Asked(0))
    with folder() as at:
        with _watching(full, at / "seen.json") as began:
            made = _weights(full, changes) + _rollbacks(full, rollbacks)
            added = [_add_version(full) for _ in range(versions)]
            took = time.monotonic() - began
        seen: Seen = json.loads((at / "seen.json").read_text())
    failed = sum(status != 200 for *_, status in seen)
    found = Changes({}, {}, {}, added, len(seen) / took, failed, 0)
    return _sorted(found, seen, made)


def _sorted(found: Changes, seen: Seen, made: list[Change]) -> Changes:
    """``found`` with the times of all changes, by their kind."""
    unsettled, ends = 0, [change.begun for change in made[1:]] + [made[-1].returned + _SETTLE_S]
    for change, end in zip(made, ends, strict=True):
        times = effect(seen, change, end)
        unsettled += times is None
        first, in_force = times or (end - change.begun, end - change.begun)
        found.calls.setdefault(change.kind, []).append((change.returned - change.begun) * 1000)
        found.first.setdefault(change.kind, []).append(first * 1000)
        found.in_force.setdefault(change.kind, []).append(in_force * 1000)
    return replace(found, unsettled=unsettled)


def effect(seen: Seen, change: Change, end: float) -> tuple[float, float] | None:
    """Seconds until the first answer from the new version, and until the first behind the last old one."""
    span = [row for row in seen if change.begun <= row[0] < end and row[3] == 200]
    new = [row for row in span if row[2] == change.version]
    last_old = max((row[0] for row in span if row[2] != change.version), default=0.0)
    settled = [row[1] for row in new if row[0] > last_old]
    if not settled:
        return None
    return min(row[1] for row in new) - change.begun, min(settled) - change.begun


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(share * 1000) * len(ranked) // 1000) - 1))]


def figures(found: Changes) -> dict[str, float]:
    """The named numbers, in milliseconds."""
    weights, back = found.in_force["weights"], found.in_force["rollback"]
    return {
        "change_p50_ms": quantile(weights, 0.5),
        "change_p99_ms": quantile(weights, 0.99),
        "rollback_p50_ms": quantile(back, 0.5),
        "rollback_p99_ms": quantile(back, 0.99),
        "add_version_ms": statistics.median(found.add_version),
        "change_call_p50_ms": quantile(found.calls["weights"], 0.5),
        "change_first_p50_ms": quantile(found.first["weights"], 0.5),
        "changes_requests_per_s": found.requests_per_s,
        "changes_failed": float(found.failed),
        "changes_unsettled": float(found.unsettled),
    }


def _weights(full: Full, count: int) -> list[Change]:
    there_and_back = ((1000, _CANDIDATE), (0, _STABLE))
    moves = [there_and_back[n % 2] for n in range(count)]
    return [_change(full, "weights", Asked(permille), version) for permille, version in moves]


def _rollbacks(full: Full, count: int) -> list[Change]:
    made = []
    for _ in range(count):
        made.append(_change(full, "lease begins", Asked(1000), _CANDIDATE))
        made.append(_change(full, "rollback", Asked(None), _STABLE))
    return made


def _change(full: Full, kind: str, asked: Asked, version: int) -> Change:
    time.sleep(_SETTLE_S * random.uniform(0.75, 1.25))
    return Change(kind, *full.ask(asked), version)


def _add_version(full: Full) -> float:
    full.ask(Asked(100, versions=2))
    begun, returned = full.ask(Asked(100, versions=3))
    return (returned - begun) * 1000


@contextlib.contextmanager
def _watching(full: Full, out: Path) -> Iterator[float]:
    """The asking client in a process of its own; yields when it runs."""
    script = Path(__file__).with_name("gateway_watch.py")
    words = [full.served.port, full.served.path, full.served.tokens[0], RATE, CONNECTIONS, out]
    client = subprocess.Popen([sys.executable, str(script), *map(str, words)], stdin=subprocess.PIPE)
    try:
        time.sleep(0.5)
        yield time.monotonic()
    finally:
        client.communicate(timeout=30)
