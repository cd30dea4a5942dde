"""Policies that contradict themselves are refused, with field, value, rule and fix."""

from __future__ import annotations

import pytest

from rollout.errors import Refused
from rollout.policy import AutoSteps, ErrorMargin, Margin, Policy, stages


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": ()}, "steps"),
        ({"steps": (500, 100)}, "steps"),
        ({"steps": (100, 1001)}, "steps"),
        ({"steps": (500, 1000)}, "steps"),  # nothing would be left to compare with
        ({"mirror": 1001}, "mirror"),
        ({"ttft": Margin(1.5, 1.2)}, "margins.ttft"),
        ({"tpot": Margin(0.9, 1.2)}, "margins.tpot"),
        ({"errors": ErrorMargin(1.0, 0.1)}, "margins.errors"),
        ({"alpha": 0.7}, "alpha"),
        ({"min_samples": 2}, "min_samples"),
        ({"lease_s": 1.0}, "lease_s"),
        ({"lease_s": 60.0}, "lease_s"),
        ({"idle_s": 2.0}, "idle_s"),  # the newest request that is judged began so long ago
        ({"idle_s": 10.0, "settle_s": 20.0}, "idle_s"),
        ({"mirror": 0, "approvals": ("mirror",)}, "approvals"),
        ({"mirror": 0, "approvals": ("mirror",), "auto": AutoSteps()}, "approvals"),
        ({"approvals": ("canary 5 %",), "auto": AutoSteps()}, "approvals"),
    ],
)
def test_contradictions_are_refused(change, field):
    """The error names the field and says what to do."""
    with pytest.raises(Refused) as refused:
        Policy(**change)
    assert refused.value.field == field
    assert "Fix:" in str(refused.value)


def test_mirror_comes_first_and_can_be_left_out():
    """The mirror stage carries no live traffic; without a share there is none."""
    assert [(s.canary, s.mirror) for s in stages(Policy(steps=(10, 500), mirror=200))] == [(0, 200), (10, 0), (500, 0)]
    assert [s.canary for s in stages(Policy(steps=(10,), mirror=0))] == [10]


@pytest.mark.parametrize(
    ("policy", "there"),
    [
        ({"mirror": 0, "steps": (50, 500)}, "canary 5 %, canary 50 %, promote"),
        ({"auto": AutoSteps()}, "mirror, promote"),
    ],
)
def test_a_stage_that_is_not_there_is_refused_with_those_that_are(policy, there):
    """A question that would never be asked reads as a safety that is none."""
    with pytest.raises(Refused, match=f"there are: {there}"):
        Policy(**policy, approvals=("nosuch",))
    assert Policy(**policy, approvals=("promote",)).approvals
