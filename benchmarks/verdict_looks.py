"""How each judge looks at a run: ours at requests every few seconds, the peers at windows of minutes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from benchmarks.verdict_traffic import HORIZON_MIN, TRAFFIC, Floats, draw
from rollout.evidence import Columns, fresh, with_columns
from rollout.judge import judge
from rollout.nouns import Outcome
from rollout.policy import Policy

LOOK_S, LEAST_NEW = 10.0, 40  # we look so often, where so many requests came since
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LATENCIES = (*QUANTILES, "mean")
ERRORS = "errors"


@dataclass(frozen=True)
class Told:
    """Our decision: when, and after how many of the candidate's requests."""

    outcome: Outcome
    minutes: float
    requests: int


class Looks:
    """One run, and what queries of it return: NaN where a window has no requests."""

    def __init__(self, seen: Columns) -> None:
        self.seen = seen
        self._arms = [_Arm(seen, arm) for arm in (False, True)]

    def series(self, candidate: bool, metric: str, window: int) -> Floats:
        """A value for each ``window`` minutes of the run."""
        return self._arms[candidate].values(window)[metric]

    def requests_until(self) -> Floats:
        """How many the candidate answered until each minute, 0 to the end."""
        return np.searchsorted(self._arms[1].minutes, np.arange(HORIZON_MIN + 1))


class _Arm:
    def __init__(self, seen: Columns, candidate: bool) -> None:
        mine = seen.candidate == candidate
        self.minutes, self._bad, self._ttft = seen.at[mine] / 60, (seen.error > 0)[mine], seen.ttft[mine]
        self.values = lru_cache(maxsize=None)(self._values)

    def _values(self, window: int) -> dict[str, Floats]:
        edges = np.searchsorted(self.minutes, np.arange(0, HORIZON_MIN + 1, window))
        pairs = list(pairwise(edges))
        bad = np.array([self._bad[a:b].mean() if b > a else np.nan for a, b in pairs])
        rows = np.array([_latencies(self._ttft[a:b]) for a, b in pairs])
        return {ERRORS: bad, **dict(zip(LATENCIES, rows.T, strict=True))}


def _latencies(x: Floats) -> Floats:
    x = x[~np.isnan(x)]
    if not len(x):
        return np.full(len(LATENCIES), np.nan)
    return np.append(np.quantile(x, list(QUANTILES.values())), x.mean())


@lru_cache
def objective(metric: str) -> float:
    """The mixed traffic's stable value, of which absolute limits are so many times: known once, for all traffic."""
    mixed = [draw(case, np.random.default_rng((7, n, k))) for k, case in enumerate(TRAFFIC) for n in range(4)]
    stable = [each.rows(np.flatnonzero(~each.candidate)) for each in mixed]
    if metric == ERRORS:
        return float(np.concatenate([s.error > 0 for s in stable]).mean())
    return float(_latencies(np.concatenate([s.ttft for s in stable]))[LATENCIES.index(metric)])


def ours(looks: Looks, policy: Policy) -> Told:
    """The verdict on all metrics of the policy at once; undecided at the end of the run."""
    evidence, first, outcome = fresh(policy), 0, Outcome.UNDECIDED
    ends = np.arange(LOOK_S, HORIZON_MIN * 60 + LOOK_S, LOOK_S)
    for end, last in zip(ends, np.searchsorted(looks.seen.at, ends), strict=True):
        if last - first < LEAST_NEW and end < ends[-1]:
            continue
        evidence = with_columns(evidence, looks.seen.rows(np.arange(first, last)))
        first, outcome = last, judge(evidence, policy).outcome
        if outcome is not Outcome.UNDECIDED:
            break
    return Told(outcome, float(end) / 60, int(looks.seen.candidate[:last].sum()))
