"""Tests that stay valid however often one looks: confidence sequences and e-processes.

Sources: Waudby-Smith et al., Annals of Statistics 2024 (arXiv 2103.06476) for the asymptotic confidence sequence;
Howard et al., Annals of Statistics 2021 (arXiv 1810.08240) for the beta-binomial mixture; Lindon and Malek, NeurIPS
2022 (arXiv 2011.03567) for counted events under a known share of the traffic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaln, xlog1py, xlogy


def log_ratio_interval(
    candidate: Sequence[float], stable: Sequence[float], alpha: float, tuned_to: int = 100
) -> tuple[float, float]:
    """Confidence sequence of mean(log candidate) - mean(log stable), two samples, level 1 - ``alpha``.

    ``tuned_to`` is the number of samples at which it is narrowest. Needs at least two samples a side.
    """
    a, b = np.log(np.asarray(candidate, float)), np.log(np.asarray(stable, float))
    t = len(a) + len(b)
    spread = math.sqrt(t * (a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned_to
    width = spread * math.sqrt(2 * (t * rho2 + 1) / (t * t * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha))
    middle = float(a.mean() - b.mean())
    return middle - width, middle + width


def rate_interval(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """Confidence sequence of a Bernoulli rate by the Beta(1/2, 1/2) mixture, level 1 - ``alpha``; exact."""
    from scipy.optimize import brentq  # half a second to load, which a first version need not wait for

    if trials == 0:
        return 0.0, 1.0
    rest = trials - events
    mixture = betaln(0.5 + events, 0.5 + rest) - betaln(0.5, 0.5)

    def excess(rate: float) -> float:
        return float(mixture - xlogy(events, rate) - xlog1py(rest, -rate) + math.log(alpha))

    seen = events / trials
    low = 0.0 if events == 0 else float(brentq(excess, 1e-12, max(seen, 2e-12)))
    high = 1.0 if rest == 0 else float(brentq(excess, min(seen, 1 - 2e-12), 1 - 1e-12))
    return low, high


def more_events_e_value(candidate: int, stable: int, share: float, ratio: float) -> float:
    """E-value against "the candidate's event rate is at most ``ratio`` times stable's"; at least 1/alpha rejects it.

    Given that an event happened it was the candidate's with probability share*r/(1-share+share*r), where ``share`` is
    the candidate's share of the requests and r the ratio of the rates. A mixture over ratios above the bound.
    """
    if not 0.0 < share < 1.0:
        return 1.0

    def chance(r: float) -> float:
        return share * r / (1 - share + share * r)

    def log_likelihood(r: float) -> float:
        return float(xlogy(candidate, chance(r)) + xlog1py(stable, -chance(r)))

    grid = [ratio * factor for factor in (1.25, 1.5, 2, 3, 5, 10, 30, 100)]
    bets = np.array([log_likelihood(r) for r in grid]) - log_likelihood(ratio)
    return float(np.exp(min(bets.max(), 700.0)) * np.mean(np.exp(bets - bets.max())))
