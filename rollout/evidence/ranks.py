"""Is one arm slower than the other, in the whole of its distribution? Exact under drift, by betting on scores.

Each latency becomes a score g in [0, 1] that grows with it: the share of stable's earlier requests of the same stratum
that were faster. The candidate's latency is divided by the margin m first. Where the candidate is at most m times as
slow, E g(candidate / m) <= E g(stable) at each moment, whatever load does to both. With the candidate's weight w in
force at each request and any centre c chosen before it,

    Z = (g - c) / w  for a request of the candidate,   -(g - c) / (1 - w)  for one of stable

has a mean of at most 0 (inverse probability weighting), so that a wager of k w (1 - w) on Z multiplies its capital by
factors of mean at most 1 (testing by betting; Waudby-Smith and Ramdas, JRSS B 2024, arXiv 2010.09686). Nothing is
assumed of the distributions; for a shift it needs 3/pi times the requests of the best test that knows they are normal.
Of a request that both answered, the difference of the two scores is such a Z by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rollout.evidence.wagers import Floats, Wagers, after

STAKES = (0.2, 0.5, 0.95)  # k; with 1 a single request could take all
_MEMORY = 200.0  # requests over which the centre follows the load


@dataclass(frozen=True)
class RankTest:
    """Evidence against "the candidate's scores are at most stable's" (``above``) or "at least" (not ``above``)."""

    above: bool
    wagers: Wagers = Wagers()
    centre: float = 0.5
    n: int = 0


def with_scores(
    test: RankTest, score: Floats, candidate: NDArray[np.bool_], weight: Floats, centre: Floats | None = None
) -> RankTest:
    """The test with more requests in their order: scores in [0, 1], which are the candidate's, weights in force.

    ``centre``: of each request, known before it; without, the test's own, which follows the scores.
    """
    telling = (weight > 0.0) & (weight < 1.0)
    g, hit, w = score[telling], candidate[telling], weight[telling]
    if not len(g):
        return test
    middle = test.centre if centre is None else centre[telling]
    kept = len(g) / (len(g) + _MEMORY)
    own = test.centre * (1 - kept) + float(g.mean()) * kept
    return replace(_after(test, (g - middle) * np.where(hit, 1 - w, -w)), centre=own)


def with_pairs(test: RankTest, candidate: Floats, stable: Floats) -> RankTest:
    """The test with requests that both answered: the scores of both."""
    return _after(test, candidate - stable) if len(candidate) else test


def _after(test: RankTest, drift: Floats) -> RankTest:
    stakes = np.array(STAKES)[:, None] * (1.0 if test.above else -1.0)
    return replace(test, wagers=after(test.wagers, np.log1p(stakes * drift)), n=test.n + len(drift))
