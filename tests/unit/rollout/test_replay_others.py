"""Compared answers and vetoes of a past release judged again: what is kept decides, what is not is told."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.agreement import fresh, plain, with_comparisons, with_measured
from rollout.agreement_limits import OutputLimits
from rollout.answers import Comparison, Question, Reply, compare
from rollout.json_text import json_text
from rollout.nouns import Outcome, Sample
from rollout.policy import OnTimeout, Policy, Veto
from rollout.recorded import Batch, Readings, Recorded, comparison_of, plain_comparison
from rollout.replay import BEFORE_TRAFFIC, replay
from rollout.vetoes import Reading

POLICY = Policy(steps=(500,), mirror=0, ttft=None, tpot=None, refusals=None, abandoned=0.0, settle_s=0.0)
OUTPUTS = replace(POLICY, outputs=OutputLimits())
STRICT = replace(POLICY, outputs=OutputLimits(perplexity_harm=1.1, perplexity_allow=1.2))
ROWS = [("canary 50 %", Sample(float(n), 1 + n % 2, False, False, 0.1, 0.5, 8, weight=0.5)) for n in range(1200)]
VETO = Veto("gpu", "max(temperature)", above=80.0, for_s=10.0)
HOT = replace(POLICY, vetoes=(VETO,))


def says(policy, rows=ROWS, **recorded):
    """What is said of those requests, which are good."""
    return replay(rows, 2, policy, recorded=Recorded(**recorded))


def prompts(loss: float, count: int = 40, **more) -> Batch:
    """Answers that are alike, but right ones are less likely."""
    seen = Comparison(1.0, 1.0, None, 1.0, (-10.0, -10.0 - 10 * loss, 10))
    return Batch((seen,) * count, **({"sets": ("bundled",), "prompts": 40, "asked": count} | more))


def compared(*batches: Batch) -> dict:
    return {"batches": batches, "sets": batches[0].sets}


def readings(*values, begins=(0,), every=5.0, query=VETO.query):
    """One asking every few seconds; None: no data."""
    return [
        Readings(n * every, {query: Reading({}, "down") if v is None else Reading({"": v})}, n in begins)
        for n, v in enumerate(values)
    ]


def test_other_limits_say_something_else_of_the_same_answers():
    """1.35 times the perplexity is within 2, and beyond 1.1: the one is promoted, the other gets no user's request."""
    kept = compared(prompts(0.3))
    assert says(OUTPUTS, **kept).outcome is Outcome.PROMOTE
    again = says(STRICT, **kept)
    assert again.outcome is Outcome.ROLL_BACK and "limit of perplexity" in again.reason and again.n_candidate == 0
    assert [p.stage for p in again.stages] == [BEFORE_TRAFFIC] and not again.not_judged


def test_prompts_that_do_not_tell_end_as_the_policy_says_before_any_user():
    """All twelve were asked, and it takes eighteen: it rolls back, asks, or holds on; pairs may still tell."""
    kept = compared(prompts(0.0, count=12, prompts=12))
    ended = says(OUTPUTS, **kept)
    assert ended.outcome is Outcome.ROLL_BACK and ended.stages[-1].stage == BEFORE_TRAFFIC
    asked = says(replace(OUTPUTS, on_timeout=OnTimeout.ASK), **kept)
    assert asked.outcome is Outcome.UNDECIDED and "all the same" in asked.asked[0].question and asked.at_s == 0
    held = says(replace(OUTPUTS, on_timeout=OnTimeout.HOLD), **kept)
    assert held.outcome is Outcome.UNDECIDED and held.stages[-1].stage == "canary 50 %" and not held.not_judged
    no_answers = replace(OUTPUTS, mirror=200, outputs=OutputLimits(perplexity_harm=0.0, perplexity_allow=0.0))
    later = says(no_answers, **compared(prompts(0.0, count=12, prompts=12, pairs=True)))
    assert later.stages[-1].stage != BEFORE_TRAFFIC


def test_a_person_is_asked_before_the_first_stage_too():
    """And taken to say yes to what is proven."""
    again = says(replace(OUTPUTS, approvals=("canary 50 %",)), **compared(prompts(0.0)))
    assert again.outcome is Outcome.PROMOTE and again.asked[0].question.startswith("go on with canary 50 %?")


def test_prompts_that_were_not_asked_then_are_told_and_nobody_is_promoted_without():
    """Its own policy had seen enough after twelve."""
    again = says(OUTPUTS, **compared(prompts(0.0, count=12)))
    assert again.outcome is Outcome.UNDECIDED and "outputs could not be judged again" in again.reason
    assert [part.what for part in again.not_judged] == ["outputs"] and "12 of 40" in again.not_judged[0].why


@pytest.mark.parametrize(
    ("asked", "wanted", "word"),
    [
        (("bundled",), ("mine.jsonl",), "mine.jsonl"),
        (("bundled",), ("bundled", "model"), "not by those of model"),
        (("bundled", "dvc:own@1"), ("bundled", "model"), ""),
        (("dvc:own@1",), ("model",), ""),
    ],
)
def test_other_prompts_than_the_policys_prove_nothing_good(asked, wanted, word):
    """The model's own set is the one that was asked then; harm is harm by any prompts."""
    policy = replace(OUTPUTS, evaluation=wanted)
    again = says(policy, **compared(prompts(0.0, sets=asked)))
    assert again.outcome is (Outcome.UNDECIDED if word else Outcome.PROMOTE)
    assert all(word in part.why for part in again.not_judged) and len(again.not_judged) == bool(word)
    assert says(policy, **compared(prompts(1.5, sets=asked))).outcome is Outcome.ROLL_BACK


def test_answers_to_mirrored_requests_come_when_they_were_compared():
    """Loops that only users' requests show roll back while these are copied, and not before."""
    loops = Batch((Comparison(length_ratio=1.0, candidate=("looped",)),) * 40, after=100.0, until=105.0)
    policy = replace(OUTPUTS, mirror=200, min_samples=10_000)
    copies = [("mirror", s._replace(weight=0.0, mirrored=s.version == 2)) for _, s in ROWS]
    again = says(policy, copies, **compared(prompts(0.0), loops))
    assert again.outcome is Outcome.ROLL_BACK and "defects" in again.reason and 100 < again.at_s < 120


def test_an_older_release_is_judged_by_its_sums_where_they_tell():
    """Under the limits of then at any level; under others, or where they do not suffice, it is told."""
    whole = fresh(OutputLimits())
    for _ in range(40):
        whole = with_measured(whole, prompts(0.0, 1).comparisons)
    kept = {"sums": whole, "sets": ("bundled",)}
    assert says(OUTPUTS, **kept).outcome is Outcome.PROMOTE
    assert "sums under its own limits" in says(STRICT, **kept).not_judged[0].why
    assert "levels ask for more" in says(replace(OUTPUTS, alpha=1e-9, beta=1e-9), **kept).not_judged[0].why
    assert "no answers were compared" in says(OUTPUTS).not_judged[0].why
    assert says(OUTPUTS, unread="no JSON").not_judged[0].why == "no JSON"
    assert says(POLICY, **kept).outcome is Outcome.PROMOTE


def test_more_comparisons_than_were_kept_are_told():
    """The kept ones decide where they can; where not, the rest is missing."""
    sums = with_measured(fresh(OutputLimits()), prompts(0.0).comparisons)
    kept = compared(prompts(0.0, count=12, prompts=12)) | {"sums": sums}
    assert "the first 12 of 40 comparisons" in says(OUTPUTS, **kept).not_judged[0].why


def test_a_release_that_sent_no_requests_is_judged_by_its_answers():
    """Rolled back then, it may have gone on; how it had ended nobody knows."""
    assert says(STRICT, (), **compared(prompts(0.3))).outcome is Outcome.ROLL_BACK
    again = says(OUTPUTS, (), **compared(prompts(0.3)))
    assert again.outcome is Outcome.UNDECIDED and "no users' requests" in again.reason


@given(st.lists(st.tuples(st.sampled_from(["", "a b", "a b c d " * 3]), st.floats(-9, 0), st.booleans()), max_size=9))
def test_kept_comparisons_are_those_that_were_judged(told):
    """Through JSON and back: the same evidence to the last bit, the examples apart; the impossible stays impossible."""
    pairs = [
        (
            Question("p"),
            Reply("a b c", ("a",), scored=(-1.0,)),
            Reply(text, scored=(-math.inf if lost else score,)),
            True,
        )
        for text, score, lost in told
    ]
    lines = [json_text(plain_comparison(compare(*pair))) for pair in pairs]
    again = with_measured(fresh(OutputLimits()), [comparison_of(json.loads(line)) for line in lines])
    assert json_text(plain(replace(with_comparisons(fresh(OutputLimits()), pairs), examples=()))) == json_text(
        plain(again)
    )
    assert all(len(line) < 300 for line in lines)


def test_an_answer_that_both_call_impossible_compares_nothing():
    """It neither proves nor spoils what the others prove."""
    lost = Comparison(1.0, 1.0, None, 1.0, (-math.inf, -math.inf, 3))
    assert says(
        OUTPUTS, **compared(Batch((lost, *prompts(0.0).comparisons), None, 0.0, ("bundled",), 41, 41))
    ).outcome is (Outcome.PROMOTE)


def test_a_veto_is_judged_by_its_own_bound_on_the_values_of_then():
    """Beyond the bound for long enough ends it at that time; within it does not; for longer, neither."""
    warm = readings(*[70.0] * 20, *[90.0] * 6, *[70.0] * 220)
    ended = says(replace(HOT, min_samples=10_000), readings=warm)
    assert ended.outcome is Outcome.ROLL_BACK and "veto gpu: 90, above 80" in ended.reason and 110 <= ended.at_s < 125
    for other in (replace(VETO, above=95.0), replace(VETO, for_s=60.0)):
        again = says(replace(POLICY, vetoes=(other,)), readings=warm)
        assert again.outcome is Outcome.PROMOTE and not again.not_judged


def test_a_stage_begins_the_time_beyond_a_bound_anew():
    """As it does in a release."""
    values = (*[70.0] * 20, *[90.0] * 4, *[70.0] * 220)
    policy = replace(HOT, vetoes=(replace(VETO, for_s=15.0),), min_samples=10_000)
    assert says(policy, readings=readings(*values)).outcome is Outcome.ROLL_BACK
    assert says(policy, readings=readings(*values, begins=(0, 22))).outcome is Outcome.UNDECIDED


def test_data_that_was_missing_then_promotes_nobody_now():
    """Prometheus was down all the time: undecided, and that is known, not unjudged."""
    again = says(HOT, readings=readings(*[None] * 250))
    assert again.outcome is Outcome.UNDECIDED and "no data" in again.reason and not again.not_judged


@pytest.mark.parametrize(
    ("kept", "word"),
    [
        ([], "keeps no values of vetoes"),
        (readings(*[70.0] * 250, query="other"), "its query was not asked then; asked was: other"),
        (readings(*[70.0] * 5), "its values are not kept for all of the time"),
    ],
)
def test_a_veto_that_nobody_recorded_is_told_and_nobody_is_promoted(kept, word):
    """No record, another query, a record that ends too soon; harm in the requests rolls back all the same."""
    again = says(replace(HOT, min_step_s=600.0), readings=kept)
    assert again.outcome is Outcome.UNDECIDED and "veto gpu could not be judged again" in again.reason
    assert again.not_judged[0].what == "veto gpu" and word in again.not_judged[0].why
    bad = [(name, s._replace(failed=s.version == 2)) for name, s in ROWS]
    assert says(HOT, bad, readings=kept).outcome is Outcome.ROLL_BACK


def test_a_veto_after_the_last_request_still_ends_the_release():
    """It was asked while nobody called."""
    policy = replace(HOT, min_samples=10_000)
    again = says(policy, readings=readings(*[70.0] * 300, *[90.0] * 5))
    assert again.outcome is Outcome.ROLL_BACK and again.at_s > 1500
