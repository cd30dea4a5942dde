"""What a release does next, as properties that hold for every policy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import policies, verdicts

from rollout.decide import decide, first_step
from rollout.nouns import Hold, Outcome, Promote, RollBack, Shift, Verdict
from rollout.policy import OnTimeout, Policy, stages

GOOD, BAD, UNSURE = (Verdict(outcome, "x") for outcome in (Outcome.PROMOTE, Outcome.ROLL_BACK, Outcome.UNDECIDED))


@given(policies)
def test_good_verdicts_lead_through_every_stage_to_promotion(policy):
    """Only passes: each planned share once, never falling, then promotion."""
    step, shares, stage = first_step(policy, 1, GOOD), [], 0
    while isinstance(step, Shift):
        shares.append(step.canary_permille)
        step, stage = decide(policy, stage, GOOD, 0.0), stage + 1
    assert isinstance(step, Promote)
    assert shares == [s.canary for s in stages(policy)] == sorted(shares)


@given(policies, st.data())
def test_one_harmful_verdict_rolls_back_at_any_stage(policy, data):
    """Harm wins at every stage and at any time."""
    stage = data.draw(st.integers(0, len(stages(policy)) - 1))
    assert isinstance(decide(policy, stage, BAD, data.draw(st.floats(0, 1e6))), RollBack)


@given(policies, verdicts, st.floats(0, 1e6), st.data())
def test_time_alone_never_moves_traffic_forward(policy, verdict, elapsed, data):
    """Undecided holds, or rolls back when the policy says so; it never shifts or promotes."""
    stage = data.draw(st.integers(0, len(stages(policy)) - 1))
    step = decide(policy, stage, verdict, elapsed)
    if verdict.outcome is Outcome.UNDECIDED:
        late = elapsed >= policy.step_timeout_s and policy.on_timeout is OnTimeout.ROLL_BACK
        assert isinstance(step, RollBack if late else Hold)


def test_first_version_is_promoted_when_it_answers():
    """Without a stable version there is nothing to shift from."""
    assert isinstance(first_step(Policy(), None, GOOD), Promote)
    assert isinstance(first_step(Policy(), None, BAD), RollBack)
    assert isinstance(first_step(Policy(), 1, BAD), RollBack)
