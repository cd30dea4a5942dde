"""Doors that pass our own rules and are refused by the proxy: they hold up no other, and no revocation."""

from __future__ import annotations

import pytest
from agent_house import House

from agent.sift import refused_doors
from gateway.port import GatewayRefused
from rollout.errors import Unavailable
from store.port import Group, GroupMember, ServiceState
from store.steer import NotTaken, confirm_all


@pytest.fixture
def house(tmp_path):
    """Services chat and other with a version in service each, and a gateway that takes no body of 666 bytes."""
    house = House(tmp_path)
    house.store.put_service(ServiceState("other"))
    house.tokens.ensure("other")
    house.serve()
    house.turn(4)
    house.gateway.refuses = lambda state: [s.name for s in state.services if s.body_limit_bytes == 666]
    return house


def doors(house):
    state = house.gateway.given[-1]
    return {door.name: door for door in (*state.services, *state.groups)}


def test_a_token_of_another_service_is_revoked_at_the_next_turn(house):
    """The refused one stays as it was, with today's tokens, and is told at its own name alone."""
    house.store.put_service(ServiceState("chat", body_limit_bytes=666))
    house.tokens.revoke("other", "default")
    made = house.tokens.create("chat", "alice")
    house.turn(1)
    assert doors(house)["other"].tokens == () and made in doors(house)["chat"].tokens
    assert doors(house)["chat"].body_limit_bytes == ServiceState("chat").body_limit_bytes
    assert "no body of 666" in house.store.observed("chat").error and house.store.observed("other").error == ""
    confirm_all(house.store, ["other"], "the revocation", house.tokens.serial())
    with pytest.raises(NotTaken, match="no body of 666"):
        confirm_all(house.store, ["chat"], "the settings")


def test_only_the_doors_at_fault_are_left_as_they_were(house):
    """Two of five changes at once: the other three are in force after one turn."""
    for name, size in (("chat", 10), ("other", 666), ("a-new", 20), ("b-new", 666)):
        house.store.put_service(ServiceState(name, body_limit_bytes=size))
    house.store.put_group(Group("prod", (GroupMember("chat", 1),), "custom"))
    house.turn(1)
    assert doors(house).keys() == {"chat", "other", "a-new", "prod"}
    assert [doors(house)[n].body_limit_bytes for n in ("chat", "a-new")] == [10, 20]
    assert doors(house)["other"].body_limit_bytes != 666
    told = {name: bool(house.store.observed(name).error) for name in ("chat", "other", "a-new", "b-new", "prod")}
    assert [name for name, error in told.items() if error] == ["other", "b-new"]


def test_a_refused_door_is_not_tried_at_each_turn(house):
    """Again after a while, and at once when it is changed; what others ask for meanwhile needs one try."""
    house.store.put_service(ServiceState("chat", body_limit_bytes=666))
    house.turn(2)
    tried = house.gateway.tried
    house.turn(4)
    assert house.gateway.tried == tried
    house.store.put_service(ServiceState("other", body_limit_bytes=10))
    house.turn(1)
    assert house.gateway.tried == tried + 1 and doors(house)["other"].body_limit_bytes == 10
    assert "no body of 666" in house.store.observed("chat").error
    house.store.put_service(ServiceState("chat", body_limit_bytes=30))
    house.turn(1)
    assert doors(house)["chat"].body_limit_bytes == 30 and house.store.observed("chat").error == ""
    house.store.put_service(ServiceState("chat", body_limit_bytes=666))
    house.turn(1)
    house.gateway.refuses = lambda state: []
    house.turn(30)
    assert doors(house)["chat"].body_limit_bytes == 666 and house.store.observed("chat").error == ""


def test_a_change_that_failed_and_is_taken_back_leaves_no_error(house):
    """The gateway did not answer; back at what was in force it is applied once more, and the error is gone."""
    house.gateway.silent = True
    house.store.put_service(ServiceState("chat", body_limit_bytes=10))
    house.turn(1)
    assert "does not answer" in house.store.observed("chat").error
    house.store.put_service(ServiceState("chat"))
    house.gateway.silent = False
    house.turn(3)
    assert house.store.observed("chat").error == "" and house.store.in_force().error == ""
    confirm_all(house.store, ["chat", "other"], "all")


def test_where_nothing_can_be_put_in_force_the_reason_is_told_for_all(house):
    """No door is at fault when the proxy refuses what was good before; it is tried again later."""
    house.gateway.refuses = lambda state: ["everything"]
    house.tokens.create("chat", "alice")
    house.turn(1)
    assert "everything" in house.store.in_force().error
    house.gateway.refuses = lambda state: []
    house.turn(4)
    assert house.store.in_force().error == "" and house.store.observed("chat").error == ""


def test_who_is_at_fault_is_found_by_halves():
    """Of 64 doors one: no more tries than twice the logarithm, and one for all of the others together."""
    names, tries = [f"door-{n}" for n in range(64)], []

    def put(held):
        tries.append(held)
        return None if "door-41" in held else Unavailable("no")

    assert refused_doors(names, Unavailable("first"), put) == {"door-41": "no"}
    assert tries[0] == frozenset(names) and len(tries) == 1 + 2 * 6
    with pytest.raises(GatewayRefused):
        refused_doors([], GatewayRefused("x"), put)
