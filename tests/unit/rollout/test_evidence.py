"""The evidence of a release: it grows, is saved to the last bit, stays small, and pairs what was asked of both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import requests, samples

from rollout.evidence import (
    columns,
    evidence_of,
    fresh,
    next_stage,
    plain,
    with_columns,
    with_reference,
    with_routed,
    with_samples,
)
from rollout.nouns import Sample, Samples
from rollout.policy import Margin, Objectives, Policy

POLICY = Policy(e2e=Margin(1.15, 1.3), objectives=Objectives(ttft_s=0.5, e2e_s=4.0))


def grown(looks: int, seed: int = 1, per_look: int = 80, evidence=None, **kinds):
    """The evidence after so many seconds of traffic."""
    rng, evidence = np.random.default_rng(seed), evidence or fresh(POLICY)
    for second in range(looks):
        evidence = with_columns(evidence, requests(rng, per_look, 0.3, since=float(second), **kinds))
    return evidence


@given(st.integers(0, 12), st.floats(0, 0.2), st.sampled_from([(300.0,), (300.0, 5000.0, 40_000.0)]))
@settings(max_examples=15, deadline=None)
def test_saved_evidence_goes_on_exactly(looks, failing, sizes):
    """Written as JSON, read back, and fed on, it is the same to the last bit as evidence that was never saved."""
    before = grown(looks, failing=failing, bytes_in=sizes)
    back = evidence_of(json.loads(json.dumps(plain(before))))
    assert back == before
    assert grown(3, seed=2, evidence=back) == grown(3, seed=2, evidence=before)


def test_evidence_of_another_form_is_not_read():
    """A state that a later version writes differently is refused, not misread."""
    with pytest.raises(ValueError, match="form"):
        evidence_of({**plain(fresh(POLICY)), "form": 99})


def test_state_does_not_grow_with_requests():
    """Ten times the requests, the same size of state, but for longer numbers."""
    small, large = (len(json.dumps(plain(grown(60, per_look=n)))) for n in (500, 5000))
    assert large < 1.3 * small


def test_requests_outside_of_a_lease_say_nothing():
    """At a weight of 0 or 1 there is nothing to compare with; neither tests nor counts move."""
    rng = np.random.default_rng(0)
    seen = requests(rng, 100, 0.5)
    for weight in (0.0, 1.0):
        alone = replace(seen, weight=np.full(100, weight))
        assert with_columns(fresh(POLICY), alone) == fresh(POLICY)


def test_a_stratum_is_tested_once_its_reference_is_full():
    """Before fifty of stable's requests of a stratum, it is measured but not tested."""
    few = grown(1, per_look=40)
    assert few.latencies[0].slower.n == 0 and few.latencies[0].stable.n > 0
    assert grown(10, evidence=few).latencies[0].slower.n > 0


def test_the_reference_follows_the_load():
    """What was slow an hour ago may be fast now: both arms are ranked by stable's newest requests, within bounds."""
    rng, evidence = np.random.default_rng(1), fresh(POLICY)
    for second in range(60):
        seen = requests(rng, 40, 0.3, since=float(second))
        busy = 6.0 if second < 20 else 1.0
        evidence = with_columns(evidence, replace(seen, ttft=seen.ttft * busy))
    (reference,) = evidence.latencies[0].references.values()
    assert len(reference) == 100 and np.median(reference) < 0.4
    assert evidence.latencies[0].faster_tail.better.now > 3.0 and evidence.latencies[0].harm < 3.0


def test_stables_earlier_requests_are_a_reference_from_the_start():
    """With requests from before the release, the first one of the release is tested already."""
    rng = np.random.default_rng(0)
    known = with_reference(fresh(POLICY), samples(rng, 80, 0.2, weight=0.0))
    seen = with_columns(known, requests(rng, 10, 0.5))
    assert seen.latencies[0].slower.n == 10


def copy_of(sample: Sample, **changes) -> Sample:
    """The candidate's answer to the same request."""
    return sample._replace(version=2, mirrored=True, weight=0.5, at=sample.at + 0.002, **changes)


def live(rng, n: int) -> list[Sample]:
    """Requests that stable answered while copies were sent."""
    return [s._replace(request_id=f"r{i}") for i, s in enumerate(samples(rng, n, 0.2, weight=0.0))]


@pytest.mark.parametrize("late", [0, 7])
def test_copies_are_compared_with_what_they_are_copies_of(late):
    """By request id, in whatever look the two halves arrive; one that never comes is no pair."""
    rng = np.random.default_rng(4)
    answers = live(rng, 60)
    copies = [copy_of(s) for s in answers[::2]]
    evidence = with_reference(fresh(POLICY), samples(rng, 80, 0.2, weight=0.0))
    evidence = with_samples(evidence, Samples(tuple(answers), tuple(copies[late:])))
    evidence = with_samples(evidence, Samples((), tuple(copies[:late])))
    assert (evidence.n_stable, evidence.n_candidate) == (30, 30)
    assert evidence.counts[0].n_candidate == 30 and evidence.latencies[0].slower.n == 30


def test_equal_pairs_move_no_rank_and_odd_ones_do():
    """Answers as fast as stable's to the same requests prove that they are fast; ten times slower ones that not."""
    rng = np.random.default_rng(4)
    answers, known = live(rng, 120), with_reference(fresh(POLICY), samples(rng, 80, 0.2, weight=0.0))
    same = with_samples(known, Samples(tuple(answers), tuple(copy_of(s) for s in answers)))
    slow = [copy_of(s, ttft_s=s.ttft_s * 10, total_s=s.total_s * 10) for s in answers]
    worse = with_samples(known, Samples(tuple(answers), tuple(slow)))
    assert same.latencies[0].harm == 0.0 and same.latencies[0].faster.wagers.now > 3.0
    assert worse.latencies[0].harm > 10.0 and worse.latencies[0].allow < 0.0


def test_copies_that_fail_where_stable_did_not_are_harm():
    """Only what one of the two did wrong tells them apart; what both refuse is the request's fault."""
    rng = np.random.default_rng(4)
    answers = live(rng, 100)
    broken = {"failed": True, "error": "5xx", "ttft_s": None}
    worse = [copy_of(s, **(broken if i % 5 == 0 else {})) for i, s in enumerate(answers)]
    found = with_samples(fresh(POLICY), Samples(tuple(answers), tuple(worse))).counts[0]
    assert found.candidate == 20 and found.stable == 0 and found.harm > 5.0
    both = [s._replace(**broken) if i % 5 == 0 else s for i, s in enumerate(answers)]
    same = with_samples(fresh(POLICY), Samples(tuple(both), tuple(worse))).counts[0]
    assert same.candidate == same.stable == 20 and same.harm == 0.0


def test_each_kind_of_failure_counts_for_its_own_metric():
    """A refusal is no error, a client that left is neither; all miss the objectives, and so does a late answer."""
    rng = np.random.default_rng(2)
    kinds = ("5xx", "timeout", "cut", "empty", "malformed", "refused", "left", "")
    arm = tuple(
        s._replace(error=kind, failed=bool(kind), ttft_s=2.0 if not kind else None)
        for kind, s in zip(kinds, samples(rng, 8, 0.2), strict=True)
    )
    seen = with_samples(fresh(POLICY), Samples(samples(rng, 8, 0.2), arm))
    assert {test.name: test.candidate for test in seen.counts} == {
        "errors": 5, "refusals": 1, "goodput": 8, "abandoned": 1,
    }  # fmt: skip


def test_latencies_of_answers_that_went_wrong_are_not_compared():
    """A fast error is no fast answer; neither is half of a stream."""
    s = samples(np.random.default_rng(1), 3, 0.2)
    seen = columns((s[0]._replace(error="5xx", failed=True), s[1]._replace(cut=True)), (s[2],))
    assert np.isnan(seen.ttft[~seen.candidate]).all() and not np.isnan(seen.ttft[seen.candidate]).any()


def test_a_mix_of_longer_prompts_is_no_regression():
    """The candidate gets the long prompts, each as fast as stable answers such: nothing is proven against it."""
    rng = np.random.default_rng(3)
    long = [s._replace(bytes_in=9000) for s in samples(rng, 600, 2.0)]
    short = list(samples(rng, 600, 0.2))
    stable, candidate = (*short[:450], *long[:150]), (*short[450:], *long[150:])
    known = with_reference(
        fresh(POLICY), (*samples(rng, 200, 0.2, weight=0.0), *(s._replace(weight=0.0) for s in long))
    )
    found = with_samples(known, Samples(stable, candidate)).latencies[0]
    assert found.harm < 3.0


def test_a_broken_split_is_found_and_a_working_one_is_not():
    """Requests as routed, failed ones too: what the gateway does is tested, not what became of them."""
    rng = np.random.default_rng(1)
    good = with_routed(fresh(POLICY), [0.1] * 4000, list(rng.random(4000) < 0.1))
    bad = with_routed(fresh(POLICY), [0.1] * 4000, list(rng.random(4000) < 0.14))
    assert not good.split_broken and bad.split_broken


def test_a_new_stage_counts_anew_and_keeps_what_is_known():
    """The tests go on over the whole release; only the stage's own counts begin again."""
    before = grown(5)
    after = next_stage(before, 1)
    assert (after.n_stable, after.n_candidate, after.stage) == (0, 0, 1)
    assert after.latencies == before.latencies and after.counts == before.counts
