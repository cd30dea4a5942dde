"""How an instance lives, as a table of looks: no process, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lifecycle import HUNG_AFTER_S, MAX_BACKOFF_S, WARM_S, Bounds, Do, Seen, backoff_s, next_state
from platforms.port import ProcessState, Running
from rollout.nouns import Health
from store.port import InstanceState

BOUNDS = Bounds(load_s=60, drain_s=30)
RUNS = Running("i", ProcessState.RUNNING, 7, 0.0)
GONE = Running("i", ProcessState.EXITED, None, 0.0, exit_status=9)


def instance(health=Health.STARTING, **kw):
    return InstanceState("i", "chat", 1, 0, "127.0.0.1", 18100, health, **kw)


def step(i, seen, wanted=True, now=100.0):
    return next_state(now, i, seen, wanted, BOUNDS)


@pytest.mark.parametrize(
    ("before", "seen", "wanted", "after", "action"),
    [
        (Health.STARTING, Seen(None), True, Health.STARTING, Do.START),
        (Health.STARTING, Seen(RUNS, answers=True), True, Health.WARMING, Do.WARM_UP),
        (Health.STARTING, Seen(GONE), True, Health.BACKOFF, Do.NOTHING),
        (Health.STARTING, Seen(RUNS), True, Health.BACKOFF, Do.KILL),  # since 0, not loaded by 100
        (Health.WARMING, Seen(RUNS, warm_up={"requests": 4.0}), True, Health.READY, Do.NOTHING),
        (Health.WARMING, Seen(RUNS), True, Health.WARMING, Do.WARM_UP),  # also after an agent's restart
        (Health.WARMING, Seen(RUNS, warm_up_error="500"), True, Health.BACKOFF, Do.KILL),
        (Health.READY, Seen(RUNS, answers=True), True, Health.READY, Do.NOTHING),
        (Health.READY, Seen(GONE), True, Health.BACKOFF, Do.NOTHING),
        (Health.READY, Seen(RUNS, silent_s=HUNG_AFTER_S + 1), True, Health.BACKOFF, Do.KILL),
        (Health.READY, Seen(RUNS, answers=True), False, Health.DRAINING, Do.NOTHING),
        (Health.DRAINING, Seen(RUNS, open_requests=0), False, Health.DRAINING, Do.STOP),
        (Health.DRAINING, Seen(GONE), False, Health.STOPPED, Do.REMOVE),
        (Health.BACKOFF, Seen(GONE), True, Health.STARTING, Do.START),
        (Health.BACKOFF, Seen(GONE), False, Health.DRAINING, Do.STOP),
    ],
)
def test_each_look_leads_to_one_state_and_one_action(before, seen, wanted, after, action):
    """The whole life, row by row."""
    state, done = step(instance(before), seen, wanted)
    assert (state.health, done) == (after, action)


def test_draining_waits_for_open_requests_but_not_for_ever():
    """Streams may finish within the drain time; then the process is told to stop all the same."""
    draining = instance(Health.DRAINING, since=90.0)
    assert step(draining, Seen(RUNS, open_requests=2), False, now=100.0)[1] is Do.NOTHING
    assert step(draining, Seen(RUNS, open_requests=2), False, now=121.0)[1] is Do.STOP


def test_restarts_wait_longer_each_time_and_are_forgotten_after_calm():
    """0.2, 0.4, 0.8 ... 30 s; a minute of health wipes the slate."""
    assert [backoff_s(n) for n in range(4)] == [0.2, 0.4, 0.8, 1.6]
    assert backoff_s(50) == MAX_BACKOFF_S
    dead, _ = step(instance(Health.READY, restarts=2), Seen(GONE))
    assert dead.retry_at == pytest.approx(100.8) and "exit status 9" in dead.reason
    assert step(dead, Seen(GONE), now=100.5)[1] is Do.NOTHING
    again, action = step(dead, Seen(GONE), now=101.0)
    assert (again.restarts, action) == (3, Do.START)
    calm, _ = step(instance(Health.READY, restarts=3, since=0.0), Seen(RUNS, answers=True))
    assert calm.restarts == 0


def test_a_process_that_must_die_is_not_started_before_it_is_dead():
    """After a kill the old process may linger; two of one instance never run. A kill that was lost is repeated."""
    dying = instance(Health.BACKOFF, retry_at=100.5, reason="hung", restarts=2)
    assert step(dying, Seen(RUNS), now=100.0)[1] is Do.NOTHING
    again, action = step(dying, Seen(RUNS), now=101.0)
    assert (again.health, again.reason, again.restarts, action) == (Health.BACKOFF, "hung", 2, Do.KILL)
    assert step(again, Seen(RUNS), now=101.5)[1] is Do.NOTHING
    assert step(again, Seen(replace(RUNS, state=ProcessState.STOPPING)), now=102.5)[1] is Do.KILL


def test_what_the_platform_was_told_is_part_of_the_reason():
    """Beside the exit status, which seldom says enough."""
    dead, _ = step(instance(), Seen(replace(GONE, reason="no such image")))
    assert dead.reason.endswith("(exit status 9): no such image")


def test_a_warm_up_has_an_end():
    """One that nothing ends is ended from outside, and the reason says so."""
    warming = instance(Health.WARMING, since=100.0)
    assert step(warming, Seen(RUNS), now=100.0 + WARM_S)[1] is Do.WARM_UP
    dead, action = step(warming, Seen(RUNS), now=101.0 + WARM_S)
    assert (dead.health, action) == (Health.BACKOFF, Do.KILL) and "not warmed up within 600 s" in dead.reason


@given(
    st.sampled_from([h for h in Health if h is not Health.STOPPED]),
    st.builds(
        Seen,
        process=st.sampled_from([None, RUNS, GONE, replace(RUNS, state=ProcessState.STOPPING)]),
        answers=st.booleans(),
        silent_s=st.floats(0, 100),
        warm_up_error=st.sampled_from(["", "x"]),
        open_requests=st.integers(0, 3),
    ),
)
def test_nothing_becomes_ready_without_a_warm_up(health, seen):
    """Whatever is seen, only a finished warm-up makes an instance ready."""
    state, _ = step(instance(health), seen)
    assert state.health is not Health.READY or health is Health.READY
