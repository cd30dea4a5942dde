"""Generators for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from rollout.nouns import Outcome, Sample, Verdict
from rollout.policy import OnTimeout, Policy

verdicts = st.sampled_from(Outcome).map(lambda outcome: Verdict(outcome, "as drawn"))

policies = st.builds(
    Policy,
    steps=st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True).map(lambda s: tuple(sorted(s))),
    mirror=st.integers(0, 1000),
    step_timeout_s=st.floats(1, 1000),
    on_timeout=st.sampled_from(OnTimeout),
)


def samples(
    rng, n: int, median_s: float, spread: float = 0.4, failing: float = 0.0, version: int = 1
) -> tuple[Sample, ...]:
    """``n`` requests with log-normal TTFT around ``median_s`` and TPOT a tenth of it."""
    out = []
    for at in range(n):
        ttft = median_s * float(rng.lognormal(0.0, spread))
        tpot = median_s / 10 * float(rng.lognormal(0.0, spread))
        failed = bool(rng.random() < failing)
        out.append(Sample(float(at), version, False, failed, None if failed else ttft, ttft + 15 * tpot, 16))
    return tuple(out)
