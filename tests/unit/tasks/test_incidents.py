"""An instance that dies in the middle of a stage ends it, the careful way."""

from __future__ import annotations

from dataclasses import replace

from rollout.nouns import Health, Outcome
from store.port import InstanceState
from tasks.incidents import incident, pids

NOW = 100.0


def instance(version, pid=7, health=Health.READY):
    return InstanceState(f"chat-v{version}-0", "chat", version, 0, "127.0.0.1", 18100 + version, health, pid)


def test_no_incident_while_all_live():
    """The same processes, all ready."""
    both = [instance(1), instance(2)]
    assert incident(pids(both), both, 1, 2, NOW) is None


def test_a_dead_candidate_rolls_back():
    """Dead, or already started anew: both are a candidate that died under traffic."""
    before = pids([instance(1), instance(2)])
    for now in (instance(2, health=Health.BACKOFF), instance(2, pid=8)):
        assert incident(before, [instance(1), now], 1, 2, NOW).outcome is Outcome.ROLL_BACK


def test_a_dead_stable_is_waited_for_and_then_the_comparison_is_void():
    """While stable is away the candidate serves; once it is back all traffic goes there."""
    before = pids([instance(1), instance(2)])
    assert incident(before, [instance(1, health=Health.STARTING), instance(2)], 1, 2, NOW) is None
    just_back = replace(instance(1, pid=9), since=NOW - 0.5)  # the gateway has not checked it yet
    assert incident(before, [just_back, instance(2)], 1, 2, NOW) is None
    assert incident(before, [instance(1, pid=9), instance(2)], 1, 2, NOW).outcome is Outcome.ROLL_BACK


def test_a_dead_baseline_makes_the_comparison_void():
    """Others answer its requests, which says nothing of the candidate; one that was never there compares with nothing.

    While stable has no instance either, the candidate goes on serving.
    """
    whole, dead = [instance(1), instance(2), instance(3)], instance(3, health=Health.BACKOFF)
    assert incident(pids(whole), whole, 1, 2, NOW, 3) is None
    for before in (pids(whole), pids(whole[:2])):
        for now in ([*whole[:2], dead], whole[:2]):
            found = incident(before, now, 1, 2, NOW, 3)
            assert found.outcome is Outcome.ROLL_BACK
            assert "comparison is void" in found.reason
    assert incident(pids(whole), [instance(1, health=Health.STARTING), instance(2), dead], 1, 2, NOW, 3) is None
    assert incident(pids(whole), [*whole[:2], dead], 1, 2, NOW) is None  # copies of requests are compared with stable's
