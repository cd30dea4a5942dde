"""Ten thousand changes of a gateway that is never idle."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psutil
import pytest
from load_client import Plan
from many_changes import DOORS, Fleet, Outcome, Walk, many_changes
from running_envoy import Proxy

CHANGES = 10_000
WARM = 500  # changes after which memory is first looked at

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers behind the gateway."""
    running = Fleet.start()
    yield running
    running.stop()


def test_ten_thousand_changes_lose_nothing(proxy: Proxy, fleet: Fleet, capsys: pytest.CaptureFixture) -> None:
    """Weights, instances, mirrors, tokens and groups change 10,000 times under load: nothing fails, nothing grows."""
    walk, plan = Walk(fleet, random.Random(4)), Plan(proxy.settings.port, DOORS, streams=8)
    warm = many_changes(proxy, walk, WARM, plan)
    memory, names = _memory(proxy), _names(proxy)
    outcome = many_changes(proxy, walk, CHANGES - WARM, plan)
    with capsys.disabled():
        print(_told(outcome), f"Envoy's memory: {memory >> 20} MiB, then {_memory(proxy) >> 20} MiB", sep="\n")
    for part in (warm.running.seen(), outcome.running.seen()):
        assert (part.failures, part.cut) == ([], [])
        assert part.streams > 0
    for part in (warm, outcome):
        assert part.running.seen().requests >= len(part.applied), "there was no load on each change"
    assert _names(proxy) == names
    assert _memory(proxy) < 1.5 * memory


def _told(outcome: Outcome) -> str:
    seen = outcome.running.seen()
    return (
        f"\n{len(outcome.applied)} changes in {outcome.seconds:.0f} s, {sum(c.structural for c in outcome.applied)} of "
        f"structure; of numbers p50 {outcome.quantile(0.5) * 1000:.1f} ms, p99 {outcome.quantile(0.99) * 1000:.1f} ms\n"
        f"{seen.requests} requests ({seen.rate:.0f}/s), {len(seen.failures)} failed; "
        f"{seen.streams} streams, {len(seen.cut)} cut"
    )


def _memory(proxy: Proxy) -> int:
    assert proxy.process is not None
    return psutil.Process(proxy.process.pid).memory_info().rss


def _names(proxy: Proxy) -> set[str]:
    """Envoy's files; no version of a service is taken away here, so they stay the same."""
    return {path.name for path in proxy.layout.xds.iterdir()}
