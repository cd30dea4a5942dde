"""What every gateway does alike, on the in-memory one and on a real Envoy."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator

import pytest
from running_envoy import Proxy, a_free_port, a_lease, until

from gateway.memory import MemoryGateway
from gateway.port import (
    Backend,
    Cursor,
    Endpoint,
    EnvoySettings,
    Gateway,
    GatewayState,
    MemorySettings,
    ServiceRoute,
    Token,
    open_gateway,
)
from rollout.errors import Refused
from rollout.nouns import Lease, Split


@pytest.fixture(params=["memory", pytest.param("envoy", marks=pytest.mark.integration)])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Each implementation, fresh, as ``open_gateway`` makes it."""
    if request.param == "memory":
        yield open_gateway(MemorySettings())
        return
    folder = tempfile.mkdtemp(prefix="rh-")
    proxy = Proxy(EnvoySettings(directory=folder, port=a_free_port())).start()
    yield open_gateway(proxy.settings)
    proxy.kill()
    shutil.rmtree(folder)


def state(lease: Lease | None = None, stable: int | None = 1, name: str = "chat") -> GatewayState:
    """A service of two versions. Nothing listens there: the contract is about state, not traffic."""
    backends = tuple(Backend(v, (Endpoint(f"{name}-v{v}-0", "127.0.0.1", 1 + v),)) for v in (1, 2))
    return GatewayState((ServiceRoute(name, (Token("alice", "token-of-alice"),), backends, stable, lease),))


def test_nothing_is_in_force_at_first(gateway: Gateway) -> None:
    """A fresh gateway serves nothing and has no records."""
    assert gateway.read() == {}
    assert gateway.records(Cursor())[0] == []


def test_what_was_applied_is_in_force(gateway: Gateway) -> None:
    """Read gives back what apply asked, through a service's whole life."""
    for lease, stable in ((None, None), (None, 1), (a_lease(canary=1), 1), (a_lease(mirror=1000), 1), (None, 2)):
        gateway.apply(state(lease, stable))
        assert gateway.read() == {"chat": Split("chat", stable, lease)}
    gateway.apply(GatewayState())
    assert gateway.read() == {}


def test_doing_it_twice_is_harmless(gateway: Gateway) -> None:
    """The same state again changes nothing and is no structural change."""
    gateway.apply(state())
    assert not gateway.apply(state()).structural
    assert gateway.read() == {"chat": Split("chat", 1, None)}


def test_leases_are_numbers_and_versions_are_structure(gateway: Gateway) -> None:
    """Only a change of more than leases is structural; each change has a revision of its own."""
    changes = [gateway.apply(s) for s in (state(), state(a_lease(canary=5)), state(), state(stable=2))]
    assert [change.structural for change in changes] == [True, False, False, True]
    assert len({change.revision for change in changes}) == 4


def test_a_refused_state_leaves_the_old_in_force(gateway: Gateway) -> None:
    """A state with a broken rule is refused as a whole, also where its other half is good."""
    gateway.apply(state())
    bad = GatewayState((*state(name="other").services, *state(a_lease(candidate=9)).services))
    with pytest.raises(Refused):
        gateway.apply(bad)
    assert gateway.read() == {"chat": Split("chat", 1, None)}


def test_a_lease_ends_at_its_time(gateway: Gateway) -> None:
    """After its end a lease is no longer in force, although nobody changed anything."""
    lease = a_lease(canary=500, seconds=0.4)
    gateway.apply(state(lease))
    until(lambda: time.time() * 1000 >= lease.until_ms)
    assert gateway.read() == {"chat": Split("chat", 1, None)}


def test_in_flight_names_each_instance(gateway: Gateway) -> None:
    """Each instance of a version is listed with its open requests; an unknown version has none."""
    gateway.apply(state())
    assert list(gateway.in_flight("chat", 2)) == [("chat-v2-0", 0)]
    assert list(gateway.in_flight("chat", 9)) == []


def test_memory_ends_leases_by_its_clock() -> None:
    """The in-memory gateway's time is an argument, so a lease ends without waiting."""
    now = [100.0]
    gateway = MemoryGateway(clock=lambda: now[0])
    gateway.apply(state(Lease(2, 500, 0, 99_000, 101_000, "r")))
    assert gateway.read()["chat"].lease is not None
    now[0] = 101.0
    assert gateway.read()["chat"].lease is None
