"""The formulas of the verdict against independent ones: printed values, slow re-computation, other people's libraries.

``savvi`` and ``ville`` are heavy and only oracles: their tests run where requirements/oracles.in is installed.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate
from scipy.special import gammaln

from rollout.evidence import difference, means, sketch
from rollout.evidence.betting import Bet, with_outcomes
from rollout.evidence.difference import Tally
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.means import Moments
from rollout.evidence.ranks import RankTest, with_scores
from rollout.evidence.wagers import LATE, Wagers, after

#: (counts, logarithm of the odds) with k = 100 and shares 0.1 and 0.9: delivery.md 3b, and savvi to 12 digits
DIRICHLET = (((30, 250), -0.63894), ((60, 250), 8.67605))
EXACT = 1e-9


def dirichlet_odds(counts, shares, k: float = 100.0) -> float:
    """Logarithm of the Dirichlet-multinomial Bayes factor (Lindon and Malek)."""
    a, s = k * np.asarray(shares), np.asarray(counts)
    free = gammaln(a.sum()) - gammaln(a.sum() + s.sum()) + (gammaln(a + s) - gammaln(a)).sum()
    return float(free - (s * np.log(shares)).sum())


def mixed_by_hand(steps: list[list[float]]) -> tuple[float, float]:
    """(now, peak) of wagers in exact fractions: capital at stake from the start, one look, the rest kept back."""
    held = Fraction(LATE) * Fraction(2**-0.5)
    stake = (1 - held) / len(steps)
    capital, peak = [stake] * len(steps), Fraction(1)
    for factors in zip(*steps, strict=True):
        capital = [c * Fraction(f) for c, f in zip(capital, factors, strict=True)]
        peak = max(peak, sum(capital) + held)
    return math.log(sum(capital) + held), math.log(peak)


@pytest.mark.parametrize(("counts", "value"), DIRICHLET)
def test_a_printed_value_of_the_dirichlet_mixture_is_an_integral(counts, value):
    """The closed form is the mean likelihood ratio under a Beta prior, by quadrature, and the value that is printed."""
    hits, misses = counts

    def ratio(q: float) -> float:
        prior = 9 * math.log(q) + 89 * math.log1p(-q) - (gammaln(10) + gammaln(90) - gammaln(100))
        return math.exp(prior + hits * math.log(q / 0.1) + misses * math.log((1 - q) / 0.9))

    whole, _ = integrate.quad(ratio, 1e-12, 1 - 1e-12, points=[0.1, hits / sum(counts)], epsabs=0, epsrel=1e-12)
    assert math.log(whole) == pytest.approx(dirichlet_odds(counts, (0.1, 0.9)), abs=EXACT)
    assert math.log(whole) == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize(("counts", "value"), DIRICHLET)
def test_the_split_s_wagers_see_what_the_mixture_sees(counts, value):
    """Other wagers, the same evidence to within 2.5 nats: none where it finds none, and much where it finds much."""
    rng = np.random.default_rng(0)
    hit = rng.permutation(np.repeat([True, False], counts))
    found = with_events(RatioTest(1.0, 1.0), hit, np.full(len(hit), 0.1), interval=False)
    assert found.worse.now == pytest.approx(value, abs=2.5)


@pytest.mark.parametrize("weights", [[0.1] * 30, [0.01] * 10 + [0.05] * 10 + [0.5] * 10])
@pytest.mark.parametrize("harm", [1.0, 1.5])
def test_event_wagers_by_hand(weights, harm):
    """Each factor is a ratio of two Bernoulli likelihoods; multiplied and mixed as fractions it is the same to 1e-9."""
    rng = np.random.default_rng(3)
    hits = (rng.random(30) < 0.3).tolist()
    factors = (1.08, 1.25, 1.6, 2.5, 6.0, 25.0)

    def chance(w: float, r: float) -> Fraction:
        return Fraction(w) * Fraction(r) / (1 - Fraction(w) + Fraction(w) * Fraction(r))

    def step(hit: bool, w: float, r: float) -> Fraction:
        one, other = chance(w, r), chance(w, harm)
        return one / other if hit else (1 - one) / (1 - other)

    worse = [[step(h, w, harm * f) for h, w in zip(hits, weights, strict=True)] for f in factors]
    better = [[step(h, w, harm / f) for h, w in zip(hits, weights, strict=True)] for f in factors]
    found = with_events(RatioTest(harm, harm), hits, weights)
    for wagers, steps in ((found.worse, worse), (found.better, better)):
        now, peak = mixed_by_hand(steps)
        assert (wagers.now, wagers.peak) == pytest.approx((now, peak), abs=EXACT)


def test_rank_wagers_by_hand():
    """1 + k (g - 1/2) (1 - w) for the candidate's, 1 - k (g - 1/2) w for stable's, in fractions."""
    rng = np.random.default_rng(5)
    score, hit, w = rng.random(40), rng.random(40) < 0.25, np.full(40, 0.25)
    for above, sign in ((True, 1), (False, -1)):
        steps = [
            [
                1 + sign * Fraction(k) * (Fraction(g) - Fraction(1, 2)) * (Fraction(3, 4) if h else Fraction(-1, 4))
                for g, h in zip(score.tolist(), hit.tolist(), strict=True)
            ]
            for k in (0.2, 0.5, 0.95)
        ]
        found = with_scores(RankTest(above), score, hit, w).wagers
        assert (found.now, found.peak) == pytest.approx(mixed_by_hand(steps), abs=EXACT)


def test_wagers_over_many_looks_by_hand():
    """Each look puts in LATE (b^-1/2 - (b+1)^-1/2) of the capital, split alike; the sum is kept to 1e-9."""
    rng, found = np.random.default_rng(2), Wagers()
    capital = [(1 - LATE) / 3] * 3
    for look in range(1, 60):
        steps = rng.normal(0, 0.1, (3, 5))
        found = after(found, steps)
        put = LATE * (look**-0.5 - (look + 1) ** -0.5) / 3
        capital = [(c + put) * math.prod(math.exp(x) for x in row) for c, row in zip(capital, steps, strict=True)]
        assert found.now == pytest.approx(math.log(sum(capital) + LATE * (look + 1) ** -0.5), abs=EXACT)


@pytest.mark.parametrize(("weight", "d"), [(0.1, 0.01), (0.5, 0.03)])
def test_difference_wagers_by_hand(weight, d):
    """The product over requests one by one, in fractions, equals the value from counts alone."""
    rng = np.random.default_rng(7)
    hit, event = rng.random(80) < weight, rng.random(80) < 0.2
    found = difference.with_requests(Tally(), event, hit, np.full(80, weight)).e_value(d)
    w, bound = Fraction(weight), Fraction(d)
    total = Fraction(0)
    for k in (0.05, 0.2, 0.5, 0.9):
        capital = Fraction(1)
        for h, e in zip(hit.tolist(), event.tolist(), strict=True):
            z = Fraction(0) if not e else (1 / w if h else -1 / (1 - w))
            capital *= 1 - Fraction(k) * w * (z - bound)
        total += capital / 4
    assert math.log(found) == pytest.approx(math.log(total), abs=EXACT)


def test_bets_by_hand():
    """The stake is mean over second moment so far, at most half of the largest, in fractions."""
    outcomes = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 60, p=[0.3, 0.5, 0.2]).tolist()
    capital, n, total, squares, m = Fraction(1), 0, Fraction(0), Fraction(0), Fraction(1, 2)
    for outcome in outcomes:
        x = 1 - Fraction(outcome)
        gain, moment = (n - total - n * m) / (n + 1), (squares + m * (1 - m)) / (n + 1)
        capital *= 1 + min(max(gain / moment, Fraction(0)), 1 / (2 * m)) * (x - m)
        n, total, squares = n + 1, total + Fraction(outcome), squares + (Fraction(outcome) - m) ** 2
    assert with_outcomes(Bet(0.5, above=False), outcomes).log_capital == pytest.approx(math.log(capital), abs=EXACT)


@pytest.mark.parametrize(("n", "g"), [(200, 0.95), (1000, 0.05), (5000, 0.95)])
def test_rank_radius_solves_its_integral(n, g):
    """At the radius the Beta mixture of likelihood ratios, by quadrature, is 1/alpha (delivery.md 3a)."""
    alpha, h, tuned = 0.05, 1 - g, 1000
    u = sketch.rank_radius(n, g, alpha, tuned)
    level = math.log(1 / alpha)
    r = g * h * tuned / (2 * level + math.log(1 + 2 * level)) - g * h
    a, b = r / g, r / h  # g + h = 1: prior of the chance of no hit and of a hit
    hits, misses = n * (g + u), n * (h - u)

    def ratio(q: float) -> float:
        prior = (b - 1) * math.log(q) + (a - 1) * math.log1p(-q) - (gammaln(a) + gammaln(b) - gammaln(a + b))
        return math.exp(prior + hits * math.log(q / g) + misses * math.log((1 - q) / h))

    peak = min(max(hits / n, 1e-6), 1 - 1e-6)
    whole, _ = integrate.quad(ratio, 0, 1, points=[g, peak], epsabs=0, epsrel=1e-12, limit=500)
    assert math.log(whole) == pytest.approx(level, abs=1e-7)


def test_width_of_means_by_hand():
    """The boundary is where Robbins' normal mixture of a sum of variance 1 is 1/alpha."""
    alpha, tuned = 0.05, 1000
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned
    for t in (50, 1000, 40_000):
        s = means.half_width(t, 1.0, alpha, tuned) * t
        # the mean of exp(x s - t x^2 / 2) over x ~ N(0, rho2), by its square completed
        mixture = rho2 * s * s / (2 * (t * rho2 + 1)) - 0.5 * math.log(t * rho2 + 1)
        assert mixture == pytest.approx(math.log(1 / alpha), abs=EXACT)


def test_two_arms_have_the_variance_of_their_means():
    """Half the width of a difference, from t and variance written out (GrowthBook's form)."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.2, 1, 300), rng.normal(0, 2, 900)
    low, high = means.difference(means.with_values(Moments(), x), means.with_values(Moments(), y), 0.05)
    variance = 1200 * (x.var(ddof=1) / 300 + y.var(ddof=1) / 900)
    assert (low + high) / 2 == pytest.approx(x.mean() - y.mean(), abs=EXACT)
    assert (high - low) / 2 == pytest.approx(means.half_width(1200, variance, 0.05), abs=EXACT)


@pytest.mark.parametrize("counts", [(30, 250), (60, 250)])
def test_dirichlet_odds_are_those_of_savvi(counts):
    """Lindon and Malek's own library, the same counts."""
    multinomial = pytest.importorskip("savvi.multinomial")
    theirs = multinomial.Multinomial(0.05, np.array([0.1, 0.9]), 100)
    odds = theirs.update_odds
    theirs.n, theirs.counts = sum(counts), np.array(counts)
    assert math.log(odds(np.array(counts))) == pytest.approx(dirichlet_odds(counts, (0.1, 0.9)), abs=EXACT)


def test_width_of_means_is_that_of_ville():
    """With the same precision of the mixture, the boundary is the same to 1e-9."""
    boundaries = pytest.importorskip("ville._boundaries")
    for t in (100, 1000, 20_000):
        rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 1000
        theirs = float(np.asarray(boundaries.normal_mixture(np.array([float(t)]), 0.05, 1 / rho2))[0]) / t
        assert means.half_width(t, 1.0, 0.05) == pytest.approx(theirs, rel=EXACT)
