"""Do mirrored copies arrive? Joins live records with those of their copies by request id. Pure, bounded in memory.

A record is written when its answer has ended, so either of the two may come first, and a copy may take longer than the
request it is of. Outcomes are judged in the order of the live requests, each once its copy has come or is overdue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

from gateway.port import Record
from rollout.share import Shortfall, counted

WAIT_S = 10.0  #: how much later than the live answer a copy's may end; also as long again as the live one took
LONGEST_S = 120.0  #: live answers longer than this are not judged: copies are remembered for so long only
ROOM = 20_000  #: requests and copies that wait for each other


@dataclass(frozen=True)
class Way:
    """From a service whose requests are copied to the version that gets the copies."""

    source: str
    service: str
    version: int


@dataclass
class Tally:
    """What is known of one way. ``dropped``: by the proxy's own count, because too many copies were open at once."""

    test: Shortfall = field(default_factory=Shortfall)
    dropped: int = 0  # since the lease began


def copyable(record: Record) -> bool:
    """Whether the proxy would have copied this live request: it reached the router whole, and is plain HTTP."""
    refused = record.attempts < 1 or {"DC", "UO", "UH"} & set(record.flags.split(","))
    return not refused and record.status != 101 and record.grpc_status is None


class Copies:
    """Live requests and copies that wait for each other, and a tally of each way."""

    def __init__(self, wait_s: float = WAIT_S, room: int = ROOM) -> None:
        self._wait_s, self._room = wait_s, room
        self._one_in = 1  # of so many request ids one is followed: memory is bounded, and chance stays chance
        self._waiting: dict[tuple[str, str, int], tuple[Way, float, float, bool]] = {}  # way, chance, overdue, came
        self._early: dict[tuple[str, str, int], float] = {}  # when a copy ended whose live record is not there yet
        self._dropped: Counter[str] = Counter()
        self.tallies: dict[Way, Tally] = {}

    def forget(self, source: str) -> None:
        """One service's lease has ended, or another holds."""
        self.tallies = {way: tally for way, tally in self.tallies.items() if way.source != source}
        self._waiting = {key: one for key, one in self._waiting.items() if one[0].source != source}
        self._dropped.pop(source, None)
        self._one_in = 1

    def drop(self, source: str, count: int) -> None:
        """``count`` more copies of a service's requests were dropped by the bound on open ones."""
        self._dropped[source] += count
        for way, tally in self.tallies.items():
            tally.dropped = self._dropped[way.source]

    def live(self, record: Record, chances: Iterable[tuple[Way, float]]) -> None:
        """A live request, and with which chance it was copied along each way."""
        took = record.total_s or 0.0
        if took > LONGEST_S or not self._followed(record.request_id) or not copyable(record):
            return
        overdue = record.at + took + max(self._wait_s, took)
        for way, chance in chances:
            self.tallies.setdefault(way, Tally(dropped=self._dropped[way.source]))
            key = (record.request_id, way.service, way.version)
            self._waiting[key] = (way, chance, overdue, self._early.pop(key, None) is not None)

    def copy(self, record: Record) -> None:
        """A copy's record."""
        version = record.arm if record.arm is not None else record.version
        if version is None or not self._followed(record.request_id):
            return
        key = (record.request_id, record.service, version)
        if key in self._waiting:
            self._waiting[key] = (*self._waiting[key][:3], True)
        else:
            self._early[key] = record.at + (record.total_s or 0.0)

    def settle(self, now: float) -> None:
        """Judge what can be judged at ``now`` (epoch seconds, by the records), and keep within the room."""
        judged: dict[Way, list[tuple[float, bool]]] = {}
        while self._waiting:
            key, (way, chance, overdue, came) = next(iter(self._waiting.items()))
            if not came and now <= overdue:
                break
            del self._waiting[key]
            judged.setdefault(way, []).append((chance, came))
        for way, outcomes in judged.items():
            tally = self.tallies[way]
            tally.test = counted(tally.test, outcomes, tally.dropped)
        while self._early and next(iter(self._early.values())) < now - LONGEST_S:
            del self._early[next(iter(self._early))]
        while len(self._waiting) + len(self._early) > self._room:
            self._thin_out()

    def waiting(self, way: Way) -> int:
        """Requests of a way that are too fresh to be judged."""
        return sum(one[0] == way for one in self._waiting.values())

    def _followed(self, request_id: str) -> bool:
        return crc32(request_id.encode()) % self._one_in == 0

    def _thin_out(self) -> None:
        self._one_in *= 2
        self._waiting = {key: one for key, one in self._waiting.items() if self._followed(key[0])}
        self._early = {key: end for key, end in self._early.items() if self._followed(key[0])}
