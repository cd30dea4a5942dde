"""How long until the margins can be told."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rollout.evidence import Evidence, fresh, with_columns
from rollout.forecast import Forecast, forecast
from rollout.judge import judge
from rollout.policy import Policy
from rollout.simulate import Effect, simulate
from rollout.traffic_model import Kind, TrafficModel, answers, kinds_of, lognormal, times

TRAFFIC = TrafficModel(600, (Kind(1.0, lognormal(0.2, 0.5), lognormal(0.02, 0.2)),))
POLICY = Policy(steps=(500,), mirror=0, step_timeout_s=7200)


def seen(seconds: float, effect: Effect = Effect(), weight: float = 0.5, seed: int = 1) -> Evidence:
    """The evidence after so long."""
    rng = np.random.default_rng(seed)
    at = times(TRAFFIC, 0.0, seconds, rng)
    candidate = rng.random(len(at)) < weight
    rows = answers(TRAFFIC, at, kinds_of(TRAFFIC, len(at), rng), candidate, weight, effect, rng)
    evidence = fresh(POLICY)
    for part in np.array_split(np.arange(len(rows)), 10):
        evidence = with_columns(evidence, rows.rows(part))
    return evidence


def told(evidence: Evidence, per_s: float = 10.0, weight: float = 0.5, left_s: float = 86_400.0) -> Forecast:
    """The forecast of what was seen."""
    return forecast(evidence, judge(evidence, POLICY), POLICY, per_s, weight, left_s)


def test_the_proof_takes_about_as_long_as_it_is_told() -> None:
    """Early forecasts of an identical candidate agree with simulated releases, within a factor of three."""
    took = simulate(POLICY, TRAFFIC, 15, 1, [Effect()]).of("identical").median_s or 0.0
    early = float(np.median([30 + told(seen(30, seed=seed)).proven_s for seed in range(9)]))
    assert took / 3 < early < took * 3


def test_harm_takes_about_as_long_as_it_is_told() -> None:
    """The time until a TTFT that is a quarter longer is found agrees with simulated releases, within a factor of 3."""
    took = simulate(POLICY, TRAFFIC, 15, 1, [Effect("slow", ttft=1.25)]).of("slow").median_s or 0.0
    ttft = next(metric for metric in told(seen(30)).metrics if metric.metric == "TTFT")
    assert ttft.harm == "TTFT +25%"
    assert took / 3 < ttft.found_s < took * 3


def test_twice_the_traffic_takes_half_as_long() -> None:
    """Times are inverse to the rate."""
    evidence = seen(60)
    assert told(evidence, 20.0).proven_s == pytest.approx(told(evidence, 10.0).proven_s / 2)


def test_less_is_missing_the_more_was_seen() -> None:
    """The forecast of TTFT's proof falls until nothing is missing."""
    ahead = [next(m for m in told(seen(s)).metrics if m.metric == "TTFT").proven_s for s in (20, 600)]
    assert ahead[0] > 0
    assert ahead[1] == 0.0


def test_a_small_share_takes_longer_than_half_of_the_traffic() -> None:
    """Evidence per second grows with w (1 - w)."""
    assert told(seen(60, weight=0.05), weight=0.05).proven_s > 2 * told(seen(60)).proven_s


def test_what_cannot_be_told_in_the_time_left_is_said_so() -> None:
    """With a request a minute an hour does not suffice, and the sentence says it."""
    slow = told(seen(30), per_s=1 / 60, left_s=3600.0)
    assert slow.proven_s > 3600
    assert "not reachable at this traffic in the 60 min left" in slow.sentence


def test_the_sentence_names_what_takes_longest_and_the_traffic() -> None:
    """A person reads how long, at which rate, and for what."""
    sentence = told(seen(30)).sentence
    assert sentence.startswith("at 300 requests/min of the candidate: about ")
    assert " to prove errors within +1.0%; about " in sentence


def test_without_traffic_there_is_no_forecast() -> None:
    """No request: no time is told, and none is promised."""
    quiet = told(fresh(POLICY), per_s=0.0)
    assert math.isinf(quiet.proven_s)
    assert quiet.sentence == "no forecast: the candidate gets no requests"


def test_the_least_of_a_stage_is_waited_for() -> None:
    """A policy that demands more requests than the proof needs is told to need them."""
    demanding = replace(POLICY, min_samples=100_000)
    evidence = seen(600)
    found = forecast(evidence, judge(evidence, demanding), demanding, 10.0, 0.5)
    assert found.least_s > 10_000
    assert "have the requests and the time the stage asks" in found.sentence
