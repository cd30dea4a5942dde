"""Traffic that all judges see alike: simulated, or recorded from a real gateway and drawn again in blocks.

It is all one service's, by day and by night: the same median TTFT, a tenth of the traffic at quiet hours. A run is two
hours of requests, each given to the candidate with probability ``WEIGHT``. Simulated TTFT is log-normal (sigma 0.8) and
its median may drift (AR(1) of minutes, common to both arms); load may swing and burst; errors may be three times as
many in every other quarter of an hour; instances differ by 5 % (standard deviation) where asked. Recorded traffic is
``data/verdict_traffic.csv.gz``: requests as the gateway's access log had them, from a llama.cpp engine behind Envoy on
a machine that did other work as well, so that it has drifts, bursts, errors and queues of its own, its TTFT in units of
the service's median. Blocks of consecutive requests are drawn with replacement (the moving block bootstrap; Kuensch,
Annals of Statistics 1989), so what depends on its neighbours still does.

A regression is put on the candidate's requests: TTFT times 1.25 or 1.5 (its p95, and each other quantile, rises by as
much), or two or three times the errors, the further ones at random. Requests that fail have no TTFT.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import Columns

Floats = NDArray[np.float64]
WEIGHT = 0.1  # the candidate's share, for all judges
HORIZON_MIN = 120
RECORDING = Path(__file__).parent / "data" / "verdict_traffic.csv.gz"
_BLOCK = 50  # requests
_MEDIAN_S, _SIGMA = 0.2, 0.8


@dataclass(frozen=True)
class Case:
    """One kind of run. ``per_minute``: requests of both arms; ``slower``, ``errors``: in times stable's."""

    name: str
    per_minute: float = 600.0
    slower: float = 1.0
    errors: float = 1.0
    error_rate: float = 0.02
    drift: float = 0.0  # standard deviation of the common logarithm of latency, minute by minute
    swing: float = 0.0  # of the load: 0.8 is from 0.2 to 1.8 times the mean, over an hour
    burst: float = 1.0  # times the load, for every tenth minute
    jumps: float = 1.0  # times the errors, for every other quarter of an hour
    instances: float = 0.0  # standard deviation of log speed: 9 instances of stable, 3 of the candidate
    recorded: bool = False


BUSY, QUIET = 600.0, 60.0  # requests a minute of both arms
TRAFFIC = tuple(
    replace(case, name=f"{case.name}, {rate * WEIGHT:g}/min", per_minute=rate)
    for rate in (BUSY, QUIET)
    for case in (
        Case("steady"),
        Case("drift and bursts", drift=0.3, swing=0.8, burst=3.0),
        Case("errors come and go", jumps=3.0),
        Case("instances differ by 5 %", instances=0.05),
        Case("recorded", recorded=True),
    )
)
IDENTICAL = "identical"
REGRESSIONS = {
    "latency x1.25": {"slower": 1.25},
    "latency x1.5": {"slower": 1.5},
    "errors x2": {"errors": 2.0},
    "errors x3": {"errors": 3.0},
}
KINDS = (IDENTICAL, *REGRESSIONS)


def changed(case: Case, kind: str) -> Case:
    """The same traffic with a candidate of that kind."""
    return replace(case, **REGRESSIONS.get(kind, {}))


def draw(case: Case, rng: np.random.Generator, minutes: float = HORIZON_MIN, weight: float = WEIGHT) -> Columns:
    """One run of it."""
    at = _times(case, rng, minutes)
    n = len(at)
    hit = rng.random(n) < weight
    ttft, tokens, bytes_in, failed = _recorded(rng, n) if case.recorded else _simulated(case, rng, at)
    ttft = ttft * np.where(hit, case.slower, 1.0) * _speeds(case, rng, hit)
    rate = np.full(n, float(failed.mean())) if case.recorded else _rates(case, at)
    failed = failed | (hit & (rng.random(n) < (case.errors - 1) * rate))
    return _columns(at, hit, weight, ttft, tokens, bytes_in, failed, rng)


def _times(case: Case, rng: np.random.Generator, minutes: float) -> Floats:
    """Poisson arrivals, the load minute by minute, seconds."""
    minute = np.arange(int(minutes))
    load = case.per_minute * (1 + case.swing * np.sin(2 * np.pi * minute / 60))
    counts = rng.poisson(load * np.where(minute % 10 == 9, case.burst, 1.0))
    return np.sort(60 * (np.repeat(minute, counts) + rng.random(int(counts.sum()))))


def _simulated(case: Case, rng: np.random.Generator, at: Floats) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    n = len(at)
    minute = (at // 60).astype(int)
    steps = rng.normal(0, case.drift * np.sqrt(1 - 0.9**2), int(minute.max()) + 1)
    common = np.empty(len(steps))
    level = rng.normal(0, case.drift)
    for k, step in enumerate(steps):
        level = 0.9 * level + step
        common[k] = level
    ttft = _MEDIAN_S * np.exp(rng.normal(0, _SIGMA, n) + common[minute])
    failed = rng.random(n) < _rates(case, at)
    return ttft, rng.integers(8, 256, n).astype(float), np.full(n, 1000.0), failed


def _rates(case: Case, at: Floats) -> Floats:
    return case.error_rate * np.where((at // 900).astype(int) % 2 == 1, case.jumps, 1.0)


def _recorded(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Blocks of the recording, with the errors that it had."""
    known = recording()
    starts = rng.integers(0, len(known) - _BLOCK + 1, n // _BLOCK + 1)
    rows = known[(starts[:, None] + np.arange(_BLOCK)).ravel()[:n]]
    ttft = np.where(rows[:, 1] > 0, rows[:, 1], np.nan) * _MEDIAN_S / np.median(known[known[:, 1] > 0, 1])
    return ttft, rows[:, 2], rows[:, 3], rows[:, 0] == 0


def _speeds(case: Case, rng: np.random.Generator, hit: NDArray[np.bool_]) -> Floats:
    stable, candidate = rng.normal(0, case.instances, 9), rng.normal(0, case.instances, 3)
    mine = np.where(hit, candidate[rng.integers(0, 3, len(hit))], stable[rng.integers(0, 9, len(hit))])
    return np.asarray(np.exp(mine))


@lru_cache
def recording() -> Floats:
    """Rows of the recording: went well (1 or 0), TTFT in seconds (0: none), tokens out, bytes of the request."""
    with gzip.open(RECORDING, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in ("well", "ttft_s", "tokens_out", "bytes_in")] for row in rows])


def _columns(
    at: Floats,
    hit: NDArray[np.bool_],
    weight: float,
    ttft: Floats,
    tokens: Floats,
    bytes_in: Floats,
    failed: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Columns:
    n, well = len(at), ~failed
    ttft = np.where(well, ttft, np.nan)
    tpot = np.where(well, 0.02 * rng.lognormal(0, 0.3, n), np.nan)
    return Columns(
        at=at,
        candidate=hit,
        weight=np.full(n, weight),
        error=failed.astype(np.int8),
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + tpot * np.maximum(tokens - 1, 0),
        tokens_out=np.where(well, tokens, np.nan),
        bytes_in=bytes_in,
        cached=np.zeros(n, np.int8),
        streamed=np.ones(n, bool),
    )
