"""Capital that is wagered against a hypothesis: what all tests of this package have in common.

A test has some wagers; each outcome multiplies the capital of each by a factor whose mean is at most 1 while the
hypothesis holds. The sum of all capital, which begins at 1, is then a non-negative supermartingale (an e-process), and
P(it ever reaches 1/alpha) <= alpha (Ville 1939). So one may look after every request.

Most of the capital is at stake from the start. The rest is put in bit by bit, a little at each look, so that a fault
that begins late is found too, whatever was lost before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LATE = 0.15  # of the capital; look b puts in LATE (b^-1/2 - (b+1)^-1/2) of it


@dataclass(frozen=True)
class Wagers:
    """What the wagers hold: logarithms of capital, how often something was put in, and the largest sum so far."""

    logs: tuple[float, ...] = ()
    looks: int = 0
    now: float = 0.0  # logarithm of the sum of all capital
    peak: float = 0.0

    def reached(self, alpha: float) -> bool:
        """Whether the hypothesis is refuted at level ``alpha``: evidence that was once reached stays."""
        return self.peak >= -math.log(alpha)


def after(wagers: Wagers, steps: Floats) -> Wagers:
    """The wagers after more outcomes; ``steps``: logarithms of the factors, wagers x outcomes in their order."""
    if not steps.shape[1]:
        return wagers
    paths = _staked(wagers, steps.shape[0])[:, None] + np.cumsum(steps, axis=1)
    sums = _sums(paths, _rest(wagers.looks + 1))
    return _held(wagers, paths[:, -1], float(sums[-1]), float(sums.max()))


def after_all(wagers: Wagers, total: Floats) -> Wagers:
    """The same where only the sum of the logarithms is known for each wager: the peak is that between looks."""
    ends = _staked(wagers, len(total)) + total
    now = float(_sums(ends[:, None], _rest(wagers.looks + 1))[0])
    return _held(wagers, ends, now, now)


def _held(wagers: Wagers, ends: Floats, now: float, highest: float) -> Wagers:
    return Wagers(tuple(ends.tolist()), wagers.looks + 1, now, max(wagers.peak, highest))


def _staked(wagers: Wagers, count: int) -> Floats:
    """Logarithms of capital with this look's stake put in."""
    stake = math.log((_rest(wagers.looks) - _rest(wagers.looks + 1)) / count)
    before = np.array(wagers.logs) if wagers.logs else np.full(count, math.log((1 - LATE) / count))
    return np.asarray(np.logaddexp(before, stake))


def _rest(looks: int) -> float:
    """What is not yet at stake after so many looks."""
    return LATE * (looks + 1) ** -0.5


def _sums(paths: Floats, rest: float) -> Floats:
    top = np.maximum(paths.max(axis=0), 0.0)
    return np.asarray(top + np.log(np.exp(paths - top).sum(axis=0) + rest * np.exp(-top)))
