"""The judge: three answers, each for the right reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from strategies import requests, samples

from rollout.evidence import fresh, next_stage, with_columns, with_reference, with_routed, with_samples
from rollout.judge import judge, judge_alone
from rollout.nouns import Finding, Outcome, Sample, Samples
from rollout.policy import Margin, Policy

POLICY = Policy()


def known(policy=POLICY, seed=9):
    """Evidence that knows how stable answered before."""
    return with_reference(fresh(policy), samples(np.random.default_rng(seed), 200, 0.1, weight=0.0))


def verdict(stable=None, candidate=None, n=900, seed=1, policy=POLICY):
    """After ``n`` requests of each arm, which are drawn alike but for what is asked for."""
    rng = np.random.default_rng(seed)
    evidence = known(policy)
    for _ in range(10):
        arms = (samples(rng, n // 10, **{"median_s": 0.1, **(kinds or {})}) for kinds in (stable, candidate))
        evidence = with_samples(evidence, Samples(*arms))
    return judge(evidence, policy)


def test_equal_arms_are_promoted_with_enough_samples():
    """Two arms of the same kind: good enough on every metric."""
    found = verdict()
    assert found.outcome is Outcome.PROMOTE
    assert {f.metric: f.outcome for f in found.findings} == dict.fromkeys(
        ("errors", "refusals", "abandoned", "TTFT", "TPOT"), Outcome.PROMOTE
    )


@pytest.mark.parametrize(("change", "metric"), [({"median_s": 0.2}, "TTFT"), ({"failing": 0.2}, "errors")])
def test_a_worse_candidate_is_rolled_back_for_the_right_reason(change, metric):
    """The metric that is worse says so, with the numbers behind it."""
    found = verdict(candidate=change)
    assert found.outcome is Outcome.ROLL_BACK
    harmful = {f.metric: f for f in found.findings if f.outcome is Outcome.ROLL_BACK}
    assert metric in harmful and harmful[metric].harm_e >= harmful[metric].harm_needs
    assert metric in found.reason and "proven" in found.reason and "900" in found.reason


def test_the_sentence_tells_effect_certainty_and_margin():
    """As an engineer says it: how much, how sure, over how many, against which bound."""
    found = next(f for f in verdict().findings if f.metric == "TTFT")
    for piece in (
        "TTFT of the candidate is",
        "x stable's, 95 % sure between",
        "p95",
        "900 and 900",
        "margin 1.25x: within",
    ):
        assert piece in found.sentence
    assert found.low < found.effect < found.high and found.n_candidate == 900


def test_silence_is_never_success():
    """No samples, or one arm without any: not yet decidable."""
    some = samples(np.random.default_rng(0), 500, 0.1)
    for arms in (Samples((), ()), Samples(some, ()), Samples((), some)):
        assert judge(with_samples(known(), arms), POLICY).outcome is Outcome.UNDECIDED


def test_a_stage_needs_samples_of_its_own():
    """Whatever earlier stages have proven, the present one has to see the least number of each arm."""
    rng, evidence = np.random.default_rng(1), known()
    proven = with_samples(evidence, Samples(samples(rng, 900, 0.1), samples(rng, 900, 0.1)))
    assert judge(proven, POLICY).outcome is Outcome.PROMOTE
    found = judge(next_stage(proven, 1), POLICY)
    assert found.outcome is Outcome.UNDECIDED and "20 of each are needed" in found.reason


def test_a_metric_of_which_nothing_is_known_is_not_good():
    """The candidate's answers have no token counts: its time per token is unknown, whatever stable's says."""
    rng, evidence = np.random.default_rng(1), known()
    for _ in range(10):
        silent = tuple(s._replace(tokens_out=None) for s in samples(rng, 90, 0.1))
        evidence = with_samples(evidence, Samples(samples(rng, 90, 0.1), silent))
    found = {f.metric: f for f in judge(evidence, POLICY).findings}
    assert found["TPOT"].outcome is Outcome.UNDECIDED and "0 and 900 requests" in found["TPOT"].sentence
    assert found["TTFT"].outcome is Outcome.PROMOTE


def test_an_early_stage_asks_for_a_part_of_the_proof():
    """A fraction of the requests lets an early stage pass, and the whole proof is still open."""
    evidence = with_samples(known(), Samples(*(samples(np.random.default_rng(s), 250, 0.1) for s in (1, 2))))
    assert judge(evidence, POLICY, part=0.2).outcome is Outcome.PROMOTE
    assert judge(evidence, POLICY, part=1.0).outcome is Outcome.UNDECIDED


def test_a_cut_stream_counts_as_an_error():
    """A stream that ends too early is as bad as an error, and the reason names it."""
    rng = np.random.default_rng(3)
    whole = samples(rng, 200, 0.1)
    cut = tuple(s._replace(cut=i % 4 == 0) for i, s in enumerate(samples(rng, 200, 0.1)))
    found = judge(with_samples(known(), Samples(whole, cut)), POLICY)
    assert found.outcome is Outcome.ROLL_BACK and "50 cut" in found.reason
    assert found.findings[0].candidate == pytest.approx(0.25)


def test_errors_in_long_prompts_alone_are_found_and_named():
    """One request in twelve is long, and each such fails: the reason says where."""
    rng = np.random.default_rng(3)
    arms = [
        [s._replace(bytes_in=9000 if i % 12 == 0 else 300) for i, s in enumerate(samples(rng, 240, 0.1))]
        for _ in range(2)
    ]
    stable, candidate = arms
    broken = [s._replace(failed=True, error="5xx") if s.bytes_in > 8000 else s for s in candidate]
    found = judge(with_samples(known(), Samples(tuple(stable), tuple(broken))), POLICY)
    assert found.outcome is Outcome.ROLL_BACK and "most of all in prompts of 8 to 32 kB" in found.reason


def test_whole_answers_are_judged_by_time_per_token():
    """Clients that do not stream have no first token; their time per token is compared, and nothing waits for TTFT."""
    rng = np.random.default_rng(5)

    def whole(median_s):
        return tuple(s._replace(streamed=False) for s in samples(rng, 900, median_s))

    base = with_reference(fresh(POLICY), whole(0.1))
    base = replace(base, latencies=tuple(replace(t, cells={}) for t in base.latencies))
    assert judge(with_samples(base, Samples(whole(0.1), whole(0.1))), POLICY).outcome is Outcome.PROMOTE
    found = judge(with_samples(base, Samples(whole(0.1), whole(0.2))), POLICY)
    assert found.outcome is Outcome.ROLL_BACK and "TPOT" in found.reason


def test_a_broken_split_stops_the_judging():
    """Where the gateway does not deliver what was asked, nothing is promoted or blamed; waiting will not help."""
    rng = np.random.default_rng(1)
    evidence = with_routed(known(), [0.1] * 3000, list(rng.random(3000) < 0.2))
    found = judge(with_samples(evidence, Samples(samples(rng, 900, 0.1), samples(rng, 900, 0.3))), POLICY)
    assert found.outcome is Outcome.UNDECIDED and found.stuck and "sample ratio" in found.reason
    veto = Finding("veto gpu", Outcome.ROLL_BACK, None, None, None, None, 1.0, 0, 0, "veto gpu: 93 above 85")
    assert judge(evidence, POLICY, others=[veto]).outcome is Outcome.ROLL_BACK  # that one needs no split


def test_findings_from_elsewhere_count_as_much():
    """A veto rolls back, and one without data keeps the release from being promoted."""
    evidence = known()
    veto = Finding("veto gpu", Outcome.ROLL_BACK, None, None, None, None, 1.0, 0, 0, "veto gpu: 93 above 85")
    assert judge(evidence, POLICY, others=[veto]).outcome is Outcome.ROLL_BACK
    silent = replace(veto, outcome=Outcome.UNDECIDED, sentence="veto gpu: no data")
    good = verdict()
    assert good.outcome is Outcome.PROMOTE
    rng = np.random.default_rng(1)
    full = with_samples(evidence, Samples(samples(rng, 900, 0.1), samples(rng, 900, 0.1)))
    assert judge(full, POLICY, others=[silent]).outcome is Outcome.UNDECIDED


def test_the_levels_of_all_metrics_add_up_to_the_policys():
    """No metric may be wrong more often than its share of the release's level."""
    found = judge(fresh(POLICY), POLICY)
    assert sum(1 / f.harm_needs for f in found.findings) == pytest.approx(POLICY.alpha)


def test_a_slow_stratum_is_shown_among_the_worst():
    """Only long prompts are slow: their stratum leads the list, with both arms' numbers."""
    rng, policy = np.random.default_rng(6), replace(POLICY, tpot=None)
    evidence = fresh(policy)
    for second in range(40):
        seen = requests(rng, 100, 0.3, since=float(second), bytes_in=(300.0, 300.0, 300.0, 5000.0))
        slow = np.where(seen.candidate & (seen.bytes_in > 2000), seen.ttft * 2.5, seen.ttft)
        evidence = with_columns(evidence, replace(seen, ttft=slow))
    worst = judge(evidence, policy).findings[-1].worst[0]
    assert worst.name == "prompts of 2 to 8 kB" and worst.candidate > 1.8 * worst.stable and worst.n_candidate > 200


def test_margins_that_lie_far_apart_leave_a_grey_zone_to_time():
    """A candidate between the two margins may be promoted or turned back; with margins that touch, never both."""
    policy = replace(POLICY, ttft=Margin(1.3, 1.3), tpot=None)
    found = verdict(candidate={"median_s": 0.2}, policy=policy)
    assert found.outcome is Outcome.ROLL_BACK


def test_a_first_version_is_judged_alone():
    """Nothing to compare with: it must answer, and fail no more than the limit."""
    good, bad = Sample(0, 1, False, False, 0.1, 0.2, 4), Sample(0, 1, False, True, None, None, None)
    assert judge_alone((good,) * 20, 0.05, 10).outcome is Outcome.PROMOTE
    assert judge_alone((good,) * 5, 0.05, 10).outcome is Outcome.UNDECIDED
    assert judge_alone((good,) * 18 + (bad,) * 2, 0.05, 10).outcome is Outcome.ROLL_BACK
