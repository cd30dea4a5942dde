"""A policy in sentences: every demand is told, with its numbers, and so is what is not judged."""

from __future__ import annotations

from rollout.agreement_limits import OutputLimits
from rollout.policy import AutoSteps, Margin, Objectives, OnTimeout, Policy, Veto
from rollout.policy_told import told


def test_every_margin_is_a_sentence():
    """Harm and what is allowed, per metric, in the units of the file."""
    policy = Policy(ttft=Margin(1.1, 1.25), e2e=Margin(1.3, 1.6), objectives=Objectives(ttft_s=0.5), alpha=0.01)
    text = "\n".join(told(policy))
    assert "TTFT: proven over 1.1x stable's, roll back; proven under 1.25x, good" in text
    assert "same length: proven over 1.3x" in text
    assert "errors: proven over 1.25x stable's rate, roll back; proven under it, or to add less than 1 %" in text
    assert "miss the objectives: proven over" in text
    left = "proven over 2x stable's rate, roll back; proven under it, or to add less than 5 % of the requests, good"
    assert f"clients that leave: {left}" in text
    assert "at most 1 % of the releases" in text


def test_what_is_off_is_told_too():
    """Silence about a metric would read as if it were judged."""
    text = "\n".join(told(Policy(ttft=None, refusals=None, abandoned=0)))
    for said in ("TTFT: not judged", "E2E of answers of the same length: not judged", "clients that leave: not judged"):
        assert said in text
    assert "miss the objectives: not judged" in text and "same prompts: not compared" in text


def test_the_way_and_its_ends_are_told():
    """Stages, whom it is compared with, who is asked, and what silence leads to."""
    policy = Policy(steps=(50, 500), baseline=True, approvals=("promote",), on_timeout=OnTimeout.ASK)
    first, *_, late, quiet, _ = told(policy)
    assert first == (
        "stages: mirror 20 %, canary 5 %, canary 50 %, then promotion; compared with a copy of stable of the "
        "candidate's age and share; a person says yes before: promote"
    )
    assert late.endswith("a person decides") and quiet.endswith("it waits")
    assert "at most 50 requests suffer" in told(Policy(auto=AutoSteps()))[0]


def test_outputs_and_vetoes_are_told():
    """Limits of answers that are switched off are left out; a veto has its bound and its time."""
    veto = Veto("gpu errors", "x", above=2, for_s=30)
    text = "\n".join(told(Policy(outputs=OutputLimits(length_harm=0, length_allow=0), vetoes=(veto,))))
    assert "perplexity over 1.5x (2)" in text and "length over" not in text and "equal tokens" not in text
    assert "veto gpu errors: above 2 for 30 s, roll back" in text
