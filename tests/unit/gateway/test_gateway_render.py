"""Rendering: the same state always gives the same files, and they say what was asked."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from gateway_states import LEASE, SETTINGS, chat, two_services

from gateway import saved
from gateway.port import GatewayState
from gateway.render import CDS, LDS, RDS, RDS_MIRROR, bootstrap, rehearsed, render, static_twin
from gateway.routes import service_routes
from gateway.splits import splits_in_force
from rollout.nouns import Split

GOLDEN = Path(__file__).parents[2] / "golden" / "gateway"
STATES = {"empty": GatewayState(), "canary": two_services()}


@pytest.mark.parametrize("name", STATES)
def test_a_state_renders_to_its_golden_files(name: str) -> None:
    """A state, as it is saved, and all its files, byte for byte; ROUNDHOUSE_REWRITE_GOLDEN=1 writes them anew."""
    rendered = {**render(STATES[name], SETTINGS, "revision-1"), "bootstrap.json": bootstrap(SETTINGS)}
    texts = {"in": _text(saved.to_json(STATES[name])), "out": _text(rendered)}
    for side, text in texts.items():
        golden = GOLDEN / f"{name}.{side}.json"
        if os.environ.get("ROUNDHOUSE_REWRITE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


def test_each_version_has_a_file_of_endpoints() -> None:
    """One EDS file per version, beside the four that are always there."""
    names = set(render(two_services(), SETTINGS, "r"))
    assert names == {LDS, CDS, RDS, RDS_MIRROR, "eds-chat@v1.json", "eds-chat@v2.json"}


def test_weights_always_add_up_to_a_thousand() -> None:
    """The sum of the arms' weights is constant, so that sticky users move as little as shares do."""
    for permille in (0, 1, 50, 999, 1000):
        leased = service_routes(chat(dataclasses.replace(LEASE, canary_permille=permille)))[0]
        arms = leased["route"]["weighted_clusters"]["clusters"]
        assert [arm["weight"] for arm in arms] == [1000 - permille, permille]


def test_the_leased_route_stands_before_stables() -> None:
    """A request inside the window takes the leased route, any other the one behind it."""
    leased, stable = service_routes(chat(LEASE))
    assert leased["match"]["headers"][0]["range_match"] == {"start": LEASE.from_ms, "end": LEASE.until_ms}
    assert "headers" not in stable["match"]
    assert stable["route"]["cluster"] == "chat@v1"


def test_no_mirror_no_policy() -> None:
    """A lease without a mirror has no mirror policy, one with 0.1 % has 10 of 10,000."""
    silent, faint = (service_routes(chat(dataclasses.replace(LEASE, mirror_permille=n)))[0] for n in (0, 1))
    assert "request_mirror_policies" not in silent["route"]
    (policy,) = faint["route"]["request_mirror_policies"]
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 10, "denominator": "TEN_THOUSAND"}


def test_clusters_do_not_depend_on_the_lease() -> None:
    """Beginning or ending a lease leaves clusters and endpoints as they are: only routes change."""
    with_lease, without = (render(GatewayState((chat(lease),)), SETTINGS, "r") for lease in (LEASE, None))
    assert {name for name in with_lease if with_lease[name] != without[name]} == {RDS}


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
