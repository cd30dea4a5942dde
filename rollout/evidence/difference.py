"""By how much do two rates of events differ? Exact for any rates that change over time, under known weights.

With the candidate's weight w in force, x = 1 for a request with an event, and

    Z = x / w  for a request of the candidate,   -x / (1 - w)  for one of stable

the mean of Z is the difference of the rates at that moment. Against "it is at least d" a wager k w multiplies its
capital by 1 - k w (Z - d), whose mean is at most 1 (testing by betting, arXiv 2010.09686). The capital depends on
counts by weight alone, so the counts are the state, and every d can be asked for later: those not refuted are a
confidence sequence. Of a request that both answered, Z is the difference of the two outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rollout.evidence.wagers import Floats

_STAKES = np.array((0.05, 0.2, 0.5, 0.9))
_MOST = 700.0  # the largest exponent that is a number


@dataclass(frozen=True)
class Tally:
    """Requests without an event, and events of the candidate and of stable, by the candidate's weight; 0: pairs."""

    by_weight: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def e_value(self, difference: float) -> float:
        """Against "the candidate's rate is at least stable's + ``difference``"."""
        return _e_value(self, difference)


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
    return -_upper(other.e_value, alpha / 2), _upper(tally.e_value, alpha / 2)


def _add(found: dict[str, tuple[int, int, int]], key: str, none: int, hits: int, misses: int) -> None:
    before = found.get(key, (0, 0, 0))
    if none + hits + misses:
        found[key] = (before[0] + none, before[1] + hits, before[2] + misses)


def _e_value(tally: Tally, d: float) -> float:
    logs = np.zeros(len(_STAKES))
    for key, (none, hits, misses) in tally.by_weight.items():
        if key == PAIRS:
            k, more, less = _STAKES / (1 + max(-d, 0.0)), 1 - d, -1 - d
            factors = (k * d, -k * more, -k * less)
        else:
            w = float(key)
            k = _STAKES / max(1 - w * d, 1.0)
            factors = (k * w * d, -k * (1 - w * d), k * w * (1 / (1 - w) + d))
        counts = zip((none, hits, misses), factors, strict=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = logs + sum(n * np.log1p(np.maximum(f, -1.0)) for n, f in counts if n)
    return float(np.exp(np.minimum(logs, _MOST)).mean())


def _upper(e_value: Callable[[float], float], alpha: float) -> float:
    """The smallest difference that is refuted from there on; 1 where none is."""
    low, high = -1.0, 1.0
    if e_value(high) < 1 / alpha:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if e_value(middle) >= 1 / alpha else (middle, high)
    return high
