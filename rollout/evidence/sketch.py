"""A latency's distribution in bounded memory: counts in buckets of 1 % width (DDSketch, Masson et al., VLDB 2019).

Bucket k holds (gamma^(k-1), gamma^k] with gamma = 1.01, so that a quantile is known to within 1 % of itself, whatever
the number of samples. From 10 microseconds to an hour that is fewer than 2,000 counters, most of them zero.

``quantile_interval`` is a confidence sequence for one quantile by the beta-binomial mixture (Howard and Ramdas,
Bernoulli 2022, arXiv 1906.09712): the number of samples below the true quantile is a sum of Bernoulli(p) outcomes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

_GAMMA = 1.01
_LOG = math.log(_GAMMA)
_SHORTEST, _LONGEST = 1e-5, 3600.0  # seconds; what lies outside is counted at the end


@dataclass(frozen=True)
class Sketch:
    """Counts by bucket."""

    counts: dict[int, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Samples so far."""
        return sum(self.counts.values())

    def quantile(self, p: float) -> float | None:
        """The value below which the share ``p`` of the samples lies, seconds; None without samples."""
        return self.at_rank(math.ceil(p * self.n)) if self.n else None

    def at_rank(self, rank: int) -> float:
        """Upper end of the bucket that holds the sample of that rank (1 is the smallest)."""
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return _GAMMA**bucket
        return math.inf


def with_values(sketch: Sketch, seconds: ArrayLike) -> Sketch:
    """The sketch with more samples."""
    values = np.clip(np.asarray(seconds, float), _SHORTEST, _LONGEST)
    if not len(values):
        return sketch
    buckets, counts = np.unique(np.ceil(np.log(values) / _LOG).astype(int), return_counts=True)
    added = dict(zip(buckets.tolist(), counts.tolist(), strict=True))
    return Sketch(dict(Counter(sketch.counts) + Counter(added)))


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """One sketch of all."""
    total: Counter[int] = Counter()
    for sketch in sketches:
        total.update(sketch.counts)
    return Sketch(dict(total))


def quantile_interval(sketch: Sketch, p: float, alpha: float, tuned_to: int = 1000) -> tuple[float, float]:
    """Confidence sequence of the ``p`` quantile at level 1 - ``alpha``, seconds; infinite where samples are too few.

    ``tuned_to``: the number of samples at which it is narrowest.
    """
    n = sketch.n
    if not n:
        return 0.0, math.inf
    low = math.floor(n * p - n * rank_radius(n, 1 - p, alpha / 2, tuned_to))
    high = math.ceil(n * p + n * rank_radius(n, p, alpha / 2, tuned_to)) + 1
    lower = sketch.at_rank(low) / _GAMMA if low >= 1 else 0.0
    return lower, sketch.at_rank(high) if high <= n else math.inf


def rank_radius(n: int, g: float, alpha: float, tuned_to: int) -> float:
    """How far above its mean the share of n outcomes may ever lie, one-sided, at level ``alpha``: u(v)/n.

    Centred Bernoulli outcomes lie in [-g, 1 - g]; Howard et al., arXiv 1810.08240, two-sided beta-binomial mixture.
    """
    from scipy.optimize import brentq

    h = 1 - g
    v, rho = g * h * n, _rho(g * h * tuned_to, alpha) - g * h
    r = max(rho, 1e-3 * g * h)

    def excess(s: float) -> float:
        return _log_mixture(s, v, g, h, r) + math.log(alpha)

    top = n * h * (1 - 1e-12)
    return float(brentq(excess, 0.0, top)) / n if excess(top) > 0 else h


def _rho(v_opt: float, alpha: float) -> float:
    return v_opt / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))


def _log_mixture(s: float, v: float, g: float, h: float, r: float) -> float:
    a, b = (r + v - g * s) / (g * (g + h)), (r + v + h * s) / (h * (g + h))
    return float(
        v / (g * h) * math.log(g + h)
        - (v + h * s) / (h * (g + h)) * math.log(g)
        - (v - g * s) / (g * (g + h)) * math.log(h)
        + betaln(a, b)
        - betaln(r / (g * (g + h)), r / (h * (g + h)))
    )
