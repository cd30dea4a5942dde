"""How many requests a second the judge takes in, on one core."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.verdict_traffic import Case, draw
from rollout.evidence import Columns, fresh, with_columns, with_samples
from rollout.judge import judge
from rollout.nouns import Sample, Samples
from rollout.policy import Policy

SAMPLES, PER_LOOK = 200_000, 5000


def speed() -> float:
    """Requests a second that one core takes in and judges, as columns, in looks of ``PER_LOOK``."""
    seen = draw(Case("speed", per_minute=SAMPLES / 120), np.random.default_rng(1))
    policy, evidence = Policy(), fresh(Policy())
    looks = [seen.rows(np.arange(k, min(k + PER_LOOK, len(seen)))) for k in range(0, len(seen), PER_LOOK)]
    began = time.process_time()
    for look in looks:
        evidence = with_columns(evidence, look)
        judge(evidence, policy)
    return len(seen) / (time.process_time() - began)


def speed_of_samples() -> float:
    """The same from ``Sample`` values, converted on the way."""
    seen = draw(Case("speed", per_minute=SAMPLES / 480), np.random.default_rng(1))
    rows = samples_of(seen)
    policy, evidence = Policy(), fresh(Policy())
    began = time.process_time()
    for k in range(0, len(rows), PER_LOOK):
        look = rows[k : k + PER_LOOK]
        stable, candidate = (tuple(s for s in look if s.version == version) for version in (1, 2))
        evidence = with_samples(evidence, Samples(stable, candidate))
        judge(evidence, policy)
    return len(rows) / (time.process_time() - began)


def samples_of(seen: Columns) -> list[Sample]:
    """Columns as the values that the gateway's records become."""
    rows = zip(
        seen.at, seen.candidate, seen.error > 0, seen.ttft, seen.e2e, seen.tokens_out, seen.bytes_in, strict=True
    )
    return [
        Sample(float(at), 1 + hit, False, bool(bad), None if bad else float(ttft), None if bad else float(e2e),
               None if bad else int(tokens), streamed=True, bytes_in=int(size), weight=float(seen.weight[0]))
        for at, hit, bad, ttft, e2e, tokens, size in rows
    ]  # fmt: skip
