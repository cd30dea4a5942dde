"""The judge: three answers, each for the right reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from strategies import samples

from rollout.judge import judge, judge_alone
from rollout.nouns import Outcome, Sample, Samples
from rollout.policy import Margin, Policy

POLICY = Policy()


def verdict(candidate_kw=None, n=400, seed=1, policy=POLICY):
    rng = np.random.default_rng(seed)
    return judge(
        Samples(samples(rng, n, 0.1), samples(rng, n, **{"median_s": 0.1, **(candidate_kw or {})})), policy, 0.5
    )


def test_equal_arms_are_promoted_with_enough_samples():
    """Two arms of the same kind: good enough on every metric."""
    found = verdict()
    assert found.outcome is Outcome.PROMOTE
    assert [f.outcome for f in found.findings] == [Outcome.PROMOTE] * 3


@pytest.mark.parametrize(("change", "metric"), [({"median_s": 0.2}, "TTFT"), ({"failing": 0.2}, "errors")])
def test_a_worse_candidate_is_rolled_back_for_the_right_reason(change, metric):
    """The metric that is worse says so, with the numbers behind it."""
    found = verdict(change)
    assert found.outcome is Outcome.ROLL_BACK
    harmful = {f.metric for f in found.findings if f.outcome is Outcome.ROLL_BACK}
    assert metric in harmful
    assert metric in found.reason and "400" in found.reason


def test_silence_is_never_success():
    """No samples, or one arm without any: not yet decidable."""
    assert judge(Samples((), ()), POLICY, 0.5).outcome is Outcome.UNDECIDED
    some = samples(np.random.default_rng(0), 500, 0.1)
    assert judge(Samples(some, ()), POLICY, 0.5).outcome is Outcome.UNDECIDED
    assert judge(Samples((), some), POLICY, 0.5).outcome is Outcome.UNDECIDED


def test_few_samples_do_not_promote():
    """Under the least number of samples nothing is promoted, however good it looks."""
    assert verdict(n=POLICY.min_samples - 1).outcome is Outcome.UNDECIDED


def test_a_cut_stream_counts_as_an_error():
    """A stream that ends too early is as bad as an error, though its status was 200."""
    rng = np.random.default_rng(3)
    whole = samples(rng, 200, 0.1)
    cut = tuple(
        Sample(s.at, 2, False, False, s.ttft_s, s.total_s, 3, cut=s.at % 4 == 0) for s in samples(rng, 200, 0.1)
    )
    found = judge(Samples(whole, cut), POLICY, 0.5)
    assert found.outcome is Outcome.ROLL_BACK
    assert found.findings[0].candidate == pytest.approx(0.25)


def test_looking_often_seldom_rolls_back_a_candidate_that_is_just_at_the_bound():
    """The truth on the bound of harm, a look every few requests: wrong roll backs stay within the stated level."""
    policy = replace(POLICY, alpha=0.2, steps=(500,), mirror=0, tpot=Margin(1.2, 100.0))
    wrong, runs = 0, 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        stable, candidate = samples(rng, 150, 0.1), samples(rng, 150, 0.1 * policy.ttft.harm)
        slow = tuple(s._replace(total_s=s.ttft_s + 0.15) for s in candidate)  # its TPOT is as stable's
        steady = tuple(s._replace(total_s=s.ttft_s + 0.15) for s in stable)
        looks = (judge(Samples(steady[:n], slow[:n]), policy, 0.5).outcome for n in range(20, 151, 5))
        wrong += any(outcome is Outcome.ROLL_BACK for outcome in looks)
    assert wrong / runs <= 0.2 / 3 + 3 * (0.0667 * 0.9333 / runs) ** 0.5


def test_whole_answers_are_judged_by_time_per_token():
    """Clients that do not stream have no first token; their time per token is compared, and nothing waits for TTFT."""
    rng = np.random.default_rng(5)
    stable = tuple(s._replace(streamed=False) for s in samples(rng, 300, 0.1))
    same = tuple(s._replace(streamed=False) for s in samples(rng, 300, 0.1))
    slow = tuple(s._replace(streamed=False) for s in samples(rng, 300, 0.2))
    assert judge(Samples(stable, same), POLICY, 0.5).outcome is Outcome.PROMOTE
    found = judge(Samples(stable, slow), POLICY, 0.5)
    assert found.outcome is Outcome.ROLL_BACK and "TPOT" in found.reason


def test_a_first_version_is_judged_alone():
    """Nothing to compare with: it must answer, and fail no more than the limit."""
    good, bad = Sample(0, 1, False, False, 0.1, 0.2, 4), Sample(0, 1, False, True, None, None, None)
    assert judge_alone((good,) * 20, 0.05, 10).outcome is Outcome.PROMOTE
    assert judge_alone((good,) * 5, 0.05, 10).outcome is Outcome.UNDECIDED
    assert judge_alone((good,) * 18 + (bad,) * 2, 0.05, 10).outcome is Outcome.ROLL_BACK
