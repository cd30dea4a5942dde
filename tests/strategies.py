"""Generators for property tests, and requests made by the thousand."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from rollout.evidence import Columns
from rollout.nouns import Outcome, Sample, Verdict
from rollout.policy import OnTimeout, Policy

verdicts = st.sampled_from(Outcome).map(lambda outcome: Verdict(outcome, "as drawn"))

policies = st.builds(
    Policy,
    steps=st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True).map(lambda s: tuple(sorted(s))),
    mirror=st.integers(0, 1000),
    step_timeout_s=st.floats(1, 1000),
    on_timeout=st.sampled_from(OnTimeout),
    on_idle=st.sampled_from(OnTimeout),
    idle_s=st.floats(3, 1000),
)


def samples(
    rng, n: int, median_s: float, spread: float = 0.4, failing: float = 0.0, version: int = 1, weight: float = 0.5
) -> tuple[Sample, ...]:
    """``n`` requests with log-normal TTFT around ``median_s`` and TPOT a tenth of it."""
    out = []
    for at in range(n):
        ttft = median_s * float(rng.lognormal(0.0, spread))
        tpot = median_s / 10 * float(rng.lognormal(0.0, spread))
        failed = bool(rng.random() < failing)
        sample = Sample(float(at), version, False, failed, None if failed else ttft, ttft + 15 * tpot, 16)
        out.append(sample._replace(weight=weight, error="5xx" if failed else "", bytes_in=300))
    return tuple(out)


def requests(
    rng: np.random.Generator,
    n: int,
    weight: float,
    slower: float = 1.0,
    failing: float = 0.0,
    more: float = 1.0,
    since: float = 0.0,
    bytes_in: tuple[float, ...] = (300.0,),
) -> Columns:
    """``n`` requests in a second, split by ``weight``: the candidate's latencies times ``slower``, errors ``more``."""
    hit = rng.random(n) < weight
    factor = np.where(hit, slower, 1.0)
    error = (rng.random(n) < failing * np.where(hit, more, 1.0)).astype(np.int8)
    well = np.where(error > 0, np.nan, 1.0)
    ttft, tpot = 0.2 * rng.lognormal(0, 0.8, n) * factor * well, 0.02 * rng.lognormal(0, 0.3, n) * factor * well
    tokens = rng.integers(5, 200, n).astype(float) * well
    return Columns(
        at=since + np.sort(rng.random(n)),
        candidate=hit,
        weight=np.full(n, weight),
        error=error,
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + tpot * tokens,
        tokens_out=tokens,
        bytes_in=rng.choice(bytes_in, n),
        cached=np.zeros(n, np.int8),
        streamed=np.ones(n, bool),
    )
