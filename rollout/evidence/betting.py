"""Means of bounded outcomes, exactly: testing by betting (Waudby-Smith and Ramdas, JRSS B 2024, arXiv 2010.09686).

Outcomes lie in [0, 1]. Against "the mean is at most m" the capital is multiplied by 1 + f (x - m) with a stake f in
[0, 1/m) chosen from what was seen before: its mean is at most 1 for every mean <= m, so P(capital ever reaches 1/alpha)
<= alpha. Paired outcomes (the candidate's answer is better 1, as good 1/2, worse 0) are such outcomes with m = 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MOST = 0.5  # of the largest stake: a single outcome never takes more than half of the capital


@dataclass(frozen=True)
class Bet:
    """Evidence against "the mean is at most ``bound``" (``above``) or "at least ``bound``" (not ``above``).

    Five numbers, whatever the count. The stake follows the growth-rate-optimal one for what was seen, with one outcome
    at the bound counted in advance.
    """

    bound: float
    above: bool
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    log_capital: float = 0.0
    peak: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the outcomes; None before the first."""
        return self.total / self.n if self.n else None

    def rejects(self, alpha: float) -> bool:
        """Whether the hypothesis is refuted at level ``alpha``."""
        return self.peak >= -math.log(alpha)


def with_outcomes(bet: Bet, outcomes: Iterable[float]) -> Bet:
    """The bet with more outcomes, each in [0, 1].

    >>> with_outcomes(Bet(0.5, above=False), [0.0] * 12).rejects(0.05)
    True
    """
    m = bet.bound if bet.above else 1 - bet.bound
    n, total, squares, log_capital, peak = bet.n, bet.total, bet.squares, bet.log_capital, bet.peak
    for outcome in outcomes:
        x = outcome if bet.above else 1 - outcome
        seen = total if bet.above else n - total
        log_capital += math.log1p(_stake(m, n, seen, squares) * (x - m))
        peak = max(peak, log_capital)
        n, total, squares = n + 1, total + outcome, squares + (outcome - bet.bound) ** 2
    return Bet(bet.bound, bet.above, n, total, squares, log_capital, peak)


def _stake(m: float, n: int, seen: float, squares: float) -> float:
    """Mean over second moment of x - m so far (the approximate Kelly stake), between 0 and half of the largest."""
    gain = (seen - n * m) / (n + 1)
    moment = (squares + m * (1 - m)) / (n + 1)
    return min(max(gain / moment, 0.0), _MOST / m) if moment > 0 else 0.0
