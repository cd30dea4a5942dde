"""From desired and observed state to the gateway's: pure, so that each case is a value."""

from __future__ import annotations

from dataclasses import replace

from agent.routes import Desired, acceptable, gateway_state
from gateway.port import GatewayState, Token
from gateway.rules import check
from rollout.nouns import Health, Lease, Mirror
from store.port import Group, GroupMember, InstanceState, ServiceState, VersionState

NOW_MS = 1_000_000
LEASE = Lease(2, 50, 0, NOW_MS - 5000, NOW_MS + 6000, "r1")


def version(number, service="chat", kind="llama_cpp", instances=1):
    return VersionState(service, number, "models:/m/1", {}, {"kind": kind}, instances)


def instance(number, service="chat", health=Health.READY, port=18100):
    return InstanceState(f"{service}-v{number}-0", service, number, 0, "127.0.0.1", port + number, health)


DESIRED = Desired(
    services=[ServiceState("chat", stable=1), ServiceState("other", stable=1), ServiceState("new")],
    versions=[version(1), version(2), version(3), version(1, "other", "unknown")],
    instances=[instance(1), instance(2), instance(3), instance(1, "other", port=18200)],
)


def counts(kind):
    return "engine" if kind == "llama_cpp" else "parsed"


def state(**changes):
    return gateway_state(replace(DESIRED, **changes), counts, NOW_MS)[0]


def chat(**changes):
    return state(**changes).services[0]


def test_only_versions_that_can_answer_or_are_named_have_a_backend():
    """One without an instance counts once it is stable, leased, a baseline, or copied to."""
    gone = replace(DESIRED, instances=[])
    assert [b.version for b in gateway_state(gone, counts, NOW_MS)[0].services[0].backends] == [1]
    leased = replace(gone, leases={"chat": replace(LEASE, baseline=3)})
    assert [b.version for b in gateway_state(leased, counts, NOW_MS)[0].services[0].backends] == [1, 2, 3]


def test_a_lease_that_has_ended_is_left_out():
    """Also one whose candidate is no more."""
    assert chat(leases={"chat": LEASE}).lease == LEASE
    assert chat(leases={"chat": replace(LEASE, until_ms=NOW_MS)}).lease is None
    assert chat(leases={"chat": replace(LEASE, candidate=9)}).lease is None


def test_copies_go_to_what_is_there():
    """A known version of its own, or another service that has a stable one."""
    mirrors = (Mirror("other", None, 5), Mirror("new", None, 5), Mirror("gone", None, 5), Mirror("chat", 3, 5))
    held = chat(leases={"chat": replace(LEASE, baseline=7, mirrors=mirrors)}).lease
    assert held.mirrors == (mirrors[0], mirrors[3]) and held.baseline is None
    whole = state(leases={"chat": replace(LEASE, mirrors=mirrors)})
    check(whole)
    assert acceptable(whole, None, check) == (whole, {})


def test_every_engine_must_tell_its_tokens_for_the_proxy_not_to_count():
    """Among the versions that run; where none does, answers are parsed."""
    assert chat().traffic.usage == "engine"
    mixed = [version(1), version(2, kind="unknown")]
    assert chat(versions=mixed).traffic.usage == "parsed"
    retired = [version(1), version(2, kind="unknown", instances=0)]
    assert chat(versions=retired, instances=[instance(1)]).traffic.usage == "engine"
    assert chat(versions=[], instances=[]).traffic.usage == "parsed"


def test_members_without_a_stable_version_wait_outside():
    """A group of none but them is closed, not refused."""
    group = Group("prod", (GroupMember("chat"), GroupMember("new")))
    assert [m.service for m in state(groups=[group]).groups[0].members] == ["chat"]
    empty = state(groups=[replace(group, members=(GroupMember("new"),))])
    assert empty.groups[0].members == () and acceptable(empty, None, check) == (empty, {})


def test_a_group_with_nothing_ready_weighs_nothing():
    """It is passed on: the gateway says that no instance is ready."""
    group = Group("prod", (GroupMember("chat"),))
    starting = replace(instance(1), health=Health.WARMING)
    assert [m.weight for m in state(groups=[group], instances=[starting]).groups[0].members] == [0]


def test_a_member_that_was_refused_leaves_its_groups_for_as_long():
    """A service that was never in force is nobody's member; the group serves with the others."""
    bad = [replace(s, body_limit_bytes=0) if s.name == "other" else s for s in DESIRED.services]
    group = Group("prod", (GroupMember("chat"), GroupMember("other")))
    lease = replace(LEASE, mirrors=(Mirror("other", None, 5),))
    found, refused = acceptable(state(services=bad, groups=[group], leases={"chat": lease}), None, check)
    assert refused.keys() == {"other"} and [s.name for s in found.services] == ["chat", "new"]
    assert [m.service for m in found.groups[0].members] == ["chat"] and found.services[0].lease.mirrors == ()
    check(found)


def test_what_is_refused_stays_as_it_was_with_todays_tokens():
    """A revoked token opens nothing although the service's new settings were refused."""
    old, new = Token("a", "secret-of-a"), Token("b", "secret-of-b")
    before = state(tokens={"chat": (old,)})
    bad = [replace(s, response_timeout_s=-1.0) if s.name == "chat" else s for s in DESIRED.services]
    found, refused = acceptable(state(services=bad, tokens={"chat": (new,)}), before, check)
    assert found.services[0] == replace(before.services[0], tokens=(new,)) and "response_timeout_s" in refused["chat"]
    unusable = Token("b", "short")
    found, refused = acceptable(state(tokens={"chat": (old, unusable)}), before, check)
    assert found.services[0].tokens == (old,)
    found, refused = acceptable(state(tokens={"chat": (unusable,)}), before, check)
    assert found.services[0].tokens == () and "short" not in refused["chat"]


def test_one_service_of_many_costs_one_check_each():
    """Nothing else is looked at to find who is at fault."""
    seen = []
    acceptable(state(), None, lambda part: seen.append(part))
    assert [len(part.services) for part in seen] == [1, 1, 1] and isinstance(seen[0], GatewayState)


def tokens(n, begin=0, may_pin=False):
    return tuple(Token(f"c{i}", f"secret-number-{i}", may_pin) for i in range(begin, begin + n))


def test_too_many_tokens_of_a_service_keep_no_revoked_one_open():
    """The old ones that are still wanted stay; the 51st that may pin is left out, and told."""
    before = state(tokens={"chat": tokens(50, may_pin=True)})
    wanted = state(tokens={"chat": tokens(51, begin=1, may_pin=True)})
    found, refused = acceptable(wanted, before, check)
    assert found.services[0].tokens == before.services[0].tokens[1:] and refused.keys() == {"chat"}


def test_an_agent_that_begins_anew_keeps_the_tokens_that_can_be():
    """It knows none of those in force: one by one those that pass the rules, as many as there may be."""
    before = state()
    wanted = (*tokens(30, may_pin=True), Token("x", "short"), *tokens(30, begin=30, may_pin=True))
    found, refused = acceptable(state(tokens={"chat": wanted}), before, check)
    assert found.services[0].tokens == tokens(50, may_pin=True) and refused.keys() == {"chat"}
    check(found)


def test_a_group_with_too_many_tokens_for_signatures_holds_up_nobody():
    """Its member takes signatures, so a group of 65 tokens is refused there; it goes on with those that fit."""
    signed = [replace(s, traffic={"signed": True}) if s.name == "other" else s for s in DESIRED.services]
    group = Group("prod", (GroupMember("chat"), GroupMember("other")))
    before = state(groups=[group], tokens={"prod": tokens(65)})
    found, refused = acceptable(state(services=signed, groups=[group], tokens={"prod": tokens(65)}), before, check)
    assert refused.keys() == {"prod"} and "takes signatures" in refused["prod"]
    assert found.groups[0].tokens == tokens(64) and found.services[1].traffic.signed
    check(found)
