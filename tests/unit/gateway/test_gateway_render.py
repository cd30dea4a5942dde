"""Rendering: the same state always gives the same files, and they say what was asked."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from gateway_states import ALICE, LEASE, SETTINGS, backend, chat, everything, two_services

from gateway import saved
from gateway.filters import KINDS, ON, ecds_file, switches
from gateway.group_routes import group_routes
from gateway.port import GatewayState, Traffic
from gateway.render import CDS, LDS, RDS, RDS_MIRROR, bootstrap, rehearsed, render, static_twin
from gateway.routes import service_routes
from gateway.splits import groups_in_force, splits_in_force
from rollout.nouns import Split

GOLDEN = Path(__file__).parents[2] / "golden" / "gateway"
STATES = {"empty": GatewayState(), "canary": two_services(), "everything": everything()}


@pytest.mark.parametrize("name", STATES)
def test_a_state_renders_to_its_golden_files(name: str) -> None:
    """A state, as it is saved, and all its files, byte for byte; ROUNDHOUSE_REWRITE_GOLDEN=1 writes them anew."""
    rendered = {**render(STATES[name], SETTINGS, "revision-1"), "bootstrap.json": bootstrap(SETTINGS)}
    texts = {"in": _text(saved.to_json(saved.Saved(1, 0.0, STATES[name]))), "out": _text(rendered)}
    for side, text in texts.items():
        golden = GOLDEN / f"{name}.{side}.json"
        if os.environ.get("ROUNDHOUSE_REWRITE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


def test_each_version_has_a_file_of_endpoints() -> None:
    """One EDS file per version and one per fed filter, beside the four that are always there."""
    names = set(render(two_services(), SETTINGS, "r"))
    fed = {ecds_file(name) for name in KINDS}
    assert names == {LDS, CDS, RDS, RDS_MIRROR, *fed, "eds-chat@v1.json", "eds-chat@v2.json"}


def routes_of(state: GatewayState, kind: str) -> list[dict[str, Any]]:
    """The routes of service chat of one kind, of what lies behind its name; each has a twin for the name alone."""
    (service,) = (s for s in state.services if s.name == "chat")
    return [r for r in service_routes(service, state) if r["name"].split("/")[1] == kind and "prefix" in r["match"]]


def leased(**changes: Any) -> dict[str, Any]:
    """The leased route of a lease with changes."""
    (route,) = routes_of(GatewayState((chat(dataclasses.replace(LEASE, **changes)),)), "leased")
    return route


def test_weights_always_add_up_to_a_thousand() -> None:
    """The sum of the arms' weights is constant, so that sticky users move as little as shares do."""
    for permille in (0, 1, 50, 999, 1000):
        arms = leased(canary_permille=permille)["route"]["weighted_clusters"]["clusters"]
        assert [(arm["name"], arm["weight"]) for arm in arms] == [
            ("chat@v2+v1", permille),
            ("chat@v1+v2", 1000 - permille),
        ]


def test_the_leased_routes_stand_before_stables() -> None:
    """A request inside the window may take the pin or the leased route; any other the one behind."""
    service = chat(LEASE, tokens=(dataclasses.replace(ALICE, may_pin=True),))
    state = GatewayState((service,))
    names = [r["name"] for r in service_routes(service, state)]
    assert names[::2] == names[1::2] == ["chat/pinned", "chat/pinned", "chat/leased/50/100", "chat/stable"]
    held = {"name": "x-now-ms", "range_match": {"start": LEASE.from_ms, "end": LEASE.until_ms}}
    pin, pin_stable = routes_of(state, "pinned")
    assert held in pin["match"]["headers"] and held in leased()["match"]["headers"]
    assert held not in pin_stable["match"]["headers"]
    (stable,) = routes_of(state, "stable")
    assert "headers" not in stable["match"]
    assert stable["route"]["cluster"] == "chat@v1"


def test_without_a_token_that_may_pin_no_route_asks() -> None:
    """Where nobody may name a version no request is looked at for one."""
    assert routes_of(GatewayState((chat(LEASE),)), "pinned") == []


def test_no_mirror_no_policy() -> None:
    """A lease without a mirror has no mirror policy, one with 0.1 % has 1,000 of a million."""
    assert "request_mirror_policies" not in leased(mirror_permille=0)["route"]
    (policy,) = leased(mirror_permille=1)["route"]["request_mirror_policies"]
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 1000, "denominator": "MILLION"}


def test_keys_stand_in_one_file_only() -> None:
    """A token is in the file that feeds the authentication filter, and in no other: routes are renewed often."""
    files = render(everything(), SETTINGS, "r")
    holding = {name for name, doc in files.items() if ALICE.secret in json.dumps(doc)}
    assert holding == {ecds_file("auth")}
    assert ALICE.secret not in json.dumps(static_twin(everything(), SETTINGS))
    assert ALICE.secret not in json.dumps(saved.to_json(saved.Saved(1, 0.0, everything())))


def test_a_baseline_gets_what_the_candidate_gets() -> None:
    """Three arms: candidate and baseline with the same share, stable with the rest."""
    service = chat(dataclasses.replace(LEASE, baseline=3), backends=(backend(1), backend(2), backend(3)))
    (route,) = routes_of(GatewayState((service,)), "leased")
    arms = [(a["name"], a["weight"]) for a in route["route"]["weighted_clusters"]["clusters"]]
    assert arms == [("chat@v2+v1", 50), ("chat@v1+v2", 900), ("chat@v3+v1", 50)]


def test_a_group_splits_each_members_part_as_its_lease_says() -> None:
    """Weights 3 to 1 of 10,000, and inside the member that holds a lease its canary; then all on stable."""
    (group,) = everything().groups
    leased_route, _, stable_route, _ = group_routes(group, everything())
    drawn = {c["name"]: c["weight"] for c in leased_route["route"]["weighted_clusters"]["clusters"]}
    assert drawn == {"chat@v2+v1": 375, "chat@v1+v2": 7125, "embed@v1": 2500}
    assert [c["name"] for c in stable_route["route"]["weighted_clusters"]["clusters"]] == ["chat@v1", "embed@v1"]
    assert "range_match" in leased_route["match"]["headers"][0]
    copies = leased_route["route"]["request_mirror_policies"][0]["runtime_fraction"]["default_value"]
    assert copies == {"numerator": 75_000, "denominator": "MILLION"}  # 10 % of three quarters


def test_what_a_service_does_not_use_is_switched_off() -> None:
    """A plain service with an engine that counts tokens switches on no filter; one with everything, each."""
    plain = chat(traffic=Traffic(usage="engine"))
    assert set(switches(plain)) == {"door"}
    (full,) = (s for s in everything().services if s.name == "chat")
    on = {name for name, value in switches(full).items() if value == ON}
    assert on == {"service-rate", "token-rate", "prompt", "usage-json", "usage-stream", "calls"}


def test_clusters_do_not_depend_on_the_lease() -> None:
    """Beginning or ending a lease leaves clusters and endpoints as they are: only routes change."""
    with_lease, without = (render(GatewayState((chat(lease),)), SETTINGS, "r") for lease in (LEASE, None))
    assert {name for name in with_lease if with_lease[name] != without[name]} == {RDS}


def test_a_group_can_be_read_back() -> None:
    """The members' shares of 10,000, from what the proxy shows."""
    routes = render(everything(), SETTINGS, "r")[RDS]["resources"][0]["virtual_hosts"][0]["routes"]
    assert groups_in_force(routes) == {"prod": {"chat": 7500, "embed": 2500}}
    assert splits_in_force(routes, LEASE.from_ms)["chat"].lease == everything().services[0].lease


def test_the_twin_rehearses_a_lease() -> None:
    """What the binary validates holds a lease wherever one could be held, and keeps one that is held."""
    assert rehearsed(GatewayState((chat(),))).services[0].lease is not None
    assert rehearsed(two_services()) == two_services()
    twin = json.dumps(static_twin(GatewayState((chat(),)), SETTINGS))
    assert "chat@v2+v1" in twin
    assert "path_config_source" not in twin


def test_splits_are_read_back_as_they_were_rendered() -> None:
    """Reading is the inverse of rendering, inside the window; outside it the lease is not in force."""
    routes = render(two_services(), SETTINGS, "r")[RDS]["resources"][0]["virtual_hosts"][0]["routes"]
    inside, after = splits_in_force(routes, LEASE.from_ms), splits_in_force(routes, LEASE.until_ms)
    assert inside == {"chat": Split("chat", 1, LEASE), "embed": Split("embed", None)}
    assert after["chat"] == Split("chat", 1, None)


def _text(doc: object) -> str:
    return json.dumps(doc, indent=1, sort_keys=True) + "\n"
