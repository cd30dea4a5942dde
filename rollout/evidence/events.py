"""Counted events (errors, requests above a limit) on two arms that share traffic by known weights.

Given randomised routing with the candidate's weight w, an event is the candidate's with probability

    q(r) = w r / (1 - w + w r),    r = the candidate's event rate / stable's.

That holds while weights change, load drifts and the rates of both arms change together (Lindon and Malek, NeurIPS 2022,
arXiv 2011.03567). Against "the ratio is at most r0", the likelihood ratio of any r > r0 to r0 is a non-negative
supermartingale for every true ratio <= r0, because q grows with r; so is what wagers on several r hold together. The
r < r0 are the mirror image, against "the ratio is at least r0". A mixture over a ladder of ratios against each of them
gives a confidence sequence of the ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.evidence.wagers import Floats, Wagers, after, after_all

FACTORS = (1.08, 1.25, 1.6, 2.5, 6.0, 25.0)  # of a bound, that are wagered on
_LADDER = tuple(float(x) for x in np.exp(np.linspace(-math.log(30), math.log(30), 81)))  # of the interval


@dataclass(frozen=True)
class RatioTest:
    """Whether a ratio of event rates is above ``harm``, below ``allow``, and where it lies.

    The state is some sixty numbers whatever the number of events: saved whole, it goes on exactly. ``low`` and
    ``high`` are the narrowest interval so far. A bound of 0 is not tested.
    """

    harm: float
    allow: float
    alpha: float = 0.05  # of the interval
    worse: Wagers = Wagers()  # against "at most harm"
    better: Wagers = Wagers()  # against "at least allow"
    ladder: tuple[float, ...] = ()
    low: float = 0.0
    high: float = math.inf
    candidate: int = 0  # events
    stable: int = 0

    @property
    def harm_peak(self) -> float:
        """The largest logarithm of the e-value against "the ratio is at most ``harm``"."""
        return self.worse.peak

    @property
    def allow_peak(self) -> float:
        """The largest logarithm of the e-value against "the ratio is at least ``allow``"."""
        return self.better.peak

    def harmful(self, alpha: float) -> bool:
        """Whether it is proven at level ``alpha`` that the ratio is above ``harm``."""
        return self.worse.reached(alpha)

    def allowed(self, alpha: float) -> bool:
        """Whether it is proven at level ``alpha`` that the ratio is below ``allow``."""
        return self.better.reached(alpha)


def with_events(
    test: RatioTest, candidate: ArrayLike, weight: ArrayLike, interval: bool = True, ordered: bool = True
) -> RatioTest:
    """The test with more events in their order: which were the candidate's (booleans), and the weight in force at each.

    An event at a weight of 0 or 1 says nothing of a ratio and is left out. Without ``interval`` the ladder rests. Where
    they are not ``ordered``, only the end counts.

    >>> seen = with_events(RatioTest(1.0, 2.0), [True] * 20, [0.5] * 20)
    >>> seen.harmful(0.001), seen.allowed(0.5), round(seen.low, 2)
    (True, False, 3.32)
    """
    hit, w = np.asarray(candidate, bool), np.asarray(weight, float)
    telling = (w > 0.0) & (w < 1.0)
    hit, w = hit[telling], w[telling]
    if not len(hit):
        return test
    seen = replace(test, candidate=test.candidate + int(hit.sum()), stable=test.stable + int((~hit).sum()))
    if test.harm:
        bets = [test.harm * f for f in FACTORS]
        seen = replace(seen, worse=_wagered(test.worse, _steps(np.array([test.harm, *bets]), hit, w), ordered))
    if test.allow:
        bets = [test.allow / f for f in FACTORS]
        seen = replace(seen, better=_wagered(test.better, _steps(np.array([test.allow, *bets]), hit, w), ordered))
    return _with_interval(seen, hit, w) if interval else seen


def _wagered(wagers: Wagers, steps: Floats, ordered: bool) -> Wagers:
    return after(wagers, steps) if ordered else after_all(wagers, steps.sum(axis=1))


def _steps(ratios: Floats, hit: NDArray[np.bool_], w: Floats) -> Floats:
    """Logarithms of the likelihood ratios of all but the first of ``ratios`` to the first."""
    weights, which = np.unique(w, return_inverse=True)
    q = weights * ratios[:, None] / (1 - weights + weights * ratios[:, None])
    hits, misses = np.log(q), np.log1p(-q)
    return np.where(hit, (hits[1:] - hits[0])[:, which], (misses[1:] - misses[0])[:, which])


def _with_interval(test: RatioTest, hit: NDArray[np.bool_], w: Floats) -> RatioTest:
    weights, which = np.unique(w, return_inverse=True)
    hits, misses = np.bincount(which, hit, len(weights)), np.bincount(which, ~hit, len(weights))
    ratios = np.array(_LADDER)
    q = weights * ratios[:, None] / (1 - weights + weights * ratios[:, None])
    before = np.array(test.ladder) if test.ladder else np.zeros(len(ratios))
    ladder = before + np.log(q) @ hits + np.log1p(-q) @ misses
    low, high = _narrowest(ladder, test.alpha)
    narrower = {"low": max(test.low, low), "high": min(test.high, high)}
    return replace(test, ladder=tuple(ladder.tolist()), **narrower)


def _narrowest(ladder: Floats, alpha: float) -> tuple[float, float]:
    """Ends of the ratios that are not refuted now; one rung is left on each side, for what lies between."""
    top = ladder.max()
    mixture = top + math.log(np.exp(ladder - top).mean())
    inside = np.flatnonzero(mixture - ladder < -math.log(alpha))
    low = 0.0 if inside[0] == 0 else _LADDER[inside[0] - 1]
    high = math.inf if inside[-1] == len(_LADDER) - 1 else _LADDER[inside[-1] + 1]
    return low, high
