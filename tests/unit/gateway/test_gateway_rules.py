"""Our rules: what is refused, what the refusal says, what counts as numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from gateway_states import ALICE, LEASE, backend, chat, two_services
from hypothesis import given
from hypothesis import strategies as st

from gateway.port import (
    Backend,
    CallRecords,
    Endpoint,
    GatewayState,
    GroupRoute,
    Jwt,
    Limits,
    Member,
    ServiceRoute,
    Sticky,
    Token,
    Traffic,
)
from gateway.rules import check, hidden, numbers_only
from rollout.errors import Refused
from rollout.nouns import Lease, Mirror


def refusal(*services: ServiceRoute) -> Refused:
    """What ``check`` says of these services."""
    with pytest.raises(Refused) as refused:
        check(GatewayState(services))
    return refused.value


def lease(**changes: Any) -> Lease:
    """The usual lease with changes."""
    return dataclasses.replace(LEASE, **changes)


def at(host: str = "127.0.0.1", port: int = 18010, instance: str = "chat-v1-0") -> ServiceRoute:
    """A service with one instance at this address."""
    return chat(backends=(Backend(1, (Endpoint(instance, host, port),)),))


def test_a_good_state_passes() -> None:
    """A canary on one service and an empty second one break no rule."""
    check(two_services())
    check(GatewayState())


@pytest.mark.parametrize(
    ("service", "field", "value"),
    [
        (ServiceRoute("", ()), "service.name", ""),
        (ServiceRoute("Chat", ()), "service.name", "Chat"),
        (ServiceRoute("chat@v1", ()), "service.name", "chat@v1"),
        (ServiceRoute("x" * 41, ()), "service.name", "x" * 41),
        (chat(stable=3), "service chat: stable", 3),
        (chat(backends=(backend(1), backend(1))), "service chat: versions", 1),
        (chat(backends=(backend(0),), stable=None), "service chat: version", 0),
        (chat(lease(candidate=3)), "service chat: lease: candidate", 3),
        (chat(lease(candidate=1)), "service chat: lease: candidate", 1),
        (chat(LEASE, stable=None), "service chat: lease", "release-7"),
        (chat(lease(canary_permille=1001)), "service chat: lease: canary_permille", 1001),
        (chat(lease(mirror_permille=-1)), "service chat: lease: mirror_permille", -1),
        (chat(lease(until_ms=LEASE.from_ms)), "service chat: lease: until_ms", LEASE.from_ms),
        (chat(lease(until_ms=LEASE.from_ms + 60_001)), "service chat: lease: until_ms", LEASE.from_ms + 60_001),
        (chat(lease(release="")), "service chat: lease: release", ""),
        (chat(response_timeout_s=0.0), "service chat: response_timeout_s", 0.0),
        (chat(response_timeout_s=float("nan")), "service chat: response_timeout_s", None),
        (chat(body_limit_bytes=0), "service chat: body_limit_bytes", 0),
        (chat(body_limit_bytes=(16 << 20) + 1), "service chat: body_limit_bytes", (16 << 20) + 1),
        (at(port=0), "service chat v1: port", 0),
        (at(port=65536), "service chat v1: port", 65536),
        (at(port=8080), "service chat v1: port", 8080),
        (at(port=9090), "service chat v1: port", 9090),
        (at(host="localhost"), "service chat v1: host", "localhost"),
        (at(instance="a b"), "service chat v1: instance", "a b"),
    ],
)
def test_a_broken_rule_names_field_and_value(service: ServiceRoute, field: str, value: object) -> None:
    """Each refusal names the field and the value, and says how to mend it."""
    refused = refusal(service)
    assert refused.field == field
    assert value is None or refused.value == value
    assert refused.rule and refused.fix


def test_names_and_addresses_are_unique() -> None:
    """Two services of one name, two instances on one port, two of one id: refused."""
    assert refusal(ServiceRoute("a", ()), ServiceRoute("a", ())).value == "a"
    twins = Backend(1, (Endpoint("i0", "127.0.0.1", 18010), Endpoint("i1", "127.0.0.1", 18010)))
    assert refusal(chat(backends=(twins,))).value == "127.0.0.1:18010"
    named = Backend(1, (Endpoint("i0", "127.0.0.1", 18010), Endpoint("i0", "127.0.0.1", 18011)))
    assert refusal(chat(backends=(named,))).value == "i0"


@pytest.mark.parametrize(
    "secret", ["", "short", "with blank", "umlaut-äöü", "line\nbreak", "x" * 513, 'quo"ted-key', "back\\slashed"]
)
def test_a_token_must_survive_a_header(secret: str) -> None:
    """Empty, short, blank or unprintable tokens are refused without being shown."""
    refused = refusal(ServiceRoute("chat", (Token("alice", secret),)))
    assert refused.field == "service chat: token.secret"
    assert not secret or secret not in str(refused)


def test_one_token_opens_one_service() -> None:
    """The same token for two clients or services is refused, naming the clients and not the token."""
    refused = refusal(ServiceRoute("aa", (ALICE,)), ServiceRoute("bb", (Token("bob", ALICE.secret),)))
    assert "bob" in str(refused) and "alice" in str(refused)
    assert ALICE.secret not in str(refused)


def test_secrets_are_hidden_in_foreign_words() -> None:
    """Whatever Envoy prints, a token of ours is struck out."""
    said = f"Duplicated credential key: '{ALICE.secret}'"
    assert hidden(said, None, two_services()) == "Duplicated credential key: '***'"


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 60_000), st.booleans())
def test_leases_are_numbers(canary: int, mirror: int, window: int, had: bool) -> None:
    """Any lease begun, changed or ended is a change of numbers, and passes the rules."""
    until_ms = LEASE.from_ms + window
    new = GatewayState((chat(lease(canary_permille=canary, mirror_permille=mirror, until_ms=until_ms)),))
    check(new)
    old = GatewayState((chat(LEASE if had else None),))
    assert numbers_only(old, new)
    assert numbers_only(new, old)


@pytest.mark.parametrize(
    "changed",
    [chat(stable=2), chat(backends=(backend(1),)), chat(body_limit_bytes=7), chat(response_timeout_s=6.0)],
)
def test_all_else_is_structure(changed: ServiceRoute) -> None:
    """Another stable, other versions, other limits, a first state: the binary is asked."""
    assert not numbers_only(GatewayState((chat(),)), GatewayState((changed,)))
    assert not numbers_only(None, GatewayState((chat(),)))


def test_instances_tokens_and_weights_are_numbers() -> None:
    """What our rules check as well as the binary does need not wait for it."""
    renamed = dataclasses.replace(chat(), tokens=(Token("eve", "token-of-eve"),))
    grown = chat(backends=(backend(1, 3), backend(2)))
    for changed in (renamed, grown):
        assert numbers_only(GatewayState((chat(),)), GatewayState((changed,)))
    old, new = ((GroupRoute("prod", (), (Member("chat", weight),)),) for weight in (1, None))
    assert numbers_only(GatewayState((chat(),), old), GatewayState((chat(),), new))


def group(*members: Member, name: str = "prod", **more: Any) -> GroupRoute:
    """A group of members of chat's state."""
    return GroupRoute(name, (), members, **more)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (group(name="chat"), "services and groups"),
        (group(name="P"), "group.name"),
        (group(Member("none", 1)), "group prod: member"),
        (group(Member("chat", 1), Member("chat", 2)), "group prod: members"),
        (group(Member("chat", 1001)), "group prod: weight of chat"),
        (group(Member("chat", -1)), "group prod: weight of chat"),
        (group(sticky=Sticky("header", "X")), "group prod: sticky.name"),
        (group(sticky=Sticky("header", "x-client-id")), "group prod: sticky.name"),
        (group(sticky=Sticky("cookie", "a b")), "group prod: sticky.name"),
    ],
)
def test_a_groups_broken_rule_is_named(bad: GroupRoute, field: str) -> None:
    """Each refusal of a group names the field."""
    with pytest.raises(Refused) as refused:
        check(GatewayState((chat(),), (bad,)))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("traffic", "field"),
    [
        (Traffic(balance="session"), "balance"),
        (Traffic(slow_start_s=901), "slow_start_s"),
        (Traffic(slow_start_s=1, balance="random"), "slow_start_s"),
        (Traffic(limits=Limits(requests_per_s=0)), "limits.requests_per_s"),
        (Traffic(limits=Limits(token_requests_per_s=float("nan"))), "limits.token_requests_per_s"),
        (Traffic(limits=Limits(in_flight=0)), "limits.in_flight"),
        (Traffic(limits=Limits(mirror_in_flight=-1)), "limits.mirror_in_flight"),
        (Traffic(jwt=Jwt("me", (), "{}")), "jwt"),
        (Traffic(jwt=Jwt("me", ("you",), "{}")), "jwt.jwks"),
        (Traffic(jwt=Jwt("me", ("you",), "no json")), "jwt.jwks"),
        (Traffic(jwt=Jwt("me", ("you",), '{"keys": [7]}')), "jwt.jwks"),
        (Traffic(jwt=Jwt("me", ("you",), '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}')), "jwt.jwks"),
        (Traffic(jwt=Jwt("me", ("you",), '{"keys": [{"kty": "EC", "d": "c2VjcmV0"}]}')), "jwt.jwks"),
        (Traffic(jwt=Jwt("me", ("you",), '{"keys": [{"kty": "EC"}]}'), signed=True), "signed"),
        (Traffic(call_records=CallRecords(percent=101)), "call_records.percent"),
        (Traffic(call_records=CallRecords(max_body_bytes=0)), "call_records.max_body_bytes"),
    ],
)
def test_a_setting_that_cannot_be_is_named(traffic: Traffic, field: str) -> None:
    """Each refusal of how a service is called names the field."""
    assert refusal(chat(traffic=traffic)).field == f"service chat: {field}"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (lease(baseline=9), "lease: baseline"),
        (lease(baseline=2), "lease: baseline"),
        (lease(baseline=1), "lease: baseline"),
        (lease(baseline=3, canary_permille=501), "lease: canary_permille"),
        (lease(mirrors=(Mirror("chat", 1, 5),)), "mirrors: version"),
        (lease(mirrors=(Mirror("chat", 9, 5),)), "mirrors: version"),
        (lease(mirrors=(Mirror("chat", 2, 5),)), "targets of copies"),
        (lease(mirrors=(Mirror("chat", 3, 5), Mirror("chat", 3, 6))), "targets of copies"),
        (lease(mirrors=(Mirror("none", None, 5),)), "mirrors: service"),
        (lease(mirrors=(Mirror("chat", 3, 1001),)), "mirrors: permille"),
    ],
)
def test_a_leases_further_arms_are_checked(bad: Lease, field: str) -> None:
    """A baseline and further targets of copies must be there, and be others."""
    service = chat(bad, backends=(backend(1), backend(2), backend(3)))
    assert refusal(service).field == f"service chat: {field}"
