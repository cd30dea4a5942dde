"""How fast evidence grows: the expected logarithm of a test's e-value, per request, at a weight of the candidate.

The mean of log E after n requests is n times this, and its variance about twice its mean (as of a log-likelihood ratio
near the hypothesis). So log E is taken for Brownian motion with that drift, and the evidence at which it first reaches
a level L is inverse Gaussian with mean L and shape L^2 / 2 (Wald 1947; Siegmund, Sequential Analysis, 1985).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from rollout.evidence.difference import STAKES as DIFFERENCE_STAKES
from rollout.evidence.events import FACTORS
from rollout.evidence.latency import TAIL_MORE
from rollout.evidence.ranks import STAKES
from rollout.policy import ErrorMargin, Margin
from rollout.traffic_model import Kind

Floats = NDArray[np.float64]
MIXED = 2.0  #: log of what is lost by wagering on several alternatives at once
RARE = 1e-4  #: a rate of which nothing was seen
_AGAINST = -3.0  # the least that evidence so far counts
_TAIL = 0.8  # what a test of slow requests achieves beside one of ranks, for it holds less of the capital
_BEYOND_LATENCY, _BEYOND = 1.1, 4 / 3  # of a margin, that can be told from it
_DOUBLED = 2.0
_FEW = 0.01  # a share of the requests, where the policy names none
SLOWEST = 0.1  #: share of stable's requests that count as slow
GRID = np.linspace(0.0, 60.0, 1201)  #: levels of evidence


def scores(kinds: tuple[Kind, ...], field: str, ratio: float) -> tuple[Floats, Floats]:
    """(scores, likelihoods) of latencies times ``ratio``, each scored by the share of stable's that are faster."""
    parts, shares = [], []
    for kind in kinds:
        values = np.array(getattr(kind, field))
        if len(values):
            at = ratio * values
            parts.append((np.searchsorted(values, at) + np.searchsorted(values, at, side="right")) / (2 * len(values)))
            shares.append(np.full(len(values), kind.share / len(values)))
    if not parts:
        return np.empty(0), np.empty(0)
    weights = np.concatenate(shares)
    return np.concatenate(parts), weights / weights.sum()


def slow_share(kinds: tuple[Kind, ...], field: str, ratio: float) -> float:
    """Share of requests that are slower than stable's slowest tenth when each takes ``ratio`` times as long."""
    got, likely = scores(kinds, field, ratio)
    return float(likely[got > 1 - SLOWEST].sum())


def slower_growth(kinds: tuple[Kind, ...], field: str, ratio: float, harm: float, weight: float) -> float:
    """Of "slower than ``harm`` times" when it is ``ratio`` times: of ranks or slow requests, what finds it sooner."""
    of = (kinds, field, ratio, harm, weight)
    return max(rank_growth(*of), _TAIL * tail_growth(*of))


def faster_growth(kinds: tuple[Kind, ...], field: str, allow: float, weight: float) -> float:
    """Of "less than ``allow`` times as slow" when it is as fast: both ranks and the slowest requests have to say so."""
    of = (kinds, field, 1.0, allow, weight)
    more = difference_growth(SLOWEST, slow_share(kinds, field, 1.0 / allow), TAIL_MORE, weight)
    return min(rank_growth(*of), max(tail_growth(*of), more))


def fewer_growth(rate: float, harm_ratio: float, allow: float, weight: float) -> float:
    """Of "not as many more events as ``harm_ratio`` times, or as ``allow`` more" when there are as many."""
    return max(difference_growth(rate, rate, allow, weight), event_growth(rate, 1.0, harm_ratio, weight))


def tail_growth(kinds: tuple[Kind, ...], field: str, ratio: float, margin: float, weight: float) -> float:
    """Of "more (fewer) of the candidate's requests, at ``margin``, are as slow as stable's slowest tenth"."""
    slow = slow_share(kinds, field, ratio / margin) / SLOWEST
    return event_growth(SLOWEST, slow, 1.0, weight)


def rank_growth(kinds: tuple[Kind, ...], field: str, ratio: float, margin: float, weight: float) -> float:
    """Of "the candidate is slower (faster) than ``margin`` times", when it is ``ratio`` times as slow: the ranks'."""
    candidate, likely = scores(kinds, field, ratio / margin)
    stable, _ = scores(kinds, field, 1.0)
    if not len(stable):
        return 0.0
    centre = float(likely @ (weight * candidate + (1 - weight) * stable))
    k = np.array(STAKES)[:, None] * (1.0 if ratio > margin else -1.0)
    mine = np.log1p(k * (candidate - centre) * (1 - weight)) @ likely
    theirs = np.log1p(-k * (stable - centre) * weight) @ likely
    return max(float((weight * mine + (1 - weight) * theirs).max()), 0.0)


def event_growth(rate: float, ratio: float, bound: float, weight: float) -> float:
    """Of "the ratio of rates is above (below) ``bound``" when it is ``ratio``: the best wager of ``RatioTest``'s.

    Per request: events per request times the mean logarithm of the likelihood ratio.
    """
    if rate <= 0 or ratio == bound:
        return 0.0
    bets = np.array([bound * f if ratio > bound else bound / f for f in FACTORS])
    hit = _hit(ratio, weight)
    told, least = _hit(bets, weight), _hit(bound, weight)
    gain = hit * np.log(told / least) + (1 - hit) * np.log((1 - told) / (1 - least))
    return max(float(rate * (1 - weight + weight * ratio) * gain.max()), 0.0)


def _hit(ratio: float | Floats, weight: float) -> float | Floats:
    return weight * ratio / (1 - weight + weight * ratio)


def difference_growth(stable: float, candidate: float, allow: float, weight: float) -> float:
    """Of "the candidate's rate is less than ``allow`` above stable's": the best wager of ``difference``'s."""
    k = DIFFERENCE_STAKES / max(1 - weight * allow, 1.0)
    hits, misses = weight * candidate, (1 - weight) * stable
    gain = hits * np.log1p(-k * (1 - weight * allow)) + misses * np.log1p(k * weight * (1 / (1 - weight) + allow))
    return max(float((gain + (1 - hits - misses) * np.log1p(k * weight * allow)).max()), 0.0)


def slower_by(margin: Margin) -> float:
    """The least ratio of latencies that is harm: no longer allowed, and so far above ``harm`` that it can be found."""
    return max(margin.allow, _BEYOND_LATENCY * margin.harm)


def harmful_rate(stable: float, margin: ErrorMargin) -> float:
    """The least rate of events that is harm beside stable's: no longer allowed, and one that can be found."""
    return max(stable + (margin.allow or _FEW), stable * max(_DOUBLED, _BEYOND * margin.harm_ratio))


def evidence_for(e_value: float) -> float:
    """What the best wager has to gain, as a logarithm, for the e-value of all to come from 1 to ``e_value``.

    Below 1 a fresh stake soon counts for more than what was lost.
    """
    return math.log1p((e_value - 1) * math.exp(MIXED)) if e_value > 1 else max(math.log(max(e_value, 1e-9)), _AGAINST)


def not_found(level: float) -> Floats:
    """On ``GRID``: the probability that so much expected evidence has not yet reached ``level`` (log 1/alpha)."""
    x = np.maximum(GRID, 1e-12)
    a = (x - level) / np.sqrt(2 * x)
    b = (x + level) / np.sqrt(2 * x)
    tail = 0.5 * erfcx(b / math.sqrt(2)) * np.exp(level - b * b / 2)  # exp(level) Phi(-b), without overflow
    return np.asarray(np.clip(1 - ndtr(a) - tail, 0.0, 1.0))
