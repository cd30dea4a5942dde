"""The agent's loop on in-memory parts and a hand-turned clock: what is declared is made so, what breaks is mended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agent_house import House
from history import begun

from agent.reconcile import LOST_AFTER_S, Reconciler
from rollout.nouns import Health, Phase
from store.port import ServiceState


@pytest.fixture
def house(tmp_path):
    """A service with no version yet."""
    return House(tmp_path)


def test_a_declared_version_is_started_warmed_up_and_only_then_gets_an_endpoint(house):
    """No endpoint before the warm-up has ended."""
    house.serve(instances=2)
    house.turn(2)
    assert set(house.health().values()) == {Health.WARMING}
    assert house.gateway.confirmed().services[0].backends[0].endpoints == ()
    house.turn(2)
    assert set(house.health().values()) == {Health.READY}
    assert len(house.gateway.confirmed().services[0].backends[0].endpoints) == 2
    assert len({i.port for i in house.store.instances()}) == 2


def test_a_dead_instance_leaves_the_traffic_at_once_and_comes_back(house):
    """Death is seen at the next look; the endpoint goes, the process is started again, warmed up, and returns."""
    house.serve()
    house.turn(4)
    house.platform.die("chat-v1-0")
    house.turn(1)
    assert house.health() == {"chat-v1-0": Health.BACKOFF}
    assert house.gateway.confirmed().services[0].backends[0].endpoints == ()
    house.turn(6)
    assert house.health() == {"chat-v1-0": Health.READY}
    assert house.store.instances()[0].restarts == 1


def test_a_hung_instance_is_killed_and_started_again(house):
    """One that lives and does not answer is no instance."""
    house.serve()
    house.turn(4)
    first = house.platform.running()["chat-v1-0"].pid
    house.probes.answering, house.probes.silent = False, 7.0
    house.turn(1)
    assert house.health() == {"chat-v1-0": Health.BACKOFF}
    house.probes.answering, house.probes.silent = True, 0.0
    house.turn(6)
    assert house.health() == {"chat-v1-0": Health.READY}
    assert house.platform.running()["chat-v1-0"].pid != first


def test_a_new_agent_goes_on_where_the_old_one_stood(house, tmp_path):
    """What an agent knows is in the store and on the platform: nothing is started twice."""
    house.serve()
    house.turn(4)
    pid = house.platform.running()["chat-v1-0"].pid
    house.loop = Reconciler(house.loop._p)
    house.turn(3)
    assert house.platform.running()["chat-v1-0"].pid == pid
    assert house.health() == {"chat-v1-0": Health.READY}


def test_a_lease_reaches_the_gateway_and_its_loss_ends_the_release(house):
    """Renewed, it is in force; not renewed, the release counts as lost and its candidate is retired."""
    house.serve()
    candidate = house.declare()
    house.turn(4)
    house.begin(candidate)
    house.grant(candidate)
    house.turn(1)
    assert house.gateway.read()["chat"].lease.candidate == candidate
    assert house.store.observed("chat").lease.canary_permille == 100
    house.turn(16)
    assert house.gateway.read()["chat"].lease is None
    assert house.store.release(house.release.id).phase is Phase.RUNNING
    house.turn(int(LOST_AFTER_S * 2) + 2)
    assert house.store.release(house.release.id).phase is Phase.FAILED
    assert "stopped renewing" in house.store.release(house.release.id).reason
    assert house.store.observed("chat").lease is None
    assert [v.instances for v in house.store.versions("chat")] == [1, 0]


def test_an_agent_that_starts_in_the_middle_of_a_canary_turns_it_back(house):
    """It does not know what it missed: the lease it finds is ended, the release has failed, users are on stable."""
    house.serve()
    candidate = house.declare()
    house.turn(4)
    house.begin(candidate)
    house.grant(candidate)
    house.turn(1)
    house.loop = Reconciler(house.loop._p)
    house.turn(1)
    assert house.gateway.read()["chat"].lease is None
    assert house.store.release(house.release.id).phase is Phase.FAILED


def test_a_retired_version_drains_and_is_forgotten(house):
    """Its time comes, it gets no new request, its process ends, its record goes."""
    house.serve()
    house.turn(4)
    house.serve(retire_at=house.clock.now + 3.0)
    house.turn(4)
    assert set(house.health().values()) == {Health.READY} and len(house.health()) == 2
    house.turn(12)
    assert house.health() == {"chat-v2-0": Health.READY}
    assert set(house.platform.running()) == {"chat-v2-0"}


def test_a_release_that_fell_silent_before_its_canary_is_ended(house):
    """Its flow and worker died while it started: the candidate does not run for ever."""
    house.serve()
    release = begun(house.store, now=house.clock.now)
    house.store.add_version(replace(house.store.versions("chat")[0], number=0), release.id)
    house.turn(4)
    assert len(house.health()) == 2
    house.turn(130)
    assert house.store.release(release.id).phase is Phase.FAILED
    assert house.health() == {"chat-v1-0": Health.READY}


def test_one_service_that_is_refused_holds_up_no_other(house):
    """Its mistake is told at its own name, it keeps what it had, and the others move on."""
    house.serve()
    house.turn(4)
    before = house.gateway.confirmed().services[0]
    house.store.put_service(ServiceState("chat", response_timeout_s=-1.0))
    house.store.put_service(ServiceState("other"))
    house.turn(1)
    assert [s.name for s in house.gateway.confirmed().services] == ["chat", "other"]
    assert house.gateway.confirmed().services[0] == before
    assert "response_timeout_s" in house.store.observed("chat").error
    house.store.put_service(ServiceState("chat"))
    house.turn(1)
    assert house.store.observed("chat").error == ""


def test_an_instance_without_a_free_port_does_not_stop_the_others(house):
    """More instances than ports: those that fit run, and what has to end still ends."""
    house.serve(instances=12)
    house.turn(4)
    assert len(house.health()) == 10
    house.store.scale("chat", 1, 1)
    house.turn(12)
    assert house.health() == {"chat-v1-0": Health.READY}


def test_a_dropped_service_leaves_nothing_running(house):
    """Its instances drain although nobody remembers their version."""
    house.serve()
    house.turn(4)
    house.store.drop_service("chat", house.clock.now)
    house.turn(12)
    assert house.platform.running() == {} and house.store.instances() == []
    assert house.gateway.confirmed().services == ()
