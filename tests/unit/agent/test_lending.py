"""Stable lends instances to a candidate and gets them back by itself."""

import threading
import time
from dataclasses import asdict, replace

import pytest
from agent_house import House
from history import ENGINE, begun

from agent.lending import lent
from engines.port import EngineSpec
from rollout.nouns import Health, Phase
from store.port import Release, ServiceState, VersionState
from store.steer import put_back

STABLE = VersionState("chat", 1, "models:/m/1", asdict(ENGINE), asdict(EngineSpec()), 3)
CANDIDATE = replace(STABLE, number=2, instances=1)
RELEASE = Release("r", "chat", "models:/m/2", Phase.RUNNING, candidate=2, stable_before=1, borrowed=2)


@pytest.mark.parametrize("release", [RELEASE, replace(RELEASE, candidate=None, phase=Phase.PENDING)])
def test_a_release_under_way_has_what_it_borrowed(release: Release) -> None:
    """Stable's last instances are not wanted, before the candidate is declared as well; the candidate's all are."""
    assert {v.number: v.instances for v in lent([STABLE, CANDIDATE], [release])} == {1: 1, 2: 1}


def test_nothing_else_is_touched() -> None:
    """Another service's version of the same number, and a retired one, are as they were."""
    other, retired = replace(STABLE, service="other"), replace(STABLE, instances=0)
    assert lent([other], [RELEASE]) == [other]
    assert lent([retired], [RELEASE]) == [retired]
    assert lent([replace(STABLE, instances=1)], [RELEASE])[0].instances == 0


def test_of_several_loans_the_largest_counts() -> None:
    """Whichever is older: the room is the same one."""
    smaller = replace(RELEASE, id="s", borrowed=1, phase=Phase.DEPLOYED)
    assert lent([STABLE], [RELEASE, smaller]) == lent([STABLE], [smaller, RELEASE]) == [replace(STABLE, instances=1)]


@pytest.fixture
def house(tmp_path):
    """Version 1 with two instances, one of which ended to make room for version 2, the candidate."""
    house = House(tmp_path)
    house.serve(instances=2)
    house.turn(8)
    house.release = begun(house.store, now=house.clock.now)
    house.store.update_release(house.release.id, borrowed=1)
    house.turn(8)
    house.store.add_version(replace(house.store.versions("chat")[0], number=0, instances=1), house.release.id)
    house.turn(8)
    assert house.health() == {"chat-v1-0": Health.READY, "chat-v2-0": Health.READY}
    return house


@pytest.fixture
def agent(house):
    """The loop turns while the test waits."""
    stop = threading.Event()

    def turn():
        while not stop.wait(0.01):
            house.turn(seconds=0.05)

    thread = threading.Thread(target=turn)

    def begin():
        house.clock.now = time.time()
        thread.start()

    yield begin
    stop.set()
    thread.join()


def test_it_comes_back_when_the_candidate_is_gone(house) -> None:
    """Not while an instance of the candidate still drains, and then at once."""
    house.store.finish_release(house.release.id, Phase.ROLLED_BACK, "bad", house.clock.now, {})
    house.turn(2)
    assert set(house.health()) == {"chat-v1-0", "chat-v2-0"}
    house.turn(12)
    assert house.health() == {"chat-v1-0": Health.READY, "chat-v1-1": Health.READY}


def test_a_loan_is_not_forgotten_for_other_services_releases(house) -> None:
    """However many began after it."""
    house.store.put_service(ServiceState("other"))
    for n in range(60):
        other = begun(house.store, "other", house.clock.now + n)
        house.store.finish_release(other.id, Phase.FAILED, "x", house.clock.now + n, {})
    house.turn(8)
    assert set(house.health()) == {"chat-v1-0", "chat-v2-0"}


@pytest.mark.parametrize("retired", [False, True])
def test_what_lent_is_put_back_with_what_is_left_of_it(house, agent, retired) -> None:
    """Also when it had been stopped meanwhile; the version that borrowed goes, and the loan with it."""
    house.store.promote(house.release.id, 2, house.clock.now + 1e12, "good", house.clock.now)
    if retired:
        house.store.retire("chat", 1)
    house.turn(12)
    assert ("chat-v1-0" in house.health()) is not retired
    agent()
    assert put_back(house.store, "chat", 0, "bad", timeout_s=20.0).number == 1
    assert house.store.service("chat").stable == 1
    until = time.monotonic() + 20.0
    while set(house.health()) != {"chat-v1-0", "chat-v1-1"} and time.monotonic() < until:
        time.sleep(0.01)
    assert set(house.health()) == {"chat-v1-0", "chat-v1-1"}
