"""What the agent's loop makes of tokens, groups, settings and draining, and how far it says it has come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agent_house import House
from history import deployed, promoted

from agent.reconcile import Reconciler
from engines.memory import MemoryEngine
from gateway.tokens import TokenFile
from rollout.errors import Unavailable
from rollout.nouns import Health, Lease, Mirror
from store.port import Group, GroupMember, ServiceState
from store.steer import NotTaken, confirm_all


@pytest.fixture
def house(tmp_path):
    """A service with no version yet."""
    return House(tmp_path)


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
