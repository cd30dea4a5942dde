"""Means that may be looked at forever: asymptotic confidence sequences of log-latencies and of paired differences.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 2024 (arXiv 2103.06476), for two samples with
t = n_c + n_s and variance t (s_c^2/n_c + s_s^2/n_s), as GrowthBook's sequential t-test has it. It is asymptotic: with
fewer than some 50 samples an arm it says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations (Welford's, merged as Chan's): three numbers for any many samples."""

    n: int = 0
    mean: float = 0.0
    square: float = 0.0

    @property
    def variance(self) -> float:
        """Of a single sample; 0 below two."""
        return self.square / (self.n - 1) if self.n > 1 else 0.0


def with_values(moments: Moments, values: ArrayLike) -> Moments:
    """The moments with more samples."""
    new = np.asarray(values, float)
    if not len(new):
        return moments
    mean = float(new.mean())
    return joined(moments, Moments(len(new), mean, float(((new - mean) ** 2).sum())))


def joined(a: Moments, b: Moments) -> Moments:
    """Moments of both sets together (Chan, Golub and LeVeque 1983)."""
    n = a.n + b.n
    if not a.n or not b.n:
        return a if a.n else b
    gap = b.mean - a.mean
    return Moments(n, a.mean + gap * b.n / n, a.square + b.square + gap * gap * a.n * b.n / n)


def half_width(t: int, variance: float, alpha: float, tuned_to: int = 1000) -> float:
    """Half the width of the two-sided confidence sequence of a mean after ``t`` samples; narrowest at ``tuned_to``."""
    if t < 2:
        return math.inf
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned_to
    k = t * rho2 + 1
    return math.sqrt(variance) * math.sqrt(2 * k / (t * t * rho2) * math.log(math.sqrt(k) / alpha))


def difference(candidate: Moments, stable: Moments, alpha: float, tuned_to: int = 1000) -> tuple[float, float]:
    """Confidence sequence of the candidate's mean minus stable's; infinite below two samples an arm."""
    if candidate.n < 2 or stable.n < 2:
        return -math.inf, math.inf
    t = candidate.n + stable.n
    width = half_width(t, t * (candidate.variance / candidate.n + stable.variance / stable.n), alpha, tuned_to)
    return candidate.mean - stable.mean - width, candidate.mean - stable.mean + width


def stratified(
    pairs: list[tuple[Moments, Moments]], alpha: float, tuned_to: int = 1000, least: int = 5
) -> tuple[float, float, float]:
    """(effect, low, high) of candidate minus stable with strata weighted alike in both arms: by what both have seen.

    A stratum with fewer than ``least`` samples of an arm is left out. So a different mix of prompts is no effect. The
    weights are those of the whole traffic, n_c + n_s, and the variance of the weighted sum takes the place of the plain
    one (post-stratification; Miratrix, Sekhon and Yu, JRSS B 2013).
    """
    used = [(c, s) for c, s in pairs if c.n >= least and s.n >= least]
    if not used:
        return 0.0, -math.inf, math.inf
    t = sum(c.n + s.n for c, s in used)
    shares = [(c.n + s.n) / t for c, s in used]
    effect = sum(w * (c.mean - s.mean) for w, (c, s) in zip(shares, used, strict=True))
    variance = sum(w * w * (c.variance / c.n + s.variance / s.n) for w, (c, s) in zip(shares, used, strict=True))
    width = half_width(t, t * variance, alpha, tuned_to)
    return effect, effect - width, effect + width
