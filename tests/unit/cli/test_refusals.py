"""`roundhouse status` names each change that the gateway did not take over."""

from __future__ import annotations

import pytest

from cli.stack_status import refusals
from store.port import Group, InForce, Observed, ServiceState, StoreSettings, open_store


@pytest.fixture
def store():
    """A service and a group, with nothing observed yet."""
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    store.put_group(Group("prod", ()))
    return store


def told(store):
    return {line.name: (line.health, line.detail) for line in refusals(store)}


def test_what_was_refused_stands_at_its_name(store):
    """A service's and a group's reasons; nothing where all is in force."""
    store.put_observed(Observed("chat", 1, None, "7", 1.0))
    store.put_in_force(InForce(3))
    assert told(store) == {}
    store.put_observed(Observed("prod", None, None, "", 1.0, "no such header"))
    assert told(store) == {"traffic prod": ("refused", "no such header")}


def test_what_holds_up_everything_is_told_once(store):
    """A broken file or a whole change that Envoy refused; not again where each service tells it."""
    store.put_in_force(InForce(3, error="tokens.json cannot be read"))
    assert told(store) == {"traffic (all)": ("refused", "tokens.json cannot be read")}
    store.put_observed(Observed("chat", 1, None, "7", 1.0, "tokens.json cannot be read"))
    assert told(store) == {"traffic chat": ("refused", "tokens.json cannot be read")}
