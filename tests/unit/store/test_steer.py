"""What flows and the command line do to traffic, on a store whose agent is a hand-turned one."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from history import begun, deployed, promoted

from rollout.errors import Conflict, NotFound, Unavailable
from rollout.nouns import Health, Lease, Phase, Shift
from store.port import InstanceState, Observed, ServiceState, StoreSettings, open_store
from store.steer import confirm, earlier_version, end_release, failure, grant, put_back, turn, wait_settled


@pytest.fixture
def store():
    """A service with versions 1 and 2, of which 2 is in service."""
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    promoted(store, deployed(store, instances=2))
    return store


def instance(number, ordinal=0, health=Health.READY, restarts=0):
    name = f"chat-v{number}-{ordinal}"
    return InstanceState(name, "chat", number, ordinal, "127.0.0.1", 18100, health, 7, restarts, reason="exit status 1")


@pytest.fixture
def agent(store):
    """Makes desired state so, as the real one does: what is wanted is ready, what is stable is confirmed."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.01):
            for version in store.versions():
                for ordinal in range(version.instances):
                    store.put_instance(instance(version.number, ordinal))
            lease = store.leases().get("chat")
            store.put_observed(Observed("chat", store.service("chat").stable, lease, "r", time.time()))

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_put_back_returns_to_the_version_before_and_never_forward_again(store, agent):
    """1, 2, 3 promoted: back is 2, back again is 1, not 3."""
    promoted(store, deployed(store))
    assert put_back(store, "chat", 0, "bad").number == 2
    assert put_back(store, "chat", 0, "bad").number == 1
    with pytest.raises(NotFound, match="to return to"):
        put_back(store, "chat", 0, "bad")


def test_put_back_starts_as_many_instances_as_the_version_it_replaces(store, agent):
    """A retired version has none; the load of today needs as many as serve today."""
    store.scale("chat", 1, 0)
    put_back(store, "chat", 0, "bad")
    assert store.versions("chat")[0].instances == 2
    assert store.service("chat").stable == 1
    assert store.versions("chat")[1].retire_at is not None


def test_put_back_ends_the_release_under_way_first(store, agent):
    """Also when a version is named: its lease is gone, it cannot renew it, and its candidate is retired."""
    release = begun(store, now=time.time())
    candidate = store.add_version(replace(store.versions("chat")[0], number=0), release.id).number
    grant(store, "chat", release.id, candidate, Shift(50, 0), 6.0, time.time())
    put_back(store, "chat", 1, "by hand")
    assert store.release(release.id).phase is Phase.ROLLED_BACK
    with pytest.raises(Conflict):
        grant(store, "chat", release.id, candidate, Shift(50, 0), 6.0, time.time())
    assert store.versions("chat")[candidate - 1].instances == 0 and store.service("chat").stable == 1


def test_no_release_begins_while_a_version_is_put_back(store):
    """Nobody answers: the putting back fails with the reason, and the service is free again."""
    with pytest.raises(Unavailable, match="not ready within"):
        put_back(store, "chat", 1, "bad", timeout_s=0.3)
    assert store.service("chat").stable == 2
    assert begun(store).stable_before == 2


def test_ending_a_release_needs_nobody_to_answer(store):
    """Without an agent it is done when Envoy has ended the lease by itself."""
    release = begun(store, now=time.time())
    candidate = store.add_version(replace(store.versions("chat")[0], number=0), release.id).number
    lease = grant(store, "chat", release.id, candidate, Shift(500, 0), 0.4, time.time())
    store.put_observed(Observed("chat", 2, lease, "r", time.time()))
    assert "ended the lease by itself" in end_release(store, "chat", "by hand")
    assert time.time() * 1000 >= lease.until_ms
    assert end_release(store, "chat", "again") is None


def test_a_turn_that_the_gateway_refuses_is_taken_back(store):
    """The old version is stable again, and the reason is the gateway's own."""
    release = begun(store, now=time.time())
    candidate = store.add_version(replace(store.versions("chat")[0], number=0), release.id).number
    store.put_observed(Observed("chat", 2, None, "r", time.time(), error="Envoy says no"))
    with pytest.raises(Unavailable, match="Envoy says no"):
        turn(store, release, candidate, 60.0, "good")
    assert store.service("chat").stable == 2
    assert store.release(release.id).phase is Phase.FAILED


def test_waiting_ends_with_the_instance_that_keeps_dying(store):
    """Dying is an answer about the version, not an error of ours."""
    store.put_instance(instance(2, 0, Health.BACKOFF, restarts=3))
    version = wait_settled(store, "chat", 2, 1, timeout_s=5.0)
    assert "died 3 times: exit status 1" in failure(version, 1)
    store.put_instance(instance(2, 0))
    assert failure(wait_settled(store, "chat", 2, 1, timeout_s=5.0), 1) == ""


def test_confirm_says_why_not(store):
    """No agent, or a gateway that refused: the reason is in the error."""
    with pytest.raises(Unavailable, match="roundhouse status"):
        confirm(store, "chat", lambda o: False, "x", within_s=0.0)


def test_only_a_lease_that_looks_back_a_little_is_written(store):
    """It begins 5 s ago and ends when asked, so a clock that steps back ends it."""
    release = begun(store, now=100.0)
    candidate = store.add_version(replace(store.versions("chat")[0], number=0), release.id).number
    lease = grant(store, "chat", release.id, candidate, Shift(5, 10), 6.0, 100.0)
    assert lease == Lease(candidate, 5, 10, 95_000, 106_000, release.id)


def test_a_named_version_must_exist_and_be_another(store):
    """Neither an unknown one nor the one in service can be returned to."""
    for number in (2, 9):
        with pytest.raises(NotFound, match="there are: 1"):
            earlier_version(store, "chat", number)
