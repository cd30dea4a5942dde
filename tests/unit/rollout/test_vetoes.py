"""A veto over looks: beyond its bound for long enough ends a release, missing data never does and never helps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import Refused
from rollout.nouns import Outcome
from rollout.policy import Veto
from rollout.vetoes import PLACES, Reading, Watch, check_query, filled, look

ABOVE = Veto("gpu errors", "xid", above=2.0, for_s=10)
BELOW = Veto("free memory", "free", below=0.1)


def looks(veto, steps):
    """The findings of looks given as (time, value), None for no data."""
    watch, findings = Watch(veto), []
    for now, value in steps:
        reading = Reading({}, "nobody answers") if value is None else Reading({"": value})
        watch, finding = look(watch, reading, now)
        findings.append(finding)
    return findings


def outcomes(veto, steps):
    return [finding.outcome for finding in looks(veto, steps)]


U, P, R = Outcome.UNDECIDED, Outcome.PROMOTE, Outcome.ROLL_BACK


def test_only_a_bound_crossed_for_long_enough_ends_a_release():
    """Until then it is undecided, so that nothing is promoted meanwhile; the bound itself is within."""
    assert outcomes(ABOVE, [(0, 1.0), (1, 2.0), (2, 3.0), (11, 3.0), (12, 2.5)]) == [P, P, U, U, R]


def test_a_value_within_begins_the_time_anew():
    """Only consecutive looks count."""
    assert outcomes(ABOVE, [(0, 3.0), (9, 3.0), (10, 1.0), (11, 3.0), (20, 3.0), (21, 3.0)]) == [U, U, P, U, U, R]


def test_missing_data_is_neither_good_nor_bad():
    """Unreachable, empty, or zero divided by zero: undecided, with the reason, and the time begins anew."""
    assert outcomes(ABOVE, [(0, 3.0), (9, None), (10, 3.0), (20, 3.0)]) == [U, U, U, R]
    assert outcomes(ABOVE, [(0, math.nan), (1000, math.nan)]) == [U, U]
    assert "nobody answers" in looks(ABOVE, [(0, None)])[0].sentence


def test_without_a_time_it_ends_at_once():
    """And infinity is beyond any bound above."""
    assert outcomes(BELOW, [(0, 0.1), (1, 0.05)]) == [P, R]
    assert outcomes(Veto("x", "x", above=1.0), [(0, math.inf)]) == [R]


def test_the_worst_series_counts_and_is_named():
    """Farthest to the bad side, whichever that is; a series that is no number is left out."""
    values = {"instance=a": 0.3, "instance=b": 0.05, "instance=c": math.nan}
    _, finding = look(Watch(BELOW), Reading(values), 0.0)
    assert finding.outcome is R and finding.candidate == 0.05
    assert finding.sentence == "veto free memory: 0.05 at instance=b, the worst of 2 series, below 0.1"
    _, finding = look(Watch(Veto("x", "x", above=1.0)), Reading(values), 0.0)
    assert finding.outcome is P and finding.candidate == 0.3 and finding.metric == "veto x"


@given(st.lists(st.tuples(st.floats(0.1, 5), st.none() | st.floats(0, 4)), max_size=40), st.floats(0, 12))
def test_a_roll_back_always_has_its_time_beyond_the_bound(steps, for_s):
    """Whatever came before: for at least ``for_s`` every look up to a roll back was beyond the bound."""
    now, seen = 0.0, []
    watch = Watch(Veto("x", "x", above=2.0, for_s=for_s))
    for pause, value in steps:
        now += pause
        seen.append((now, value))
        watch, finding = look(watch, Reading({} if value is None else {"": value}), now)
        beyond = []
        for at, earlier in reversed(seen):
            if earlier is None or earlier <= 2.0:
                break
            beyond.append(at)
        assert (finding.outcome is R) == bool(beyond and now - beyond[-1] >= for_s)
        assert (finding.outcome is P) == (value is not None and value <= 2.0)


def test_a_query_is_filled_in():
    """Service, versions and release by name; two dollars are one."""
    query = 'rate(errors{service="$service",version="$candidate",path=~"/v1$$"}[1m])'
    places = dict(zip(PLACES, ("chat", "3", "2", "chat-1"), strict=True))
    assert filled(query, places) == 'rate(errors{service="chat",version="3",path=~"/v1$"}[1m])'
    check_query(Veto("x", query, above=1))


@pytest.mark.parametrize(("query", "word"), [("up{v='$nosuch'}", "$candidate"), ("up{v=~'a$'}", "$$"), (" ", "empty")])
def test_a_query_that_cannot_be_filled_in_is_refused(query, word):
    """When the file is read, not an hour later."""
    with pytest.raises(Refused) as refused:
        check_query(Veto("x", query, above=1))
    assert "vetoes.x.query" in str(refused.value) and word in str(refused.value)
