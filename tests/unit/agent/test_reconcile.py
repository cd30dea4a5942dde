"""The agent's loop on in-memory parts and a hand-turned clock: what is declared is made so, what breaks is mended."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from agent_house import House
from history import ENGINE, begun

from agent.reconcile import LOST_AFTER_S, Reconciler
from engines.port import EngineSpec
from platforms.memory import MemoryPlatform
from rollout.errors import NotFound, Unavailable
from rollout.nouns import Health, Phase
from store.port import ServiceState, VersionState
from store.steer import MAX_RESTARTS


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


class Stubborn(MemoryPlatform):
    """Fails to start or to kill as the test says."""

    def __init__(self, clock):
        super().__init__(clock)
        self.no_start, self.no_kill, self.tries = None, None, 0

    def start(self, spec):
        self.tries += 1
        if self.no_start:
            raise self.no_start
        super().start(spec)

    def kill(self, instance_id):
        if self.no_kill:
            raise self.no_kill
        super().kill(instance_id)


@pytest.fixture
def stubborn(house):
    """The house on such a platform."""
    house.platform = Stubborn(house.clock)
    house.loop = Reconciler(replace(house.loop._p, platform=house.platform))
    return house


@pytest.mark.parametrize("error", [NotFound("the environment has no HF_TOKEN"), KeyError("HF_TOKEN")])
def test_what_is_missing_for_a_start_is_told_and_each_try_counts(stubborn, error):
    """It waits longer each time, as one that died, and is started once it is there."""
    stubborn.platform.no_start = error
    stubborn.declare()
    stubborn.turn(200, seconds=0.1)
    (waiting,) = stubborn.store.instances()
    assert waiting.health is Health.BACKOFF and waiting.restarts >= MAX_RESTARTS and "HF_TOKEN" in waiting.reason
    assert stubborn.platform.tries == waiting.restarts + 1 <= 8
    assert any("HF_TOKEN" in event.text for event in stubborn.store.events("chat"))
    stubborn.platform.no_start = None
    stubborn.turn(80)
    assert set(stubborn.health().values()) == {Health.READY}


def test_a_platform_that_does_not_answer_is_waited_for_a_while(stubborn):
    """With its words as the reason at once; some seconds later each try counts."""
    stubborn.platform.no_start = Unavailable("Docker does not answer")
    stubborn.declare()
    stubborn.turn(40, seconds=0.1)
    (waiting,) = stubborn.store.instances()
    assert waiting.reason == "Docker does not answer" and waiting.restarts <= 1 < stubborn.platform.tries
    assert [e.text for e in stubborn.store.events("chat") if "Docker" in e.text and "could not" in e.text] != []
    stubborn.turn(200, seconds=0.1)
    (waiting,) = stubborn.store.instances()
    assert waiting.reason == "Docker does not answer" and waiting.restarts >= MAX_RESTARTS
    assert waiting.health is Health.BACKOFF


def test_a_kill_that_was_lost_is_repeated(stubborn):
    """A hung instance does not stay for ever because its platform did not answer once."""
    stubborn.serve()
    stubborn.turn(4)
    first = stubborn.platform.running()["chat-v1-0"].pid
    stubborn.platform.no_kill, stubborn.probes.silent = Unavailable("Docker does not answer"), 10.0
    stubborn.turn(3)
    stubborn.platform.no_kill, stubborn.probes.silent = None, 0.0
    assert stubborn.health() == {"chat-v1-0": Health.BACKOFF}
    stubborn.turn(12)
    assert stubborn.health() == {"chat-v1-0": Health.READY}
    assert stubborn.platform.running()["chat-v1-0"].pid != first


def test_an_engine_directory_that_cannot_be_noted_keeps_nothing_from_starting(house):
    """Which engine was used last only decides which one is removed first."""
    release = begun(house.store, now=house.clock.now)
    engine = {**asdict(ENGINE), "directory": "no\0folder"}
    house.store.add_version(VersionState("chat", 0, "m", engine, asdict(EngineSpec()), 1), release.id)
    house.turn(4)
    assert house.health() == {"chat-v1-0": Health.READY}


def test_an_instance_whose_latency_did_not_settle_is_ready_and_told(house):
    """With an event, as it may be slower than was measured."""
    house.probes.numbers = {"requests": 16.0, "settled": 0.0, "seconds": 180.0}
    house.serve()
    house.turn(4)
    assert house.health() == {"chat-v1-0": Health.READY}
    assert any("not settled after 16 requests" in event.text for event in house.store.events("chat"))


def test_a_dropped_service_leaves_nothing_running(house):
    """Its instances drain although nobody remembers their version."""
    house.serve()
    house.turn(4)
    house.store.drop_service("chat", house.clock.now)
    house.turn(12)
    assert house.platform.running() == {} and house.store.instances() == []
    assert house.gateway.confirmed().services == ()
