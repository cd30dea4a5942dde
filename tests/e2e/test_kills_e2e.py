"""In the middle of a canary something is killed: users are served, and within 10 s all traffic is on stable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from canary import SERVICE, Canary, check_release, check_traffic, check_users, kill, with_children
from house import House
from whole_stack import silent, until
from witness import witness

from cli.processes import descendants, marked
from cli.stack import up
from gateway.port import open_gateway
from rollout.nouns import Health
from store.port import Release
from store.steer import STALE_S
from tasks.trail import look_back

pytestmark = pytest.mark.timeout(600)  # the waits inside are what bounds it


@pytest.fixture
def canary(house: House, chat: Release, stable: int, tmp_path: Path) -> Iterator[Canary]:
    """Half of the traffic on a candidate, and a client that was answered by both versions."""
    with witness(house.stack, SERVICE, tmp_path) as client:
        _, since = look_back(open_gateway(house.stack.gateway()), SERVICE, stable)
        run = house.start(SERVICE, chat.model_uri, "q4_0", "patient")
        until(lambda: SERVICE in house.store.leases(), 90, "a canary")
        release = house.release_of(run)
        assert release and release.candidate
        begun = Canary(house, client, run, release, stable, release.candidate, since)
        arms = {stable, release.candidate}
        until(lambda: {r.version for r in begun.records()} >= arms, 20, "answers of both versions")
        yield begun


def test_candidate_killed(canary: Canary) -> None:
    """The candidate's process dies: its share goes to stable at once, and the release is rolled back for it."""
    pid = canary.ready_pid(canary.candidate)
    dead = kill(with_children(pid or 0))
    check_traffic(canary, dead)
    check_release(canary, "the candidate's instance")
    check_users(canary, dead, f"{SERVICE}-v{canary.candidate}-0")


def test_only_stable_instance_killed(canary: Canary) -> None:
    """Stable's one process dies: the candidate serves everybody until stable is back, then stable does again."""
    pid = canary.ready_pid(canary.stable)
    dead = kill(with_children(pid or 0))
    until(lambda: canary.ready_pid(canary.stable) not in (None, pid), 120, "stable's return")
    back = time.time()
    check_traffic(canary, back)
    check_release(canary, "stable's instance")
    helped = [r for r in canary.records() if r.arm == canary.stable and r.version == canary.candidate]
    assert helped and {r.status for r in helped} == {200}
    check_users(canary, dead, f"{SERVICE}-v{canary.stable}-0", back)


def test_agent_killed(canary: Canary) -> None:
    """The agent dies: instances keep running under the next one, which ends the release that it finds."""
    before, pid = canary.ready_pid(canary.stable), canary.part_pid("agent")
    dead = kill([psutil.Process(pid)])
    check_traffic(canary, dead)
    check_release(canary, "the agent was restarted")
    assert canary.part_pid("agent") not in (0, pid)
    assert canary.ready_pid(canary.stable) == before
    check_users(canary, dead)


def test_worker_killed(canary: Canary) -> None:
    """The Prefect worker dies: the run that nobody could cancel any more ends itself."""
    pid = canary.part_pid("worker")
    dead = kill([psutil.Process(pid)])
    check_traffic(canary, dead)
    check_release(canary, "the worker of this run is gone")
    check_users(canary, dead)


def test_flow_killed(canary: Canary) -> None:
    """The release's own process dies: nobody renews the lease, so Envoy ends it, and the release is ended for it."""
    flows = [psutil.Process(pid) for pid in descendants(canary.part_pid("worker"))]
    assert flows
    dead = kill(flows)
    check_traffic(canary, dead)
    check_release(canary, "stopped renewing", "the run ended as Crashed")
    check_users(canary, dead)


def test_all_but_envoy_and_stable_killed(canary: Canary) -> None:
    """With everything else dead at once Envoy alone brings users back to stable; ``up`` then ends the release, and the
    next run tells the registry of it."""
    stack, stable = canary.house.stack, canary.ready_pid(canary.stable) or 0
    spared = {p.pid for p in with_children(stable, canary.part_pid("gateway"))}
    dead = kill([p for p in marked(stack) if p.pid not in spared])
    check_traffic(canary, dead)
    assert {p.pid for p in marked(stack)} == spared
    check_users(canary, dead, f"{SERVICE}-v{canary.candidate}-0")
    up(stack, silent)
    release = check_release(canary, "the agent was restarted")
    until(lambda: canary.ready_pid(canary.stable), 60, "stable's return")
    until(lambda: time.time() > release.beat_at + STALE_S, 2 * STALE_S, "the silence after which nobody else tells")
    canary.house.prefect.start("redeploy", {"service": SERVICE})
    evidence = until(lambda: canary.house.store.release(release.id).evidence, 90, "evidence of the killed release")
    assert (evidence["policy"], evidence["outcome"]) == ("patient", str(release.phase))
    tags = dict(canary.house.registry.resolve(release.model_uri).tags)
    assert (tags["roundhouse.release"], tags["roundhouse.verdict"]) == (release.id, str(release.phase))


def test_second_release_is_refused_and_cancelling_turns_back(canary: Canary, chat: Release) -> None:
    """While a release runs another one of the service is refused by name; a cancelled run leaves traffic on stable."""
    house = canary.house
    second = house.start(SERVICE, chat.model_uri, "q8_0", "patient")
    until(lambda: house.prefect.run(second).ended, 60, "the second run's end")
    refused = house.prefect.run(second)
    assert refused.state == "FAILED" and "Conflict" in refused.message and canary.release.id in refused.message
    assert canary.ended() is None and house.store.leases()[SERVICE].release == canary.release.id
    house.prefect.cancel(canary.run)
    until(lambda: house.prefect.run(canary.run).ended, 60, "the cancelled run's end")
    assert house.prefect.run(canary.run).state == "CANCELLED"
    release = check_release(canary, "was cancelled")
    check_traffic(canary, release.finished_at or 0.0)
    check_users(canary, release.finished_at or 0.0)


def test_hung_instance_is_replaced(house: House, stable: int) -> None:
    """A process that lives but does not answer is killed and started anew."""
    name = f"{SERVICE}-v{stable}-0"

    def now() -> tuple[int | None, Health]:
        return next((i.pid, i.health) for i in house.store.instances(SERVICE) if i.id == name)

    before, _ = until(lambda: now() if now()[1] is Health.READY else None, 60, "a ready instance")
    os.kill(before or 0, signal.SIGSTOP)
    until(lambda: now()[0] not in (before, None) and now()[1] is Health.READY, 60, "a new process")
    assert not psutil.pid_exists(before or 0)
    assert any("hung" in event.text for event in house.store.events(SERVICE))
