"""What a release does next, as properties that hold for every policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import policies, verdicts

from rollout.decide import Times, decide, first_step, part_of_agreement, part_of_proof
from rollout.nouns import Ask, Hold, Outcome, Promote, RollBack, Shift, Verdict
from rollout.policy import OnTimeout, Policy, stages

GOOD, BAD, UNSURE = (Verdict(outcome, "x") for outcome in (Outcome.PROMOTE, Outcome.ROLL_BACK, Outcome.UNDECIDED))
EARLY = Times(0.0)
WAYS = {OnTimeout.ROLL_BACK: RollBack, OnTimeout.HOLD: Hold, OnTimeout.ASK: Ask}


@given(policies)
def test_good_verdicts_lead_through_every_stage_to_promotion(policy):
    """Only passes: each planned share once, never falling, then promotion."""
    step, shares, stage = first_step(policy, 1, GOOD), [], 0
    while isinstance(step, Shift):
        shares.append(step.canary_permille)
        step, stage = decide(policy, stage, GOOD, EARLY), stage + 1
    assert isinstance(step, Promote)
    assert shares == [s.canary for s in stages(policy)] == sorted(shares)


@given(policies, st.floats(0, 1e6), st.floats(0, 1e6), st.data())
def test_one_harmful_verdict_rolls_back_at_any_stage(policy, elapsed, idle, data):
    """Harm wins at every stage and at any time."""
    stage = data.draw(st.integers(0, len(stages(policy)) - 1))
    assert isinstance(decide(policy, stage, BAD, Times(elapsed, elapsed, idle)), RollBack)


@given(policies, verdicts, st.floats(0, 1e6), st.floats(0, 1e6), st.data())
def test_time_alone_never_moves_traffic_forward(policy, verdict, elapsed, idle, data):
    """Undecided holds, or does what the policy says of late and quiet steps; it never shifts or promotes."""
    stage = data.draw(st.integers(0, len(stages(policy)) - 1))
    step = decide(policy, stage, verdict, Times(elapsed, elapsed, idle))
    if verdict.outcome is Outcome.UNDECIDED:
        late, quiet = elapsed >= min(policy.step_timeout_s, policy.max_s), idle >= policy.idle_s
        way = policy.on_timeout if late else policy.on_idle if quiet else OnTimeout.HOLD
        assert isinstance(step, WAYS[way])


def test_what_cannot_be_trusted_does_not_wait_for_the_clock():
    """A broken split ends the step at once, as the policy says of steps that cannot be decided."""
    stuck = replace(UNSURE, stuck=True)
    for way, step in WAYS.items():
        assert isinstance(decide(Policy(on_timeout=way), 1, stuck, EARLY), step)


def test_the_whole_release_has_a_time_too():
    """Steps that each keep their time may still take too long together."""
    policy = Policy(max_s=3000.0, on_timeout=OnTimeout.ROLL_BACK)
    assert isinstance(decide(policy, 1, UNSURE, Times(10.0, 2999.0)), Hold)
    step = decide(policy, 1, UNSURE, Times(10.0, 3000.0))
    assert isinstance(step, RollBack) and "3000 s" in step.reason


def test_a_step_lasts_its_least_time():
    """Good evidence that came at once does not shorten what the policy asks for."""
    policy = Policy(min_step_s=60.0)
    assert isinstance(decide(policy, 0, GOOD, Times(59.0)), Hold)
    assert isinstance(decide(policy, 0, GOOD, Times(60.0)), Shift)


def test_a_stage_does_not_end_well_before_a_request_that_hangs_would_be_known():
    """What hangs is recorded when the gateway gives it up; harm that is proven does not wait."""
    early, late = Times(4.0, hang_s=6.0), Times(6.0, hang_s=6.0)
    assert isinstance(decide(Policy(), 0, GOOD, early), Hold) and isinstance(decide(Policy(), 0, GOOD, late), Shift)
    assert isinstance(decide(Policy(), 0, BAD, early), RollBack)


@pytest.mark.parametrize("stage", range(5))
def test_a_person_is_asked_where_the_policy_says_so(stage):
    """Before the named step, and before promotion; what follows on a yes is what would have followed."""
    policy = Policy(approvals=("mirror", "canary 25 %", "promote"))
    step, plain = decide(policy, stage, GOOD, EARLY), decide(Policy(), stage, GOOD, EARLY)
    if stage in (2, 4):
        assert isinstance(step, Ask) and step.then == plain
    else:
        assert step == plain
    first = first_step(policy, 1, GOOD)
    assert isinstance(first, Ask) and first.then == first_step(Policy(), 1, GOOD)


@given(policies)
def test_stages_ask_for_more_and_more_of_the_proof(policy):
    """The last one asks for all of it."""
    parts = [part_of_proof(policy, k) for k in range(len(stages(policy)))]
    assert parts == sorted(set(parts)) and parts[0] > 0 and parts[-1] == 1.0


@given(policies)
def test_copies_have_to_prove_all_that_only_copies_can(policy):
    """No stage after the mirror's compares answers, so none may ask for more of that than the mirror's did."""
    parts = [part_of_agreement(policy, k) for k in range(len(stages(policy)))]
    assert parts[0] == (1.0 if stages(policy)[0].canary == 0 else part_of_proof(policy, 0))
    assert parts[1:] == [part_of_proof(policy, k) for k in range(1, len(parts))]


def test_first_version_is_promoted_when_it_answers():
    """Without a stable version there is nothing to shift from."""
    assert isinstance(first_step(Policy(), None, GOOD), Promote)
    assert isinstance(first_step(Policy(), None, BAD), RollBack)
    assert isinstance(first_step(Policy(), 1, BAD), RollBack)


def test_a_first_version_needs_the_word_that_each_promotion_needs():
    """Nobody has seen it yet: what the policy lets a person decide, a person decides."""
    first = first_step(Policy(approvals=("promote",)), None, GOOD)
    assert isinstance(first, Ask)
    assert first.then == first_step(Policy(), None, GOOD)


def test_what_is_stuck_before_any_request_goes_the_policys_way():
    """Users' requests would not tell either; who holds on goes on with the first stage."""
    stuck = replace(UNSURE, stuck=True)
    for way, step in (WAYS | {OnTimeout.HOLD: Shift}).items():
        assert isinstance(first_step(Policy(on_timeout=way), 1, stuck), step)
    assert isinstance(first_step(Policy(), 1, UNSURE), Shift)


def test_each_question_has_a_key_of_its_own():
    """An answer to one of them is none to another; the same question keeps its key while its numbers change."""
    policy = Policy(approvals=("promote",), on_timeout=OnTimeout.ASK, on_idle=OnTimeout.ASK, step_timeout_s=50.0)
    times = (Times(0.0, idle_s=1e6), Times(60.0), Times(60.0, idle_s=1e6), Times(0.0, all_s=1e7))
    keys = [decide(policy, stage, UNSURE, at).key for stage in (3, 4) for at in times]
    keys += [decide(policy, 4, GOOD, Times(0.0)).key, decide(policy, 4, replace(UNSURE, stuck=True), Times(0.0)).key]
    assert len(set(keys)) == len(keys) - 2
    assert keys[1] == keys[2]
    assert decide(policy, 4, replace(UNSURE, reason="40 of 60"), Times(70.0)).key == keys[5]
