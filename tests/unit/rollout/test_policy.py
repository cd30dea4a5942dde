"""Policies that contradict themselves are refused, with field, value, rule and fix."""

from __future__ import annotations

import pytest

from rollout.errors import Refused
from rollout.policy import ErrorMargin, Margin, Policy, stages


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
