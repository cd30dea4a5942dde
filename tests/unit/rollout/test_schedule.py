"""The computed weights: their arithmetic, their bound, and what they gain."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.ranks import RankTest, with_scores
from rollout.growth import GRID, event_growth, not_found, rank_growth, scores, slow_share
from rollout.policy import AutoSteps, Policy
from rollout.schedule import harms, planned, quickest, schedule
from rollout.simulate import Effect, simulate
from rollout.traffic_model import Kind, TrafficModel, lognormal

KINDS = (Kind(1.0, lognormal(0.2, 0.5), lognormal(0.02, 0.3)),)
TRAFFIC = TrafficModel(600, KINDS)
POLICY = Policy(steps=(50, 250, 500), mirror=0, step_timeout_s=7200, auto=AutoSteps(most_harmed=50))


def test_the_time_until_evidence_is_found_is_inverse_gaussian() -> None:
    """The chance that it is not yet found agrees with SciPy's inverse Gaussian of mean L and shape L^2 / 2."""
    level = 5.0
    expected = stats.invgauss.sf(GRID[1:], mu=2 / level, scale=level**2 / 2)
    assert not_found(level)[1:] == pytest.approx(expected, abs=1e-9)


def test_growth_of_counted_events_is_that_of_the_test_itself() -> None:
    """The expected growth is what the ratio test gains from as many events, on average."""
    rng, weight, ratio, rate = np.random.default_rng(1), 0.2, 3.0, 0.1
    n = 40_000
    candidate = rng.random(n) < weight
    event = rng.random(n) < rate * np.where(candidate, ratio, 1.0)
    test = with_events(RatioTest(1.5, 0.0), candidate[event], np.full(int(event.sum()), weight), False)
    assert test.worse.now / n == pytest.approx(event_growth(rate, ratio, 1.5, weight), rel=0.1)


def test_growth_of_ranks_is_that_of_the_test_itself() -> None:
    """The expected growth is what the rank test gains from as many requests, on average."""
    rng, weight, n = np.random.default_rng(2), 0.3, 20_000
    slower, likely = scores(KINDS, "ttft_s", 1.3 / 1.1)
    candidate = rng.random(n) < weight
    score = np.where(candidate, rng.choice(slower, n, p=likely), rng.choice(scores(KINDS, "ttft_s", 1.0)[0], n))
    test = with_scores(RankTest(above=True), score, candidate, np.full(n, weight))
    assert test.wagers.now / n == pytest.approx(rank_growth(KINDS, "ttft_s", 1.3, 1.1, weight), rel=0.1)


def test_slow_requests_are_stables_slowest_tenth() -> None:
    """A tenth of stable's requests are slow, and more of a slower candidate's."""
    assert slow_share(KINDS, "ttft_s", 1.0) == pytest.approx(0.1, abs=0.005)
    expected = stats.norm.sf(stats.norm.ppf(0.9) - math.log(1.5) / 0.5)
    assert slow_share(KINDS, "ttft_s", 1.5) == pytest.approx(expected, abs=0.01)


def test_the_computed_schedule_keeps_its_bound_and_is_quicker_than_the_fixed_one() -> None:
    """It rises within the policy's limits and decides sooner than the steps it takes the place of."""
    found, fixed = quickest(POLICY, TRAFFIC), schedule(POLICY, TRAFFIC, POLICY.steps)
    assert found.kept
    assert found.harmed <= 50
    assert list(found.permille) == sorted(set(found.permille))
    assert POLICY.auto is not None
    assert POLICY.auto.first <= found.permille[0] <= found.permille[-1] <= POLICY.auto.largest
    assert found.minutes < fixed.minutes


def test_simulated_releases_keep_the_bound_and_gain_the_time() -> None:
    """Played through with the real judge: fewer suffer than was allowed, whatever the harm, in less time."""
    auto = planned(POLICY, TRAFFIC)
    sizes = {harm.name: harm.ratio for harm in harms(POLICY, TRAFFIC) if harm.metric == "TTFT"}
    slow = simulate(auto, TRAFFIC, 8, 1, [Effect(name, ttft=ratio) for name, ratio in sizes.items()])
    broken = simulate(auto, TRAFFIC, 8, 1, [Effect("broken", errors=1 / TRAFFIC.errors)])
    assert max(result.harmed for result in (*slow.results, *broken.results)) <= 50
    took = [simulate(p, TRAFFIC, 8, 2, [Effect()]).of("identical").median_s or 0.0 for p in (auto, POLICY)]
    assert took[0] < took[1]


@pytest.mark.parametrize("per_minute", [30.0, 60_000.0])
def test_a_tighter_bound_never_decides_sooner(per_minute: float) -> None:
    """Fewer who may suffer means smaller weights or more steps, at any traffic."""
    traffic = replace(TRAFFIC, per_minute=per_minute)
    plans = [quickest(replace(POLICY, auto=AutoSteps(most_harmed=most)), traffic) for most in (40, 80, 400)]
    assert plans[0].minutes >= plans[1].minutes >= plans[2].minutes


def test_busy_services_begin_small_so_that_a_broken_candidate_is_caught_in_time() -> None:
    """Where hundreds of requests arrive until the traffic is turned back, the first weight is smaller than the last."""
    busy = quickest(POLICY, replace(TRAFFIC, per_minute=60_000.0))
    quiet = quickest(POLICY, replace(TRAFFIC, per_minute=60.0))
    assert busy.permille[0] < quiet.permille[0]
    assert len(busy.permille) > 1


def test_a_bound_below_what_any_weight_can_keep_is_told() -> None:
    """The careful steps are taken, and ``kept`` says that more may suffer than was asked for."""
    found = quickest(replace(POLICY, auto=AutoSteps(most_harmed=1)), TRAFFIC)
    assert not found.kept
    assert found.harmed > 1
    assert "more than the 1 asked for: no weights keep that" in found.sentence


def test_steps_are_replaced_only_where_the_policy_asks_for_it() -> None:
    """A policy with steps of its own keeps them."""
    fixed = replace(POLICY, auto=None)
    assert planned(fixed, TRAFFIC) is fixed
    assert planned(POLICY, TRAFFIC).steps == quickest(POLICY, TRAFFIC).permille


def test_where_no_traffic_is_known_shares_stay_within_what_was_promised():
    """A quiet service gives its users no more than the largest share that the policy names."""
    assert planned(Policy(auto=AutoSteps(largest=100)), None).steps == (10, 50, 100)
    assert planned(Policy(auto=AutoSteps(first=20, largest=500)), None).steps == (20, 50, 250, 500)
    assert planned(Policy(auto=AutoSteps(first=100, largest=100)), None).steps == (100,)
