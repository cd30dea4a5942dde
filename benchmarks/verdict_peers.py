"""The published rules of three tools that judge a canary, written anew from what they document, as pure functions.

Each takes what its tool takes (values of whole windows of time, never requests) and says what the tool would say. They
are as generous as the rules allow: no query fails, no webhook is slow, and every number is there at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

Floats = NDArray[np.float64]


class Says(StrEnum):
    """What a tool says after a look."""

    GO_ON = "go on"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


class Class(StrEnum):
    """What Kayenta says of one metric."""

    PASS = "Pass"
    HIGH = "High"
    LOW = "Low"
    NODATA = "Nodata"


# --- Kayenta, NetflixACAJudge-v1.0 ---------------------------------------------------------------------------------

TOLERANCE = 0.25  # of the estimated shift itself
CONFIDENCE = 0.98


@dataclass(frozen=True)
class Shift:
    """By how much the values of one series lie above another's: interval, Hodges-Lehmann estimate, ratio of means."""

    low: float
    high: float
    estimate: float
    ratio: float


def shift_of(canary: ArrayLike, baseline: ArrayLike) -> Shift:
    """Kayenta's Mann-Whitney test of two series of values, one per minute each.

    Wilcoxon's rank sum with the tie-corrected normal approximation and a continuity correction of 0.5; the 98 %
    interval of the shift is where that statistic crosses the normal quantiles (Bauer, JASA 1972; kayenta's
    MannWhitney.scala finds the same roots with Brent's method).
    """
    x, y = np.asarray(canary, float), np.asarray(baseline, float)
    mean = float(y.mean())
    ratio = float(x.mean()) / mean if mean else math.inf if x.mean() > 0 else 1.0
    steps = np.unique(np.subtract.outer(x, y))
    z = float(ndtri((1 + CONFIDENCE) / 2))
    low, high = _crossing(x, y, steps, z, 0.5), _crossing(x, y, steps, -z, 0.5)
    return Shift(low, high, _crossing(x, y, steps, 0.0, 0.0), ratio)


def _crossing(x: Floats, y: Floats, steps: Floats, level: float, correction: float) -> float:
    """The shift at which the statistic of ``x`` less the shift falls below ``level``: one of the differences."""
    first, last = 0, len(steps) - 1
    while first < last:
        middle = (first + last) // 2
        between = (steps[middle] + steps[middle + 1]) / 2
        first, last = (middle + 1, last) if rank_sum(x - between, y, correction) > level else (first, middle)
    return float(steps[first])


def rank_sum(x: Floats, y: Floats, correction: float = 0.5) -> float:
    """Wilcoxon's statistic in its standard deviations; above the quantile the interval of the shift lies above 0."""
    n, m = len(x), len(y)
    ranks = rankdata(np.concatenate([x, y]))
    excess = float(ranks[:n].sum()) - n * (n + 1) / 2 - n * m / 2
    _, ties = np.unique(ranks, return_counts=True)
    tied = float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - tied))
    return (excess - math.copysign(correction if excess else 0.0, excess)) / sigma if sigma else 0.0


def classified(shift: Shift, allowed_increase: float = 1.0) -> Class:
    """High where the whole interval lies above a quarter of the estimate and the means differ by enough.

    Direction "increase", effect size "mean ratio" with ``allowedIncrease`` (default 1.0: any).
    """
    over = shift.low > TOLERANCE * abs(shift.estimate)
    return Class.HIGH if over and shift.ratio >= allowed_increase else Class.PASS


def kayenta_metric(canary: ArrayLike, baseline: ArrayLike, allowed_increase: float = 1.0) -> Class:
    """The class of one metric; NaN are removed first, without values there is no data, equal series pass."""
    x, y = (v[~np.isnan(v)] for v in (np.asarray(canary, float), np.asarray(baseline, float)))
    if not len(x) or not len(y):
        return Class.NODATA
    if np.array_equal(x, y):
        return Class.PASS
    return classified(shift_of(x, y), allowed_increase)


def kayenta_group(classes: Sequence[Class]) -> float:
    """The share of a group's metrics that pass, 0..100. No data does not fail; a group without any counts as 100."""
    told = [c for c in classes if c is not Class.NODATA]
    return 100.0 * sum(c is Class.PASS for c in told) / len(told) if told else 100.0


def kayenta_score(groups: Sequence[tuple[float, Sequence[Class]]]) -> float:
    """The summary of groups (share of the score, classes): 0 where half of all metrics or more have no data."""
    every = [c for _, classes in groups for c in classes]
    if 2 * sum(c is Class.NODATA for c in every) >= len(every):
        return 0.0
    return sum(share * kayenta_group(classes) for share, classes in groups)


def kayenta_says(score: float, ends: bool, passes: float, marginal: float) -> Says:
    """Fail below ``marginal`` at any judgement; at the end of the lifetime pass from ``passes`` on.

    Scores between the two pause (Argo's mapping), which is neither.
    """
    if score < marginal:
        return Says.ROLL_BACK
    return Says.PROMOTE if ends and score >= passes else Says.GO_ON


# --- Flagger --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flagger:
    """One canary's analysis: ``failed`` checks count for the whole run; ``steps`` = maxWeight / stepWeight."""

    threshold: int = 5
    steps: int = 10
    failed: int = 0
    passed: int = 0

    @property
    def says(self) -> Says:
        """Roll back at the threshold of failed checks, promote after the last step."""
        if self.failed >= self.threshold:
            return Says.ROLL_BACK
        return Says.PROMOTE if self.passed >= self.steps else Says.GO_ON


def flagger_check(analysis: Flagger, good: bool | None) -> Flagger:
    """After one interval (60 s by default). ``good``: all checks in range; None, no values found, counts as failed.

    A failed check leaves the weight where it is, and no later pass takes it back (flagger's scheduler.go).
    """
    if good:
        return Flagger(analysis.threshold, analysis.steps, analysis.failed, analysis.passed + 1)
    return Flagger(analysis.threshold, analysis.steps, analysis.failed + 1, analysis.passed)


def flagger_rolls_back(fails: float, threshold: int = 5, steps: int = 10) -> float:
    """The probability of a rollback where each check fails with probability ``fails``, apart from the others.

    ``threshold`` failures come before ``steps`` passes: a negative binomial distribution.
    """
    return sum(
        math.comb(threshold - 1 + passes, passes) * fails**threshold * (1 - fails) ** passes for passes in range(steps)
    )


def too_many(n: int, rate: float, least_success: float) -> float:
    """The probability that of ``n`` requests, each failing at ``rate``, fewer than ``least_success`` (0..1) succeed."""
    most = math.floor(n * (1 - least_success) + 1e-9)
    return 1.0 - sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(most + 1))


# --- Argo Rollouts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnalysisRun:
    """One metric of an AnalysisRun: measurements so far. ``count`` 0 is endless."""

    failure_limit: int = 0
    count: int = 0
    error_limit: int = 4  # consecutiveErrorLimit
    failed: int = 0
    taken: int = 0
    errors: int = 0  # in a row

    @property
    def says(self) -> Says:
        """Failed overrides error, error overrides the end of the count (argo-rollouts' assessMetricStatus)."""
        if self.failed > self.failure_limit >= 0 or self.errors > self.error_limit:
            return Says.ROLL_BACK
        return Says.PROMOTE if self.count and self.taken >= self.count else Says.GO_ON


def measured(run: AnalysisRun, success: bool | None) -> AnalysisRun:
    """After one measurement: whether ``successCondition`` held; None where the query had no result, an error."""
    errors = run.errors + 1 if success is None else 0
    taken = run.taken + (success is not None)
    return AnalysisRun(run.failure_limit, run.count, run.error_limit, run.failed + (success is False), taken, errors)


def within(canary: float, stable: float, times: float) -> bool | None:
    """The usual condition on two query results: the canary's at most so many times stable's; None without a value."""
    return None if math.isnan(canary) or math.isnan(stable) else bool(canary <= times * stable)
