"""The tests behind the verdict keep their promises: no wager pays while the hypothesis holds, intervals cover."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.evidence import difference, means, sketch
from rollout.evidence.betting import Bet, with_outcomes
from rollout.evidence.difference import Tally
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.means import Moments
from rollout.evidence.ranks import RankTest, with_pairs, with_scores
from rollout.evidence.wagers import Wagers, after, after_all


@given(st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=1, max_size=30))
def test_capital_is_the_sum_of_what_all_wagers_made_of_their_stakes(steps):
    """However outcomes are grouped within a look, the end is the same, and the peak is the largest on the way."""
    one = after(Wagers(), np.array(steps).T)
    grouped = after_all(Wagers(), np.array(steps).sum(axis=0))
    assert one.logs == pytest.approx(grouped.logs) and one.now == pytest.approx(grouped.now)
    assert one.peak >= max(one.now, 0.0) - 1e-12 and one.looks == 1


def test_capital_that_was_not_at_stake_is_kept():
    """Wagers that lose all leave what was held back for later."""
    lost = after(Wagers(), np.full((3, 4), -1000.0))
    assert 0 < math.exp(lost.now) < 0.15


def test_a_fault_that_begins_late_is_found():
    """Ten thousand good events first: a tripled rate is then found within a few hundred more."""
    rng = np.random.default_rng(1)
    test = RatioTest(1.25, 0.0)
    for _ in range(100):
        test = with_events(test, rng.random(100) < 0.5, np.full(100, 0.5), False)
    assert test.worse.now < 0
    for _ in range(6):
        test = with_events(test, rng.random(100) < 0.75, np.full(100, 0.5), False)
    assert test.harmful(0.01)


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.5])
@pytest.mark.parametrize("harm", [1.0, 1.5])
def test_no_wager_on_events_pays_at_the_bound(weight, harm):
    """At exactly the bound the mean of the capital after three events is 1, by going through all that may happen."""
    q = weight * harm / (1 - weight + weight * harm)
    worse = better = 0.0
    for hits in product([False, True], repeat=3):
        chance = math.prod(q if hit else 1 - q for hit in hits)
        seen = with_events(RatioTest(harm, harm), list(hits), [weight] * 3)
        worse, better = worse + chance * math.exp(seen.worse.now), better + chance * math.exp(seen.better.now)
    assert worse == pytest.approx(1.0) and better == pytest.approx(1.0)


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=5))
@settings(max_examples=50)
def test_no_wager_on_ranks_pays_where_both_arms_are_alike(weight, centre, scores):
    """The mean over both arms and all scores of the capital after a request is 1, whatever the weight and centre."""
    for above in (True, False):
        mean = 0.0
        for score, hit in product(scores, [False, True]):
            test = RankTest(above, centre=centre)
            seen = with_scores(test, np.array([score]), np.array([hit]), np.array([weight]))
            mean += math.exp(seen.wagers.now) * (weight if hit else 1 - weight) / len(scores)
        assert mean == pytest.approx(1.0)


def test_pairs_of_equal_scores_pay_nothing():
    """Only a difference tells the arms apart."""
    scores = np.linspace(0, 1, 7)
    assert with_pairs(RankTest(True), scores, scores).wagers.now == pytest.approx(0.0)
    assert with_pairs(RankTest(True), scores + 0.5, scores).wagers.now > 0.5


@pytest.mark.parametrize(("weight", "rate", "more"), [(0.1, 0.02, 0.0), (0.5, 0.05, 0.02), (0.3, 0.3, -0.1)])
def test_the_interval_of_a_difference_covers_it_at_every_look(weight, rate, more):
    """With rates that swing over time too: the mean of the swings is what both arms share."""
    missed, runs = 0, 60
    for seed in range(runs):
        rng, tally, wrong = np.random.default_rng(seed), Tally(), False
        for look in range(40):
            now = rate * (1 + 0.8 * math.sin(look / 5))
            hit = rng.random(50) < weight
            event = rng.random(50) < np.where(hit, now + more, now)
            tally = difference.with_requests(tally, event, hit, np.full(50, weight))
            low, high = difference.interval(tally, 0.1)
            wrong |= not low <= more <= high
        missed += wrong
    assert missed <= 0.1 * runs + 3 * math.sqrt(0.09 * runs)


def test_no_wager_on_a_difference_pays_at_the_bound():
    """At a true difference of d the mean of the e-value against "at least d" is 1, for requests and for pairs."""
    weight, rate, d = 0.25, 0.1, 0.02
    mean = 0.0
    for hit, event in product([False, True], repeat=2):
        p = rate + d if hit else rate
        chance = (weight if hit else 1 - weight) * (p if event else 1 - p)
        seen = difference.with_requests(Tally(), np.array([event]), np.array([hit]), np.array([weight]))
        mean += chance * seen.e_value(d)
    assert mean == pytest.approx(1.0)
    pairs = 0.0
    for c, s in product([False, True], repeat=2):
        chance = ((rate + d) if c else 1 - rate - d) * (rate if s else 1 - rate)
        pairs += chance * difference.with_pairs(Tally(), np.array([c]), np.array([s])).e_value(d)
    assert pairs == pytest.approx(1.0)


def test_nothing_is_known_of_a_difference_before_the_first_request():
    """All is possible."""
    assert difference.interval(Tally(), 0.05) == (-1.0, 1.0)


@pytest.mark.parametrize(("n", "upper", "lower"), [(200, 0.059, 0.044), (1000, 0.0226, 0.0192), (5000, 0.0101, 0.0093)])
def test_radius_of_a_fixed_quantile(n, upper, lower):
    """p95, tuned to 1,000 samples, 0.05 on each side: independent values of the same mixture."""
    radii = [sketch.rank_radius(n, g, 0.05, 1000) for g in (0.05, 0.95)]
    assert sorted(radii) == pytest.approx([lower, upper], abs=6e-4)


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_sketch_knows_each_quantile_to_one_percent(values, p):
    """Whatever the distribution, by rank among the sorted values."""
    exact = sorted(values)[math.ceil(p * len(values)) - 1]
    seen = sketch.with_values(sketch.Sketch(), values).quantile(p)
    assert exact * 0.9999 <= seen <= exact * 1.0101


def test_interval_of_a_high_quantile_has_no_end_before_there_is_enough():
    """Of 100 samples nobody can say how large the p99 is at most; of 5,000 one can."""
    rng = np.random.default_rng(1)
    few, many = (sketch.with_values(sketch.Sketch(), rng.lognormal(0, 0.8, n)) for n in (100, 5000))
    assert sketch.quantile_interval(few, 0.99, 0.05)[1] == math.inf
    low, high = sketch.quantile_interval(many, 0.99, 0.05)
    assert low < math.exp(0.8 * 2.3263) < high < math.inf


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_joined_moments_are_those_of_all_values(a, b):
    """Count, mean and variance do not depend on how values came in."""
    joined = means.joined(means.with_values(Moments(), a), means.with_values(Moments(), b))
    assert joined.n == len(a) + len(b)
    assert joined.mean == pytest.approx(np.mean([*a, *b]), abs=1e-6)
    assert joined.variance == pytest.approx(np.var([*a, *b], ddof=1), rel=1e-6, abs=1e-5)


def test_interval_of_means_covers_at_every_look():
    """Looked at after every ten values, the true difference lies inside for all looks together."""
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b, wrong = Moments(), Moments(), False
        for look in range(40):
            a, b = means.with_values(a, rng.normal(0.3, 1, 10)), means.with_values(b, rng.normal(0, 1, 10))
            low, high = means.difference(a, b, 0.1)
            wrong |= look >= 5 and not low <= 0.3 <= high
        missed += wrong
    assert missed <= 0.1 * 200


def test_a_different_mix_is_no_effect():
    """One arm has more of the slow stratum; weighted alike, nothing differs."""
    rng = np.random.default_rng(0)
    fast, slow = (means.with_values(Moments(), rng.normal(m, 0.1, 2000)) for m in (0.0, 2.0))
    few_fast, few_slow = (means.with_values(Moments(), rng.normal(m, 0.1, 200)) for m in (0.0, 2.0))
    effect, low, high = means.stratified([(fast, few_fast), (few_slow, slow)], 0.05)
    assert low < 0 < high and abs(effect) < 0.02


def test_no_bet_pays_at_the_bound():
    """Outcomes of mean exactly the bound: the mean of the capital after three is 1."""
    for above in (True, False):
        mean = sum(
            math.exp(with_outcomes(Bet(0.5, above), outcomes).log_capital) / 8
            for outcomes in product([0.0, 1.0], repeat=3)
        )
        assert mean == pytest.approx(1.0)


def test_bets_find_which_answers_are_preferred():
    """Stable's answers preferred in 20 % of the pairs, the candidate's in 10 %: told after some 200 pairs (median)."""
    needed = []
    for seed in range(60):
        rng, bet = np.random.default_rng(seed), Bet(0.5, above=False)
        while not bet.rejects(0.05) and bet.n < 3000:
            bet = with_outcomes(bet, rng.choice([0.0, 0.5, 1.0], 20, p=[0.2, 0.7, 0.1]))
        needed.append(bet.n)
    assert 120 < np.median(needed) < 300
