"""Simulated releases, seeded: as many wrong rollbacks as stated at most, and at least the power that is promised.

The tests of single events look after each of them. The numbers to reach are those of the design's simulations:
log-normal TTFT (sigma 0.8), level 0.05, two hours, 600 or 60 requests a minute, a tenth of them the candidate's, or a
ramp of 1, 5, 25 and 50 % with load that swings by 80 % and an error rate that jumps threefold.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from benchmarks.verdict_traffic import Case, draw
from rollout.evidence import fresh, with_columns
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.latency import log_mean
from rollout.evidence.ranks import RankTest, with_scores
from rollout.judge import judge
from rollout.nouns import Outcome
from rollout.policy import Policy

ALPHA, MINUTES, SIGMA, P90 = 0.05, 120, 0.8, math.exp(0.8 * 1.2815515655446004)
RAMP = (0.01, 0.05, 0.25, 0.5)


def most(runs: int, level: float = ALPHA) -> int:
    """So many wrong answers are as good as never exceeded at that level."""
    return int(binom.ppf(0.9999, runs, level))


def first_minute(test: RatioTest, at: np.ndarray, hit: np.ndarray, weight: np.ndarray, ok: bool = False) -> float:
    """The minute after which the test has found harm (with ``ok``: that all is well); infinite where it never does."""
    ends = np.searchsorted(at, np.arange(1, MINUTES + 1))
    for minute, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
        test = with_events(test, hit[begin:end], weight[begin:end], interval=False)
        if (test.allowed if ok else test.harmful)(ALPHA):
            return minute
    return math.inf


def exceedances(rng, slower: float, per_minute: float):
    """Events above stable's frozen p90 in time, whose they are, and the weights: 600 or 60 requests a minute."""
    n = rng.poisson(per_minute * MINUTES)
    hit = rng.random(n) < 0.1
    over = rng.lognormal(0, SIGMA, n) * np.where(hit, slower, 1.0) > P90
    return np.sort(rng.random(n))[over] * MINUTES, hit[over], np.full(int(over.sum()), 0.1)


def errors(rng, more: float, per_minute: float):
    """The same for errors on the ramp: steps of a quarter of an hour, load of 0.2 to 1.8 times, 0.5 or 1.5 %."""
    minute = np.arange(MINUTES)
    counts = rng.poisson(per_minute * (1 + 0.8 * np.sin(2 * np.pi * minute / 45)))
    when = np.repeat(minute, counts)
    weight = np.array(RAMP)[np.minimum(when // 15, 3)]
    hit = rng.random(len(when)) < weight
    base = 0.005 * np.where(when // 15 % 2 == 1, 3.0, 1.0)
    bad = rng.random(len(when)) < base * np.where(hit, more, 1.0)
    return when[bad] + 0.5, hit[bad], weight[bad]


def found(
    draw_events, runs: int, *asked: float, test: RatioTest | None = None, ok: bool = False
) -> tuple[float, float]:
    """(share of the runs in which it is found, median minute of those)."""
    minutes = [
        first_minute(test or RatioTest(1.0, 0.0), *draw_events(np.random.default_rng((seed, 1)), *asked), ok=ok)
        for seed in range(runs)
    ]
    told = [m for m in minutes if m < math.inf]
    return len(told) / runs, float(np.median(told)) if told else math.inf


@pytest.mark.parametrize("per_minute", [600, 60])
@pytest.mark.parametrize("events", [exceedances, errors])
def test_identical_arms_are_seldom_told_apart(events, per_minute):
    """A look after every event of a whole release: at most the stated level, whatever load, rates and weights do."""
    runs, wrong = 250, 0
    for seed in range(runs):
        _, hit, weight = events(np.random.default_rng((seed, 2)), 1.0, per_minute)
        wrong += with_events(RatioTest(1.0, 0.0), hit, weight, interval=False).harm_peak >= -math.log(ALPHA)
    assert wrong <= most(runs)


@pytest.mark.parametrize(
    ("slower", "per_minute", "share", "minute"),
    [(1.1, 600, 1.0, 30), (1.25, 600, 1.0, 6), (1.5, 600, 1.0, 2), (2.0, 600, 1.0, 1)],
)
def test_power_of_exceedances(slower, per_minute, share, minute):
    """A candidate that is slower is found as often, and as soon, as the design's simulation says."""
    runs = 60
    often, median = found(exceedances, runs, slower, per_minute)
    assert often * runs >= binom.ppf(0.001, runs, share) and median <= max(1.2 * minute, minute + 1)


def slower_at(rng, slower: float, per_minute: float) -> float:
    """The minute at which ranks and exceedances together, as a latency is judged, find harm without any margin."""
    ranks, tails = RankTest(above=True), RatioTest(1.0, 0.0)
    for minute in range(1, MINUTES + 1):
        n = rng.poisson(per_minute)
        hit, w = rng.random(n) < 0.1, np.full(n, 0.1)
        x = rng.lognormal(0, SIGMA, n) * np.where(hit, slower, 1.0)
        ranks = with_scores(ranks, ndtr(np.log(x) / SIGMA), hit, w)
        tails = with_events(tails, hit[x > P90], w[x > P90], interval=False)
        if log_mean([(0.6, ranks.wagers.now), (0.25, tails.worse.now), (0.15, 0.0)]) >= -math.log(ALPHA):
            return minute
    return math.inf


@pytest.mark.parametrize(
    ("slower", "per_minute", "share", "minute"),
    [(1.1, 600, 1.0, 30), (1.25, 600, 1.0, 6), (1.5, 600, 1.0, 2), (1.25, 60, 0.9, 39), (1.5, 60, 1.0, 11)],
)
def test_power_of_a_latency(slower, per_minute, share, minute):
    """Both tests of a latency, averaged: no later than exceedances were in the design, with little traffic too."""
    runs = 40
    minutes = [slower_at(np.random.default_rng((seed, 5)), slower, per_minute) for seed in range(runs)]
    assert sum(m < math.inf for m in minutes) >= binom.ppf(0.001, runs, share)
    assert np.median(minutes) <= max(minute, 2)


def test_a_latency_of_identical_arms_is_seldom_told_apart():
    """Ranks and exceedances together, looked at each minute for two hours: at most the stated level."""
    runs = 60
    wrong = sum(slower_at(np.random.default_rng((seed, 6)), 1.0, 60) < math.inf for seed in range(runs))
    assert wrong <= most(runs)


@pytest.mark.parametrize(
    ("more", "per_minute", "share", "minute"),
    [(2.0, 600, 1.0, 49), (3.0, 600, 1.0, 23), (10.0, 600, 1.0, 8), (3.0, 60, 0.97, 67), (10.0, 60, 1.0, 22)],
)  # fmt: skip
def test_power_of_errors(more, per_minute, share, minute):
    """On the ramp, with swinging load and jumping rates."""
    runs = 60
    often, median = found(errors, runs, more, per_minute)
    assert often * runs >= binom.ppf(0.001, runs, share) and median <= 1.25 * minute


@pytest.mark.parametrize(
    ("slower", "ok", "share", "minute"),
    [(1.0, True, 1.0, 7), (1.1, True, 0.99, 24), (1.25, False, 0.99, 16), (1.5, False, 1.0, 3)],
)  # fmt: skip
def test_power_of_the_two_margins(slower, ok, share, minute):
    """Above 1.25 times the exceedances is bad, below 1.5 good: each is told as often and as soon as designed."""
    runs, pair = 60, RatioTest(1.25, 1.5)
    often, median = found(exceedances, runs, slower, 600, test=pair, ok=ok)
    assert often * runs >= binom.ppf(0.001, runs, share) and median <= max(1.25 * minute, minute + 1)


UNSTEADY = {
    "steady": Case("steady"),
    "drift": Case("drift", swing=0.8, drift=0.5),
    "bursts": Case("bursts", burst=4.0, drift=0.2),
    "jumping errors": Case("jumps", jumps=3.0),
    "instances": Case("instances", instances=0.05),
}


def released(case: Case, rng, policy: Policy, minutes: int = 6, per_look: int = 60) -> Outcome:
    """The first decision of the whole judge over a ramp; goes on to the end where it would be promoted."""
    evidence = fresh(policy)
    for weight in RAMP:
        seen = draw(case, rng, minutes, weight)
        for begin in range(0, len(seen), per_look):
            evidence = with_columns(evidence, seen.rows(np.arange(begin, min(begin + per_look, len(seen)))))
        if judge(evidence, policy).outcome is Outcome.ROLL_BACK:
            return Outcome.ROLL_BACK  # the largest e-value is kept: one judgement a stage sees each look
    return judge(evidence, policy).outcome


@pytest.mark.parametrize("name", UNSTEADY)
def test_the_whole_judge_rolls_no_identical_candidate_back(name):
    """All metrics at once over the ramp, margins on: no more than the level, under all that is common to both arms."""
    runs, policy = 20, replace(Policy(), min_samples=20)
    case = replace(UNSTEADY[name], per_minute=240.0)
    ended = [released(case, np.random.default_rng((seed, 3)), policy) for seed in range(runs)]
    assert sum(e is Outcome.ROLL_BACK for e in ended) <= binom.ppf(0.99, runs, ALPHA)


@pytest.mark.parametrize("worse", [{"slower": 1.5}, {"errors": 6.0}])
def test_the_whole_judge_finds_what_is_worse(worse):
    """Half as slow again, or six times the errors: rolled back in each run, whatever drifts."""
    case = Case("worse", per_minute=240.0, swing=0.8, drift=0.3, **worse)
    ended = [released(case, np.random.default_rng((seed, 4)), Policy()) for seed in range(8)]
    assert all(e is Outcome.ROLL_BACK for e in ended)
