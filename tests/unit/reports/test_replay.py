"""A past release judged again: what another policy would have decided, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from past_release import POLICY, past_release

from reports.samples_file import FILE, read
from rollout.nouns import Outcome
from rollout.policy import Margin
from rollout.replay import replay

WIDE = Margin(2.0, 3.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The requests of a release whose candidate's first token was 1.3 times as late."""
    folder = tmp_path_factory.mktemp("past")
    past_release(folder, 1.3)
    return list(read(folder / FILE))


def test_the_same_policy_says_the_same_again(rows):
    """It rolls back for the first token, at some stage, with the requests until then counted."""
    again = replay(rows, 2, POLICY)
    assert again.outcome is Outcome.ROLL_BACK and again.reason.startswith("TTFT")
    assert 0 < again.n_candidate <= sum(s.version == 2 for _, s in rows)
    assert again.at_s > 0 and again.stages[-1].outcome is Outcome.ROLL_BACK


def test_wider_margins_would_have_let_it_pass(rows):
    """The stages that were recorded are all judged, each with its own answer and time."""
    again = replay(rows, 2, replace(POLICY, ttft=WIDE, tpot=WIDE))
    assert [p.stage for p in again.stages] == ["mirror", "canary 5 %", "canary 25 %"]
    assert again.outcome is not Outcome.ROLL_BACK
    assert [p.at_s for p in again.stages] == sorted(p.at_s for p in again.stages)


def test_a_policy_with_more_stages_is_not_said_to_have_promoted(rows):
    """Requests that were never sent at its larger shares are no evidence."""
    again = replay(rows, 2, replace(POLICY, ttft=WIDE, tpot=WIDE, steps=(50, 250, 500)))
    assert again.outcome is Outcome.UNDECIDED
