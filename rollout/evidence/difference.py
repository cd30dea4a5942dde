"""By how much do two rates of events differ? Exact for any rates that change over time, under known weights.

With the candidate's weight w in force, x = 1 for a request with an event, and

    Z = x / w  for a request of the candidate,   -x / (1 - w)  for one of stable

the mean of Z is the difference of the rates at that moment. Against "it is at least d" a wager k w multiplies its
capital by 1 - k w (Z - d), whose mean is at most 1 (testing by betting, arXiv 2010.09686). The capital depends on
counts by weight alone, so the counts are the state, and every d can be asked for later: those not refuted are a
confidence sequence. Of a request that both answered, Z is the difference of the two outcomes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rollout.evidence.wagers import Floats

STAKES = np.array((0.05, 0.2, 0.5, 0.9))  #: k
_MOST = 700.0  # the largest exponent that is a number
_LEAST = -1 + 1e-12  # a wager never loses quite all
_ROUNDS, _POINTS = 3, 65  # of the search for an end: to within 8e-6


@dataclass(frozen=True)
class Tally:
    """Requests without an event, and events of the candidate and of stable, by the candidate's weight; 0: pairs."""

    by_weight: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def e_value(self, difference: float) -> float:
        """Against "the candidate's rate is at least stable's + ``difference``"."""
        return math.exp(min(float(_log_e_values(self, np.array([difference]))[0]), _MOST))


PAIRS = "pairs"


def with_requests(tally: Tally, event: NDArray[np.bool_], candidate: NDArray[np.bool_], weight: Floats) -> Tally:
    """The tally with more requests."""
    found = dict(tally.by_weight)
    for w in np.unique(weight):
        if not 0.0 < w < 1.0:
            continue
        at = weight == w
        hits, misses = int((event & candidate & at).sum()), int((event & ~candidate & at).sum())
        _add(found, repr(float(w)), int(at.sum()) - hits - misses, hits, misses)
    return Tally(found)


def with_pairs(tally: Tally, candidate: NDArray[np.bool_], stable: NDArray[np.bool_]) -> Tally:
    """The tally with requests that both answered; where both or none had an event, nothing differs."""
    found = dict(tally.by_weight)
    more, less = int((candidate & ~stable).sum()), int((stable & ~candidate).sum())
    _add(found, PAIRS, len(candidate) - more - less, more, less)
    return Tally(found)


def interval(tally: Tally, alpha: float) -> tuple[float, float]:
    """Confidence sequence of the difference of the rates at level 1 - ``alpha``, within -1 and 1."""
    mirrored = Tally({w: (n, less, more) for w, (n, more, less) in tally.by_weight.items() if w == PAIRS})
    swapped = {repr(1 - float(w)): (n, less, more) for w, (n, more, less) in tally.by_weight.items() if w != PAIRS}
    other = Tally({**mirrored.by_weight, **swapped})
    return -_upper(other, alpha / 2), _upper(tally, alpha / 2)


def _add(found: dict[str, tuple[int, int, int]], key: str, none: int, hits: int, misses: int) -> None:
    before = found.get(key, (0, 0, 0))
    if none + hits + misses:
        found[key] = (before[0] + none, before[1] + hits, before[2] + misses)


def _log_e_values(tally: Tally, d: Floats) -> Floats:
    """Logarithms of the e-values against each of the differences ``d``."""
    logs = np.zeros((len(STAKES), len(d)))
    stakes = STAKES[:, None]
    for key, counts in tally.by_weight.items():
        if key == PAIRS:
            k = stakes / (1 + np.maximum(-d, 0.0))
            factors = (k * d, -k * (1 - d), k * (1 + d))
        else:
            w = float(key)
            k = stakes / np.maximum(1 - w * d, 1.0)
            factors = (k * w * d, -k * (1 - w * d), k * w * (1 / (1 - w) + d))
        for n, factor in zip(counts, factors, strict=True):
            if n:
                logs = logs + n * np.log1p(np.maximum(factor, _LEAST))
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))


def _upper(tally: Tally, alpha: float) -> float:
    """The smallest difference that is refuted from there on; 1 where none is."""
    low, high = -1.0, 1.0
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _POINTS)
        open_ones = np.flatnonzero(_log_e_values(tally, points) < -math.log(alpha))
        last = int(open_ones[-1]) if len(open_ones) else 0
        if last == len(points) - 1:
            return high
        low, high = float(points[last]), float(points[last + 1])
    return high
