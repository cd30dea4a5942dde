"""Releases played through with the real judge, and the traffic that they are played with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout.errors import Refused
from rollout.nouns import Sample
from rollout.policy import Policy
from rollout.simulate import Effect, Simulated, right_answer, simulate
from rollout.traffic_model import Kind, TrafficModel, kinds_of, lognormal, times, traffic_of

TRAFFIC = TrafficModel(600, (Kind(1.0, lognormal(0.2, 0.5), lognormal(0.02, 0.2)),))
POLICY = Policy(steps=(100, 500), mirror=0, step_timeout_s=3600)
SLOWER = tuple(Effect(f"x{x}", ttft=x) for x in (1.25, 1.5, 2.0))


@pytest.fixture(scope="module")
def slower() -> Simulated:
    """Candidates that are slower to the first token, more and more."""
    return simulate(POLICY, TRAFFIC, 10, 3, SLOWER)


def recorded(n: int, seed: int = 1) -> list[Sample]:
    """Requests of two kinds, one a second: short prompts, and four times as slow long ones; one in ten fails."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        long, failed = i % 4 == 0, i % 10 == 0
        ttft = (0.8 if long else 0.2) * float(np.exp(0.1 * rng.normal()))
        size = 20_000 if long else 100
        found.append(
            Sample(float(i), 1, False, failed, ttft, ttft + 0.63, 64, error="5xx" if failed else "", bytes_in=size)
        )
    return found


def test_identical_candidates_are_promoted_and_hardly_ever_rolled_back() -> None:
    """Wrong rollbacks stay within the policy's level over the whole ramp."""
    found = simulate(replace(POLICY, steps=(200, 500)), TRAFFIC, 30, 1, [Effect()])
    assert found.wrong_rollbacks <= POLICY.alpha
    assert found.of("identical").promoted >= 0.9


def test_larger_effects_are_found_sooner_and_reach_fewer_users(slower: Simulated) -> None:
    """Time to the rollback and exposed users fall with the size of the regression."""
    found = [slower.of(effect.name) for effect in SLOWER]
    assert [r.rolled_back for r in found] == [1.0, 1.0, 1.0]
    assert sorted((r.median_s or 0.0 for r in found), reverse=True) == [r.median_s for r in found]
    assert found[0].exposed > found[1].exposed > found[2].exposed > 0


def test_a_seed_gives_the_same_table_and_another_seed_another(slower: Simulated) -> None:
    """Simulations can be repeated."""
    assert simulate(POLICY, TRAFFIC, 10, 3, SLOWER[2:]).of("x2.0") == slower.of("x2.0")
    assert simulate(POLICY, TRAFFIC, 10, 4, SLOWER[2:]).of("x2.0") != slower.of("x2.0")


def test_harm_seen_on_copies_reaches_no_user() -> None:
    """A candidate twice as slow is rolled back in the mirror stage."""
    found = simulate(replace(POLICY, mirror=500), TRAFFIC, 10, 1, [Effect("slow", ttft=2.0)]).of("slow")
    assert (found.rolled_back, found.exposed) == (1.0, 0.0)


def test_more_errors_roll_back_with_a_baseline_beside_the_candidate() -> None:
    """With a baseline of the candidate's size, ten times the errors are found."""
    found = simulate(replace(POLICY, baseline=True), TRAFFIC, 8, 1, [Effect("errors", errors=10.0)]).of("errors")
    assert found.rolled_back == 1.0
    assert found.harmed == pytest.approx(found.exposed * 9 * TRAFFIC.errors)


def test_too_little_traffic_is_undecided_and_never_good() -> None:
    """Where the time is up before the evidence suffices, nothing is promoted."""
    quiet = replace(TRAFFIC, per_minute=2.0)
    found = simulate(replace(POLICY, step_timeout_s=600.0), quiet, 10, 1, [Effect()]).of("identical")
    assert (found.undecided, found.promoted, found.median_s) == (1.0, 0.0, None)


def test_progress_is_told_for_each_effect() -> None:
    """A bar can be drawn: each effect's share grows to 1."""
    heard: list[tuple[str, float]] = []
    simulate(POLICY, TRAFFIC, 2, 1, SLOWER[2:], told=lambda name, share: heard.append((name, share)))
    assert heard == [("x2.0", 0.5), ("x2.0", 1.0)]


def test_what_should_become_of_a_candidate_follows_from_the_margins() -> None:
    """Within harm: promoted; beyond what is allowed: rolled back; between both, either answer is right."""
    answers = [
        right_answer(POLICY, TRAFFIC, e) for e in (Effect(), Effect(ttft=1.2), Effect(tpot=1.3), Effect(errors=5.0))
    ]
    assert answers == ["promoted", "either", "rolled back", "rolled back"]


def test_traffic_is_estimated_from_recorded_requests() -> None:
    """Rate, errors, and the latencies of each kind of request come back."""
    traffic = traffic_of(recorded(600))
    assert traffic.per_minute == pytest.approx(60, rel=0.01)
    assert traffic.errors == pytest.approx(0.1)
    assert sorted(round(kind.share, 2) for kind in traffic.kinds) == [0.25, 0.75]
    medians = {kind.bytes_in: float(np.median(kind.ttft_s)) for kind in traffic.kinds}
    assert medians == {100: pytest.approx(0.2, rel=0.05), 20_000: pytest.approx(0.8, rel=0.05)}
    assert np.median(traffic.kinds[0].tpot_s) == pytest.approx(0.01, rel=0.01)


def test_too_few_recorded_requests_are_refused_with_what_to_do() -> None:
    """A handful of requests is no traffic to judge a policy by."""
    with pytest.raises(Refused, match="--rate"):
        traffic_of(recorded(15))


def test_drawn_requests_follow_the_profile_and_the_shares_of_their_kinds() -> None:
    """Busy minutes get more requests, and each kind its share."""
    halves = replace(TRAFFIC, profile=(0.5, 1.5), kinds=(replace(TRAFFIC.kinds[0], share=0.2), TRAFFIC.kinds[0]))
    rng = np.random.default_rng(1)
    at = times(halves, 30.0, 1230.0, rng)
    busy = float(((at // 60) % 2 == 1).mean())
    assert (at.min() >= 30.0, at.max() <= 1230.0, bool((np.diff(at) >= 0).all())) == (True, True, True)
    assert busy == pytest.approx(0.75, abs=0.02)
    assert len(at) == pytest.approx(12_000, rel=0.03)
    assert (kinds_of(halves, 6000, rng) == 0).mean() == pytest.approx(1 / 6, abs=0.02)
