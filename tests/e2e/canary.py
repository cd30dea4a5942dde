"""A real release in the middle of a canary that decides nothing, and what clients and the gateway saw of a blow."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field

import psutil
from house import House
from whole_stack import until
from witness import Witness

from cli.processes import descendants
from gateway.port import Cursor, Record, open_gateway
from platforms.on_process import Supervisor
from rollout.nouns import Health
from store.port import InstanceState, Release

SERVICE = "chat"
BACK_S = 10.0  # what we promise: so long after any one death all traffic is on stable
QUIET_S = 4.0  # at 6 requests/s and half of them on the candidate, silence of its arm for so long is no chance


@dataclass
class Canary:
    """The release, both versions, and the client that calls all the time."""

    house: House
    witness: Witness
    run: str
    release: Release
    stable: int
    candidate: int
    since: Cursor = field(default_factory=Cursor)

    def instances(self, version: int) -> list[InstanceState]:
        """The instances of a version."""
        return [i for i in self.house.store.instances(SERVICE) if i.version == version]

    def ready_pid(self, version: int) -> int | None:
        """The process of a version's one instance, if that is ready."""
        ready = [i.pid for i in self.instances(version) if i.health is Health.READY]
        return ready[0] if ready else None

    def part_pid(self, name: str) -> int:
        """The process of a part of the stack."""
        info = Supervisor(str(self.house.stack.supervisor_socket)).info(name)
        return int(info["pid"]) if info else 0

    def records(self) -> list[Record]:
        """What the gateway wrote down of live requests since the canary began."""
        found, _ = open_gateway(self.house.stack.gateway()).records(self.since)
        return [r for r in found if r.service == SERVICE and r.kind == "live"]

    def last_on_candidate(self) -> float:
        """When the last request began that was meant for the candidate, or that it answered."""
        return max((r.at for r in self.records() if self.candidate in (r.arm, r.version)), default=0.0)

    def traffic_is_back(self, dead: float) -> bool:
        """Whether for a while now stable alone has answered what began after ``dead``, and enough of it."""
        last = max(self.last_on_candidate(), dead)
        on_stable = [r for r in self.records() if r.at > last and r.version == self.stable and r.status == 200]
        return time.time() > last + QUIET_S and len(on_stable) > 2 * QUIET_S

    def ended(self) -> Release | None:
        """The release, once it has ended."""
        release = self.house.store.release(self.release.id)
        return release if not release.phase.active else None


def with_children(*pids: int) -> list[psutil.Process]:
    """These processes and all below them."""
    return [psutil.Process(each) for pid in pids for each in sorted({pid, *descendants(pid)})]


def kill(processes: list[psutil.Process]) -> float:
    """SIGKILL to all at once; the moment (epoch seconds) at which all of them were dead."""
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(_lives(process) for process in processes), 30, "the death of what was killed")
    return time.time()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def check_traffic(canary: Canary, dead: float) -> None:
    """All traffic is on stable within the promised time, and stays there although clients go on."""
    until(lambda: canary.traffic_is_back(dead), BACK_S + 60, "all traffic on stable")
    assert canary.last_on_candidate() - dead < BACK_S


def check_release(canary: Canary, *words: str, within_s: float = 30.0) -> Release:
    """The release has ended with a reason that says what happened, and its candidate is gone for good."""
    release = until(canary.ended, within_s, "the release's end")
    assert release.phase in ("rolled back", "failed")
    assert any(word in release.reason for word in words), release.reason
    assert canary.house.store.service(SERVICE).stable == canary.stable
    until(lambda: not canary.instances(canary.candidate), 40, "the candidate's end")
    return release


def check_users(canary: Canary, dead: float, killed: str = "", back: float = 0.0) -> None:
    """The client lost nothing but what was open on the killed instance when that died, and all stayed on stable, which
    could serve again from ``back`` on where it was stable that died."""
    counts = canary.witness.stop()
    assert counts["requests_ended"] == counts["requests_sent"]
    assert counts["requests_ended"] - counts["requests_failed"] > 20
    assert canary.last_on_candidate() - max(dead, back) < BACK_S
    by_id = {r.request_id: r for r in canary.records()}
    for failure in counts["failures"]:
        record = by_id.get(failure["request_id"])
        assert record and killed and record.instance == killed and failure["at"] < dead, (failure, record)
