"""The agent's loop on in-memory parts and a hand-turned clock: what is declared is made so, what breaks is mended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history import begun, deployed, promoted

from agent.parts import Parts
from agent.reconcile import LOST_AFTER_S, Reconciler
from engines.memory import MemoryEngine
from engines.port import MemorySettings as MemoryEngines
from gateway.memory import MemoryGateway
from gateway.tokens import TokenFile
from platforms.memory import MemoryPlatform
from rollout.errors import Unavailable
from rollout.nouns import Health, Lease, Mirror, Phase
from store.port import Group, GroupMember, ServiceState, StoreSettings, open_store
from store.steer import NotTaken, confirm_all


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Probes:
    """Says of every instance what the test has set; a warm-up is done at the next look."""

    def __init__(self):
        self.answering, self.warming, self.silent = True, set(), 0.0

    def health(self, url):
        return self.answering, self.silent

    def warm_up(self, instance_id, base_url, requests):
        self.warming.add(instance_id)

    def warm_up_result(self, instance_id):
        if instance_id not in self.warming:
            return None, ""
        self.warming.discard(instance_id)
        return {"requests": 4.0}, ""

    def forget(self, url, instance_id):
        pass


class Gateway(MemoryGateway):
    """Also tells what it was given, tokens and all."""

    def __init__(self, clock):
        super().__init__(clock)
        self.given = []

    def apply(self, state):
        applied = super().apply(state)
        self.given.append(state)
        return applied


class House:
    """Everything the loop works on, and one turn of it."""

    def __init__(self, tmp_path):
        self.clock, self.probes = Clock(), Probes()
        self.store = open_store(StoreSettings("sqlite://"))
        self.platform, self.gateway = MemoryPlatform(self.clock), Gateway(self.clock)
        self.tokens = tokens = TokenFile(tmp_path / "tokens.json", self.clock)
        tokens.ensure("chat")
        parts = Parts(
            store=self.store,
            platform=self.platform,
            gateway=self.gateway,
            engines=MemoryEngines(),
            tokens=tokens,
            probes=self.probes,
            ports=range(18100, 18110),
            clock=self.clock,
            port_free=lambda port, host: True,
        )
        self.loop = Reconciler(parts)
        self.store.put_service(ServiceState("chat"))

    def declare(self, instances=1):
        return deployed(self.store, instances=instances, now=self.clock.now)

    def serve(self, instances=1, retire_at=1e12):
        return promoted(self.store, self.declare(instances), now=self.clock.now, retire_at=retire_at)

    def turn(self, times=1, seconds=0.5):
        for _ in range(times):
            self.loop.tick()
            self.clock.now += seconds

    def health(self):
        return {i.id: i.health for i in self.store.instances()}

    def begin(self, candidate):
        self.release = begun(self.store, now=self.clock.now, candidate=candidate)

    def grant(self, candidate, seconds=6.0):
        now_ms = int(self.clock.now * 1000)
        self.store.grant(
            Lease(candidate, 100, 0, now_ms - 5000, now_ms + int(seconds * 1000), self.release.id),
            "chat",
            self.clock.now,
        )


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


def secrets(house, door="chat"):
    state = house.gateway.given[-1]
    return [t.secret for d in (*state.services, *state.groups) if d.name == door for t in d.tokens]


def test_a_change_of_tokens_is_in_force_after_one_turn(house):
    """Although the database is as it was; so is the end of a token, when its time comes."""
    house.turn(1)
    made = house.tokens.create("chat", "alice", until=house.clock.now + 5)
    house.turn(1)
    assert made.secret in secrets(house)
    assert house.store.in_force().tokens == house.tokens.serial()
    house.turn(10)
    assert made.secret not in secrets(house)
    house.tokens.revoke("chat", "default")
    house.turn(1)
    assert secrets(house) == []


def test_nothing_is_sent_while_nothing_changes(house):
    """Turn after turn; an agent that begins anew sends what it wants once."""
    house.serve()
    house.turn(4)
    before = len(house.gateway.given)
    house.turn(3)
    assert len(house.gateway.given) == before
    house.loop = Reconciler(house.loop._p)
    house.turn(3)
    assert len(house.gateway.given) == before + 1


def test_a_broken_token_file_changes_no_token_and_holds_up_nothing(house, tmp_path):
    """What was last good holds, the error is told, other changes go on; mended, it is read again."""
    house.serve()
    house.turn(4)
    good, before = (tmp_path / "tokens.json").read_text(), secrets(house)
    (tmp_path / "tokens.json").write_text("{")
    house.store.put_service(ServiceState("chat", response_timeout_s=9.0))
    house.turn(1)
    assert secrets(house) == before and house.gateway.confirmed().services[0].response_timeout_s == 9.0
    assert "tokens.json" in house.store.in_force().error
    (tmp_path / "tokens.json").write_text(good)
    house.turn(1)
    assert house.store.in_force().error == "" and secrets(house) == before


def test_an_agent_that_starts_with_a_broken_token_file_touches_nothing(house, tmp_path):
    """It does not know who may come in, so what is in force stays, and the error is told."""
    house.serve()
    house.turn(4)
    before = len(house.gateway.given)
    (tmp_path / "tokens.json").write_text("{")
    house.loop = Reconciler(replace(house.loop._p, tokens=TokenFile(tmp_path / "tokens.json", house.clock)))
    house.turn(2)
    assert len(house.gateway.given) == before and "tokens.json" in house.store.in_force().error


def test_a_group_splits_by_ready_instances_or_as_set(house):
    """Automatic weights follow what is ready and not drained; custom ones are taken as they are."""
    house.store.put_service(ServiceState("other"))
    house.store.put_service(ServiceState("new"))
    house.serve(instances=2)
    promoted(house.store, deployed(house.store, "other", now=house.clock.now), "other", house.clock.now)
    members = tuple(GroupMember(name, 5) for name in ("chat", "other", "new"))
    house.store.put_group(Group("prod", members, sticky={"by": "token", "name": ""}))
    house.tokens.ensure("prod")
    house.turn(1)
    group = house.gateway.given[-1].groups[0]
    assert [(m.service, m.weight) for m in group.members] == [("chat", 0), ("other", 0)]
    assert group.sticky.by == "token" and len(group.tokens) == 1
    house.turn(4)
    assert [m.weight for m in house.gateway.confirmed().groups[0].members] == [2, 1]
    house.store.drain("chat-v1-0")
    house.turn(1)
    assert [m.weight for m in house.gateway.confirmed().groups[0].members] == [1, 1]
    house.store.put_group(Group("prod", members[:2], "custom"))
    house.store.set_weight("prod", "other", None)
    house.turn(1)
    assert [m.weight for m in house.gateway.confirmed().groups[0].members] == [5, None]


def test_a_drained_instance_gets_no_new_request_and_goes_on(house):
    """Its process stays, its endpoint is marked; undrained it is as before."""
    house.serve(instances=2)
    house.turn(4)
    house.store.drain("chat-v1-1")
    house.turn(2)
    draining = [e.draining for e in house.gateway.confirmed().services[0].backends[0].endpoints]
    assert draining == [False, True] and set(house.health().values()) == {Health.READY}
    house.store.undrain("chat-v1-1")
    house.turn(1)
    assert not any(e.draining for e in house.gateway.confirmed().services[0].backends[0].endpoints)


def test_a_group_that_is_refused_holds_up_no_other(house):
    """It keeps what it had, with today's tokens; its error stands at its name until it is mended."""
    house.serve()
    house.turn(4)
    house.store.put_group(Group("prod", (GroupMember("chat", 1),), "custom"))
    house.store.put_group(Group("spare", (GroupMember("chat", 1),), "custom"))
    house.turn(1)
    house.store.put_group(Group("prod", (GroupMember("chat", 2),), "custom", {"by": "header", "name": "x-client-id"}))
    house.store.put_group(Group("spare", (GroupMember("chat", 7),), "custom"))
    made = house.tokens.create("prod", "alice")
    house.turn(1)
    groups = {g.name: g for g in house.gateway.given[-1].groups}
    assert groups["spare"].members[0].weight == 7
    assert groups["prod"].members[0].weight == 1 and groups["prod"].tokens == (made,)
    assert "x-client-id" in house.store.observed("prod").error
    with pytest.raises(NotTaken, match="x-client-id"):
        confirm_all(house.store, ["prod"], "the group")
    confirm_all(house.store, ["spare"], "the other group")
    house.store.put_group(Group("prod", (GroupMember("chat", 2),), "custom"))
    house.turn(1)
    assert house.gateway.confirmed().groups[0].members[0].weight == 2
    assert house.store.observed("prod").error == ""


def test_settings_that_cannot_be_read_hold_up_nothing(house):
    """A mapping that is no traffic keeps the service as it was, with today's tokens, and is told at its name."""
    house.serve()
    house.turn(4)
    before = house.gateway.given[-1].services[0]
    house.store.put_service(ServiceState("chat", response_timeout_s=9.0, traffic={"limits": "none"}))
    house.tokens.revoke("chat", "default")
    house.turn(1)
    assert house.gateway.given[-1].services[0] == replace(before, tokens=())
    assert "traffic.limits" in house.store.observed("chat").error


def test_who_counts_tokens_is_the_settings_or_the_engines_answer(house):
    """What the file says holds; else an engine that tells them, as soon as one is declared."""
    house.turn(1)
    assert house.gateway.confirmed().services[0].traffic.usage == "parsed"
    house.serve()
    house.turn(1)
    assert house.gateway.confirmed().services[0].traffic.usage == MemoryEngine().usage()
    house.store.put_service(ServiceState("chat", traffic={"usage": "none", "websocket": True}))
    house.turn(1)
    traffic = house.gateway.confirmed().services[0].traffic
    assert traffic.usage == "none" and traffic.websocket


def test_a_lease_goes_on_without_what_is_gone(house):
    """A baseline or a target of copies that is no more is left out; share and candidate stay."""
    house.store.put_service(ServiceState("other"))
    house.serve()
    candidate, third = house.declare(), house.declare()
    house.turn(4)
    house.begin(candidate)
    now_ms = int(house.clock.now * 1000)
    mirrors = (Mirror("other", None, 10), Mirror("chat", third, 20), Mirror("chat", 9, 20))
    lease = Lease(candidate, 100, 0, now_ms - 5000, now_ms + 6000, house.release.id, 8, mirrors)
    house.store.grant(lease, "chat", house.clock.now)
    house.turn(1)
    held = house.gateway.read()["chat"].lease
    assert (held.candidate, held.canary_permille, held.baseline) == (candidate, 100, None)
    assert held.mirrors == (Mirror("chat", third, 20),)
    assert house.store.observed("chat").error == ""


def test_the_gateways_progress_is_told_once_all_of_it_is_in_force(house):
    """Who waits for a revision learns that it holds, or that nobody makes it so."""
    house.turn(1)
    confirm_all(house.store, ["chat"], "all", house.tokens.serial())
    house.store.put_service(ServiceState("other"))
    with pytest.raises(Unavailable, match="no agent runs"):
        confirm_all(house.store, ["other"], "the new service", within_s=0.05)
    house.turn(1)
    confirm_all(house.store, ["other"], "the new service")
