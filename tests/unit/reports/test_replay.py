"""A past release judged again: what another policy would have decided, and when."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import pytest
from past_release import POLICY, T0, past_release, request, stage_of

from reports.samples_file import BEFORE, FILE, Rows, SampleFile
from rollout.nouns import Outcome
from rollout.policy import ErrorMargin, Margin, OnTimeout
from rollout.replay import replay

WIDE = Margin(2.0, 3.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The requests of a release whose candidate's first token was 1.3 times as late."""
    folder = tmp_path_factory.mktemp("past")
    past_release(folder, 1.3)
    return list(Rows(folder / FILE))


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


SLOW = replace(POLICY, min_samples=1_000_000)  # nothing is ever good enough
QUICK = replace(POLICY, ttft=WIDE, tpot=WIDE, errors=ErrorMargin(2.0, 0.25), refusals=None, abandoned=0.0)


def test_a_stage_that_takes_too_long_ends_the_release(rows):
    """At the time that the policy gives a stage, or all of them, and not at the end of what was recorded."""
    late = replay(rows, 2, replace(SLOW, ttft=WIDE, step_timeout_s=60.0))
    assert late.outcome is Outcome.ROLL_BACK and "not decidable within 60 s of mirror" in late.reason
    assert late.at_s == pytest.approx(60.0, abs=0.1) and len(late.stages) == 1
    late = replay(rows, 2, replace(SLOW, ttft=WIDE, max_s=300.0))
    assert "not decidable within the 300 s" in late.reason and late.stages[-1].stage == "canary 5 %"
    assert late.at_s == pytest.approx(300.0, abs=0.1)


def test_what_was_recorded_of_a_stage_after_it_was_good_takes_no_time():
    """A policy that is quicker than the one of then is not out of time because that one took longer."""
    rng, quick = random.Random(1), replace(QUICK, mirror=0, max_s=600.0)
    long = [(name, s) for stage, name in ((1, "canary 5 %"), (2, "canary 25 %")) for s in _both(rng, stage, 800)]
    again = replay(long, 2, quick)
    assert again.outcome is Outcome.PROMOTE and again.at_s > 800


def test_nobody_is_promoted_before_a_hanging_request_would_be_known(rows):
    """No stage ends well sooner than that, nor than the policy's shortest stage."""
    early = replay(rows, 2, QUICK).stages[0]
    assert early.outcome is Outcome.PROMOTE and early.at_s < 150
    for later in (replay(rows, 2, QUICK, hang_s=150.0), replay(rows, 2, replace(QUICK, min_step_s=150.0))):
        assert later.stages[0].at_s == pytest.approx(150.0, abs=0.1)


def test_a_candidate_that_nobody_calls_is_seen_to_be_idle():
    """Also where nothing at all was recorded meanwhile."""
    rng, policy = random.Random(1), replace(SLOW, mirror=0, ttft=WIDE, idle_s=100.0, on_idle=OnTimeout.ROLL_BACK)
    gap = [("canary 5 %", s) for s in _both(rng, 1, 240) if not 50 < s.at - T0 < 200]
    again = replay(gap, 2, policy)
    assert again.outcome is Outcome.ROLL_BACK and "no request of the candidate for 100 s" in again.reason
    assert again.at_s < 160


def test_a_person_who_would_be_asked_is_told_of(rows):
    """A question about time holds the release, one before a stage is taken as agreed, and one at the end stays open."""
    again = replay(rows, 2, replace(QUICK, approvals=("canary 25 %", "promote")))
    assert again.outcome is Outcome.UNDECIDED and "a person would be asked: go on with promote?" in again.reason
    assert [a.question.partition("?")[0] for a in again.asked] == ["go on with canary 25 %", "go on with promote"]
    assert again.asked[-1].at_s == again.at_s
    again = replay(rows, 2, replace(SLOW, step_timeout_s=60.0, on_timeout=OnTimeout.ASK))
    assert again.asked[0].at_s == pytest.approx(60.0, abs=0.1) and "all the same" in again.asked[0].question
    assert again.outcome is Outcome.ROLL_BACK and again.reason.startswith("TTFT")


def _both(rng, stage, seconds):
    samples = stage_of(rng, stage, 1.0, T0 + (stage - 1) * seconds, seconds)
    return sorted((*samples.stable, *samples.candidate), key=lambda s: s.at)


def test_what_it_takes_does_not_grow_with_the_requests(tmp_path):
    """Sixteen times as many over as much more time: less than three times the memory."""
    policy = replace(
        SLOW, mirror=0, steps=(250,), ttft=WIDE, tpot=WIDE, errors=ErrorMargin(50.0, 0.5), look_s=3, lease_s=9
    )
    peaks, counts = [], []
    for times in (1, 16):
        rows = Rows(_long(tmp_path / f"{times}.csv.gz", times))
        tracemalloc.start()
        again = replay(rows, 2, policy)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counts.append(again.stages[0].n_candidate + again.stages[0].n_stable)
    assert counts[1] == 16 * counts[0] == 16_000
    assert peaks[1] < 3 * peaks[0]


def _long(path, times):
    """A file of so many stretches of 1000 requests, appended one by one."""
    rng, file = random.Random(1), SampleFile(path)
    file.append(BEFORE, [request(rng, T0 - 900 + n, 1) for n in range(800)])
    samples = stage_of(rng, 2, 1.0, T0, 200)
    for n in range(times):
        both = [*samples.stable, *samples.candidate]
        file.append("canary 25 %", [s._replace(at=s.at + 200 * n, request_id=f"{n}-{s.request_id}") for s in both])
    return path
