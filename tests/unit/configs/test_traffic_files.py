"""What files say of traffic: checked whole with all errors, and the same values in the store and the gateway."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from configs.desired import group_state, service_state, sticky_of, traffic_of
from configs.files import ServiceFile, load_groups
from configs.load import check
from configs.rollout_file import RolloutFile
from configs.stack import Stack, StackFile
from configs.traffic_files import GroupFile, read_key_set
from gateway.port import CallRecords, Limits, Sticky, Tls, Tracing, Traffic
from rollout.errors import NotFound, Refused
from store.port import Group, GroupMember

SERVICE = {"kind": "service", "name": "chat", "model": "m"}
GROUP = {"kind": "group", "name": "prod", "members": [{"service": "chat"}, {"service": "other"}]}
KEYS = {"keys": [{"kty": "RSA", "kid": "1", "n": "abc", "e": "AQAB"}]}


@pytest.fixture
def project(tmp_path):
    """A project folder of its own."""
    before = os.environ.get("ROUNDHOUSE_PROJECT")
    os.environ["ROUNDHOUSE_PROJECT"] = str(tmp_path)
    yield tmp_path
    os.environ.pop("ROUNDHOUSE_PROJECT")
    if before is not None:
        os.environ["ROUNDHOUSE_PROJECT"] = before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"balance": "fastest"}, ["balance", "fastest"]),
        ({"balance": "session"}, ["balance", "session", "sticky"]),
        ({"sticky": {"by": "header", "name": "X_Id"}}, ["sticky", "X_Id"]),
        ({"sticky": {"by": "header", "name": "x-client-id"}}, ["sticky", "x-client-id"]),
        ({"limits": {"requests_per_s": 0}}, ["limits.requests_per_s", "0"]),
        ({"limits": {"in_flight": 0, "mirror_in_flight": 0}}, ["limits.in_flight", "limits.mirror_in_flight"]),
        ({"limits": {"colour": "red"}}, ["limits.colour"]),
        ({"slow_start_s": -1}, ["slow_start_s", "-1"]),
        ({"slow_start_s": 30, "balance": "random"}, ["slow_start_s", "30"]),
        ({"usage": "guessed"}, ["usage", "guessed"]),
        ({"jwt": {"issuer": "", "audiences": [], "jwks_file": "k"}}, ["jwt.issuer", "jwt.audiences"]),
        ({"call_records": {"percent": 0}}, ["call_records.percent", "0"]),
        ({"call_records": {"max_body_bytes": 1 << 30}}, ["call_records.max_body_bytes"]),
        ({"call_records": {"redact": ["/(/"]}}, ["call_records.redact", "/(/", "no regular expression"]),
    ],
)
def test_what_cannot_be_is_refused(values, words):
    """Each refusal names field and value; the gateway's own rules hold for the file."""
    with pytest.raises(Refused) as refused:
        check(ServiceFile, {**SERVICE, **values}, "chat.yaml")
    for word in [*words, "Fix:"]:
        assert word in str(refused.value)


def test_a_service_without_a_word_on_traffic_has_the_defaults():
    """The store then keeps nothing, and who counts tokens is left to the engines."""
    state = service_state(check(ServiceFile, SERVICE, "chat.yaml"))
    assert state.traffic == {} and traffic_of(state.traffic) == Traffic()


def test_settings_go_through_the_store_unchanged(project):
    """Only what is no default is kept, as JSON; the key set's content, not its file's name."""
    (project / "keys.json").write_text(json.dumps(KEYS))
    file = check(
        ServiceFile,
        {
            **SERVICE,
            "balance": "session",
            "sticky": {"by": "header", "name": "x-session-id"},
            "limits": {"requests_per_s": 10},
            "usage": "parsed",
            "jwt": {"issuer": "https://id", "audiences": ["a"], "jwks_file": "keys.json"},
            "call_records": {"redact": ["messages", "/sk-[a-z]+/"]},
        },
        "chat.yaml",
    )
    kept = json.loads(json.dumps(service_state(file).traffic))
    assert kept["limits"] == {"requests_per_s": 10.0} and kept["usage"] == "parsed" and "websocket" not in kept
    traffic = traffic_of(kept)
    assert traffic.sticky == Sticky("header", "x-session-id") and traffic.limits == Limits(10.0)
    assert traffic.call_records == CallRecords(redact=("messages", "/sk-[a-z]+/"))
    assert traffic.jwt.audiences == ("a",) and json.loads(traffic.jwt.jwks) == KEYS


def test_a_key_set_holds_public_keys_only(tmp_path):
    """A missing file, another document and private keys are refused; no key is shown."""
    path = tmp_path / "k.json"
    with pytest.raises(NotFound):
        read_key_set(path)
    for wrong in ({}, {"keys": []}, {"keys": ["x"]}, {"keys": [{"n": "x"}]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(Refused, match="RFC 7517"):
            read_key_set(path)
    path.write_text(json.dumps({"keys": [{"kty": "RSA", "n": "x", "d": "hidden"}]}))
    with pytest.raises(Refused, match="private") as told:
        read_key_set(path)
    assert "hidden" not in str(told.value)


def test_a_stored_mapping_that_is_none_is_refused():
    """Written by another hand: told by field, for that service alone."""
    with pytest.raises(Refused, match=r"traffic\.limits\.in_flight"):
        traffic_of({"limits": {"in_flight": "many"}})
    with pytest.raises(Refused, match="sticky"):
        sticky_of({"by": "moon"})
    assert sticky_of(None) is None


def test_a_group_file_becomes_a_group():
    """Automatic weights have none written; custom ones are as written."""
    assert group_state(check(GroupFile, GROUP, "g")) == Group("prod", (GroupMember("chat"), GroupMember("other")))
    custom = {**GROUP, "mode": "custom", "members": [{"service": "chat", "weight": 3}, {"service": "other"}]}
    state = group_state(check(GroupFile, {**custom, "sticky": {"by": "token"}}, "g"))
    assert [m.weight for m in state.members] == [3, None] and state.mode == "custom"
    assert sticky_of(state.sticky) == Sticky("token")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"members": []}, "members"),
        ({"members": [{"service": "chat"}, {"service": "chat"}]}, "twice"),
        ({"members": [{"service": "chat", "weight": 5}]}, "mode: custom"),
        ({"mode": "custom"}, "above 0"),
        ({"mode": "custom", "members": [{"service": "chat", "weight": 1001}]}, "1001"),
        ({"name": "Prod"}, "Prod"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(values, word):
    """With what to write instead."""
    with pytest.raises(Refused, match=word):
        check(GroupFile, {**GROUP, **values}, "g")


def write(folder: Path, name: str, values: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(values))


def test_groups_are_read_beside_their_services(project):
    """A group bears no service's name, its file bears its own, and its members exist."""
    services, groups = project / "configs" / "services", project / "configs" / "groups"
    assert load_groups() == []
    for name in ("chat", "other"):
        write(services, name, {**SERVICE, "name": name})
    write(groups, "prod", GROUP)
    assert [g.name for g in load_groups()] == ["prod"]
    write(groups, "prod", {**GROUP, "members": [{"service": "nosuch"}]})
    with pytest.raises(Refused, match="nosuch"):
        load_groups()
    write(groups, "prod", {**GROUP, "name": "chat"})
    with pytest.raises(Refused, match=r"name it chat\.yaml"):
        load_groups()
    (groups / "prod.yaml").unlink()
    write(groups, "chat", {**GROUP, "name": "chat"})
    with pytest.raises(Refused, match="a service has this name"):
        load_groups()


def test_the_stacks_tls_and_tracing_reach_the_gateway(tmp_path):
    """Paths are meant from the project; the gateway's address is then an https one."""
    file = check(
        StackFile,
        {"kind": "stack", "tls": {"certificate": "c.pem", "key": "/k.pem"}, "tracing": {"host": "127.0.0.1"}},
        "stack.yaml",
    )
    stack = Stack(project=tmp_path, home=tmp_path, tls=file.tls, tracing=file.tracing)
    assert stack.gateway().tls == Tls(str(tmp_path / "c.pem"), "/k.pem")
    assert stack.gateway().tracing == Tracing("127.0.0.1") and stack.gateway_url.startswith("https://")
    plain = Stack(project=tmp_path, home=tmp_path)
    assert plain.gateway().tls is None and plain.gateway_url.startswith("http://")
    with pytest.raises(Refused, match="percent"):
        check(StackFile, {"kind": "stack", "tracing": {"host": "h", "percent": 0}}, "stack.yaml")


def test_a_rollout_may_ask_for_a_baseline():
    """Off unless it is written."""
    values = {"kind": "rollout", "steps_percent": [5]}
    assert (
        not check(RolloutFile, values, "r").baseline and check(RolloutFile, {**values, "baseline": True}, "r").baseline
    )
