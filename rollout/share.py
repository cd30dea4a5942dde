"""Does a split deliver what was asked? A test of Bernoulli outcomes that may be looked at after every request.

Outcome x_i is 1 where request i went to the candidate, p_i the share that was asked for when it was routed. Under "it
is delivered as asked", x_i ~ Bernoulli(p_i) given all before, whatever the load and however p_i was chosen.

Testing by betting (Shafer, JRSS A 2021; Waudby-Smith and Ramdas, JRSS B 2024, arXiv 2010.09686): a wager multiplies its
capital with each outcome by a factor whose mean is 1 if the hypothesis holds. Here the factors are likelihood ratios
against odds that are r times the asked ones, as in the sample-ratio test of Lindon and Malek (NeurIPS 2022, arXiv
2011.03567), on a grid of r in place of their Dirichlet prior, so that p_i may change:

    q = r p / (1 - p + r p);    factor: q / p = r / (1 - p + r p) if x = 1, else (1 - q) / (1 - p) = 1 / (1 - p + r p)

Capital 1 is put in bit by bit: request i adds i^-1/2 - (i+1)^-1/2, in equal parts on each r, and (n+1)^-1/2 is not yet
at stake after n. So a fault that begins late is found too, whatever was lost before. The sum E_n of all is a
non-negative martingale that starts at 1, and by Ville's inequality P(E_n >= 1/alpha for any n) <= alpha.

``Shortfall`` is the one-sided sister where some outcomes that look like 0 may be excused: it bets on less alone, so
that each excuse lowers it, and puts its capital in at the start and each time that n has doubled. A wager's value then
depends on counts alone, not on which outcomes are excused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

ALPHA = 0.001  #: probability that a split that works is ever called wrong
_LESS = (0.0, 0.25, 0.5, 0.7, 0.87, 0.95)
_MORE = (1.05, 1.15, 1.4, 2.0, 4.0, 16.0)
_ODDS = (*_LESS, *_MORE)
_FIRST = 200  # outcomes after which a shortfall's second wager begins
_MOST = 1e100  # capital is cut here, which keeps the bound and stays a number


@dataclass(frozen=True)
class ShareTest:
    """What is known after ``n`` outcomes: twelve numbers and a few counts, whatever ``n`` is.

    ``highest`` is the largest e-value so far: evidence that was once reached stays.
    """

    n: int = 0
    seen: int = 0  # outcomes that were 1
    asked: float = 0.0  # sum of the shares asked for: how many were to be expected
    capital: tuple[float, ...] = field(default=())
    highest: float = 1.0

    def alarm(self, alpha: float = ALPHA) -> bool:
        """Whether the split is proven not to deliver what was asked."""
        return self.highest >= 1.0 / alpha

    @property
    def share(self) -> float | None:
        """The share that was observed; None before the first outcome."""
        return self.seen / self.n if self.n else None

    @property
    def asked_share(self) -> float | None:
        """The mean of the shares asked for; None before the first outcome."""
        return self.asked / self.n if self.n else None


def after(test: ShareTest, outcomes: Sequence[tuple[float, bool]]) -> ShareTest:
    """The test with more outcomes, each (share asked for, went to the candidate).

    >>> after(ShareTest(), [(0.1, False)] * 90).alarm(), after(ShareTest(), [(0.1, False)] * 110).alarm()
    (False, True)
    """
    n, seen, asked, highest = test.n, test.seen, test.asked, test.highest
    capital = list(test.capital) or [0.0] * len(_ODDS)
    for p, hit in outcomes:
        stake, rest = _stakes(n, len(capital))
        hits, misses = _factors(p)
        capital = [min((c + stake) * f, _MOST) for c, f in zip(capital, hits if hit else misses, strict=True)]
        highest = max(highest, sum(capital) + rest)
        n, seen, asked = n + 1, seen + hit, asked + p
    return replace(test, n=n, seen=seen, asked=asked, capital=tuple(capital), highest=highest)


@dataclass(frozen=True)
class Wager:
    """What one wager has seen: outcomes by the share asked for, those that were 1, and excuses before its start."""

    asked: dict[float, int] = field(default_factory=dict)
    seen: int = 0
    excused_before: int = 0

    def value(self, excused: int) -> float:
        """Its capital for each 1 put in, with as many outcomes excused as were excused since it began."""
        n = sum(self.asked.values())
        seen = min(n, self.seen + excused - self.excused_before)
        return sum(_grown(r, seen, self.asked) for r in _LESS) / len(_LESS)


@dataclass(frozen=True)
class Shortfall:
    """Whether fewer outcomes are 1 than was asked for, beyond those that are excused."""

    wagers: tuple[Wager, ...] = (Wager(),)
    highest: float = 1.0

    def alarm(self, alpha: float = ALPHA) -> bool:
        """Whether it is proven that too few arrive."""
        return self.highest >= 1.0 / alpha

    @property
    def n(self) -> int:
        """Outcomes so far."""
        return sum(self.wagers[0].asked.values())

    @property
    def seen(self) -> int:
        """Outcomes that were 1, without the excused ones."""
        return self.wagers[0].seen

    @property
    def expected(self) -> float:
        """How many were to be expected."""
        return sum(share * n for share, n in self.wagers[0].asked.items())


def counted(test: Shortfall, outcomes: Sequence[tuple[float, bool]], excused: int) -> Shortfall:
    """The test with more outcomes. ``excused``, a total that only grows: so many may have been 0 for a known reason."""
    if not outcomes:
        return test
    added, seen = Counter(share for share, _ in outcomes), sum(hit for _, hit in outcomes)
    wagers = [Wager(dict(Counter(w.asked) + added), w.seen + seen, w.excused_before) for w in test.wagers]
    value = sum(w.value(excused) / ((k + 1) * (k + 2)) for k, w in enumerate(wagers))
    if test.n + len(outcomes) >= _FIRST << (len(wagers) - 1):
        wagers.append(Wager(excused_before=excused))
    return Shortfall(tuple(wagers), max(test.highest, value))


def wilson_interval(seen: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of a share for display, at one look (Wilson, JASA 1927). The alarm does not rest on it."""
    from statistics import NormalDist

    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1 - alpha / 2)
    share, weight = seen / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / weight
    width = z / weight * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (0.0 if seen == 0 else middle - width), (1.0 if seen == trials else middle + width)


def _stakes(n: int, bets: int) -> tuple[float, float]:
    """What each bet gets before outcome n + 1, and what is then not yet at stake."""
    rest = (n + 2) ** -0.5
    return ((n + 1) ** -0.5 - rest) / bets, rest


def _grown(odds: float, seen: int, asked: dict[float, int]) -> float:
    """What a bet on ``odds`` times the asked ones has made of 1."""
    if odds == 0.0 and seen:
        return 0.0
    hits = seen * math.log(odds) if seen else 0.0
    rest = sum(n * math.log(1 - p + p * odds) for p, n in asked.items() if p < 1 or odds)
    sure = any(n for p, n in asked.items() if p >= 1 and not odds)
    return _MOST if sure else math.exp(min(hits - rest, math.log(_MOST)))


@lru_cache(maxsize=4096)
def _factors(p: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a hit and a miss multiply each bet by. What cannot happen under ``p`` and does is proof."""
    if p <= 0.0:
        return tuple(math.inf if r > 1 else r for r in _ODDS), (1.0,) * len(_ODDS)
    if p >= 1.0:
        return (1.0,) * len(_ODDS), tuple(math.inf if r < 1 else 1 / r for r in _ODDS)
    whole = [1 - p + r * p for r in _ODDS]
    return tuple(r / w for r, w in zip(_ODDS, whole, strict=True)), tuple(1 / w for w in whole)
