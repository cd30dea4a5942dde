"""A thousand renewals and fifty ends of leases."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from load_client import Plan
from many_leases import DOORS, SERVICES, fleet, many_leases, state_of
from running_envoy import Proxy, Upstream, a_lease

from gateway.port import Token

pytestmark = pytest.mark.timeout(3600)

Fleet = dict[str, tuple[Upstream, Upstream]]


@pytest.fixture
def running() -> Iterator[Fleet]:
    """Two versions of three services."""
    made = fleet()
    yield made
    for pair in made.values():
        for upstream in pair:
            upstream.stop()


def test_a_thousand_renewals_and_fifty_ends(proxy: Proxy, running: Fleet, capsys: pytest.CaptureFixture) -> None:
    """Three services' leases, each with a window of its own: nothing fails, nobody sees a candidate after an end."""
    outcome = many_leases(proxy, running, 51, 20, Plan(proxy.settings.port, DOORS, streams=9))
    seen, took = outcome.running.seen(), sorted(change.seconds * 1000 for change in outcome.renewals)
    with capsys.disabled():
        p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
        print(f"\n{len(took)} renewals: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        print(f"{seen.requests} requests ({seen.rate:.0f}/s), {len(seen.failures)} failed; {seen.streams} streams")
    assert (seen.failures, seen.cut) == ([], [])
    assert seen.requests >= len(took), "there was no load on each renewal"
    assert len(took) >= 1000 and not any(change.structural for change in outcome.renewals)
    assert sum(len(outcome.windows.gaps(name)) for name in SERVICES) >= 50
    assert outcome.late() == []


def test_a_renewal_leaves_keys_alone(proxy: Proxy, running: Fleet) -> None:
    """With 5,000 tokens a renewal writes none of them again, and costs no multiple of one with three tokens."""
    many = [Token(f"client-{i}", f"token-number-{i:05}") for i in range(5000)]
    few = _renewals(proxy, running)
    keys = proxy.layout.xds / "ecds-auth.json"
    proxy.gateway.apply(state_of(running, {}, *many))
    written = keys.stat()
    took = _renewals(proxy, running, *many)
    assert (keys.stat().st_mtime_ns, keys.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert statistics.median(took) < 5 * statistics.median(few)


def _renewals(proxy: Proxy, running: Fleet, *tokens: Token) -> list[float]:
    """Seconds of each of 60 renewals."""
    leases = [{name: a_lease(canary=500, seconds=10 + i / 1000) for name in SERVICES} for i in range(60)]
    return [proxy.gateway.apply(state_of(running, lease, *tokens)).seconds for lease in leases]
