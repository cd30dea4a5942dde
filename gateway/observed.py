"""What the records say of a split, a group's weights and a mirror: asked for, observed, and whether that can be chance.

Pure: records in, sentences out. One ``Observer`` is fed as records come; its state does not grow with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.copies import Copies, Tally, Way
from gateway.port import GatewayState, GroupRoute, Record, ServiceRoute
from rollout.nouns import Lease, Mirror
from rollout.share import ALPHA, ShareTest, Shortfall, after, wilson_interval

SETTLE_S = 1.0  #: what a lease before this one left in force may still route so long
RECENT_S = 60.0
_STEP_S = 5.0


@dataclass(frozen=True)
class ShareSeen:
    """The share of one arm: a candidate of its service, or a member of its group. Shares in permille."""

    door: str
    arm: str  # "v3", or the member's name
    release: str
    asked: float
    observed: float | None
    requests: int
    seen: int
    low: float
    high: float
    alarm: bool
    judged: bool
    text: str


@dataclass(frozen=True)
class CopiesSeen:
    """Copies along one way: how many were to be expected, and how many came."""

    source: str
    target: str  # "chat v3"
    release: str
    requests: int
    expected: float
    arrived: int
    dropped: int
    waiting: int
    alarm: bool
    text: str


@dataclass(frozen=True)
class TrafficSeen:
    """All that was observed at one moment. ``recent`` are the last minute's requests, by door and "v2 pinned"."""

    shares: tuple[ShareSeen, ...] = ()
    members: tuple[ShareSeen, ...] = ()
    copies: tuple[CopiesSeen, ...] = ()
    recent: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def alarms(self) -> tuple[ShareSeen | CopiesSeen, ...]:
        """What is proven not to be as asked."""
        return tuple(seen for seen in (*self.shares, *self.members, *self.copies) if seen.alarm)


@dataclass
class _Split:
    """A service under a lease. ``since``: earlier requests may have been routed by the lease before."""

    lease: Lease
    since: float
    sticky: bool
    further: tuple[tuple[Way, float], ...]
    now: int  # the share that is in force, in permille
    test: ShareTest = field(default_factory=ShareTest)
    fresh: list[tuple[float, bool]] = field(default_factory=list)


@dataclass
class _Group:
    shares: dict[str, float]
    since: float
    sticky: bool
    tests: dict[str, ShareTest]
    fresh: list[str] = field(default_factory=list)


class Observer:
    """Records in, what they prove out. ``ask`` says what holds now, ``see`` takes the records since."""

    def __init__(self, copies: Copies | None = None) -> None:
        self._copies = copies or Copies()
        self._splits: dict[str, _Split] = {}
        self._groups: dict[str, _Group] = {}
        self._counters: dict[str, int] | None = None
        self._recent: Counter[tuple[float, str, str]] = Counter()
        self._clock = 0.0

    def ask(self, state: GatewayState, began: dict[str, float], now: float) -> None:
        """What is in force, and when each lease's release began; a new lease or new weights are judged anew."""
        stable = {s.name: s.stable for s in state.services}
        leased = {s.name: s for s in state.services if s.lease}
        for ended in self._splits.keys() - leased.keys():
            self._copies.forget(ended)
        self._splits = {name: self._split(s, stable, began.get(name, now)) for name, s in leased.items()}
        self._groups = {g.name: self._group(g, stable, now) for g in state.groups}

    def dropped(self, totals: Mapping[str, int]) -> None:
        """The proxy's counters of copies dropped because too many were open, by service; they start with the proxy.

        What was dropped before the first call is nobody's; later, a service that was not there before began at 0.
        """
        before = totals if self._counters is None else self._counters
        for service, total in totals.items():
            known = before.get(service, 0)
            self._copies.drop(service, total - known if total >= known else total)
        self._counters = dict(totals)

    def see(self, records: Iterable[Record]) -> None:
        """Take records in, oldest first."""
        for record in records:
            self._clock = max(self._clock, record.at + (record.total_s or 0.0))
            if record.kind == "mirror":
                self._copies.copy(record)
                continue
            self._remember(record)
            if record.route == "leased" and record.service in self._splits:
                self._leased(record, self._splits[record.service])
            elif record.route == "group" and record.door in self._groups:
                _grouped(record, self._groups[record.door])
        self._copies.settle(self._clock)
        for split in self._splits.values():
            split.test, split.fresh = after(split.test, split.fresh), []
        for group in self._groups.values():
            for member, share in group.shares.items():
                group.tests[member] = after(group.tests[member], [(share, name == member) for name in group.fresh])
            group.fresh = []

    def seen(self, now: float) -> TrafficSeen:
        """What is known at ``now``, in sentences."""
        self._recent = Counter({key: n for key, n in self._recent.items() if key[0] > now - RECENT_S - _STEP_S})
        recent: dict[str, Counter[str]] = {}
        for (_, door, arm), count in self._recent.items():
            recent.setdefault(door, Counter())[arm] += count
        return TrafficSeen(
            tuple(_share_seen(name, split) for name, split in self._splits.items()),
            tuple(_member_seen(name, g, member) for name, g in self._groups.items() for member in g.shares),
            tuple(self._copies_seen(way, tally) for way, tally in self._copies.tallies.items()),
            {door: dict(sorted(arms.items())) for door, arms in recent.items()},
        )

    def _split(self, service: ServiceRoute, stable: dict[str, int | None], began: float) -> _Split:
        lease, sticky = service.lease, service.traffic.sticky is not None
        assert lease is not None
        further = tuple(_further(service.name, lease.mirrors, stable))
        known = self._splits.get(service.name)
        if known and (known.lease.release, known.lease.candidate, known.sticky, known.further) == (
            lease.release, lease.candidate, sticky, further
        ):  # fmt: skip
            known.lease, known.now = lease, lease.canary_permille
            return known
        self._copies.forget(service.name)
        return _Split(lease, began + SETTLE_S, sticky, further, lease.canary_permille)

    def _group(self, group: GroupRoute, stable: dict[str, int | None], now: float) -> _Group:
        taking = {m.service: m.weight for m in group.members if m.weight and stable.get(m.service) is not None}
        whole = sum(taking.values())
        shares = {name: weight / whole for name, weight in taking.items()}
        known = self._groups.get(group.name)
        if known and (known.shares, known.sticky) == (shares, group.sticky is not None):
            return known
        return _Group(shares, now + SETTLE_S, group.sticky is not None, {name: ShareTest() for name in shares})

    def _leased(self, record: Record, split: _Split) -> None:
        if record.at < split.since or record.arm is None:
            return
        split.fresh.append((record.canary_permille / 1000, record.arm == split.lease.candidate))
        own = Way(record.service, record.service, split.lease.candidate)
        chances = [(own, record.mirror_permille / 1000)] if record.mirror_permille else []
        if chances or split.further:
            self._copies.live(record, (*chances, *split.further))

    def _remember(self, record: Record) -> None:
        version = record.arm if record.arm is not None else record.version
        kind = "" if record.route in ("stable", "leased", "group") else f" {record.route}"
        member = "" if record.service == record.door else f"{record.service} "
        arm, slot = f"{member}v{version}{kind}" if version else "refused", record.at - record.at % _STEP_S
        self._recent[slot, record.door, arm] += 1

    def _copies_seen(self, way: Way, tally: Tally) -> CopiesSeen:
        split = self._splits.get(way.source)
        waiting, test = self._copies.waiting(way), tally.test
        alarm = test.alarm()
        return CopiesSeen(
            source=way.source,
            target=f"{way.service} v{way.version}",
            release=split.lease.release if split else "",
            requests=test.n,
            expected=round(test.expected, 1),
            arrived=test.seen,
            dropped=tally.dropped,
            waiting=waiting,
            alarm=alarm,
            text=_copies_text(test, tally, waiting, alarm),
        )


def _further(source: str, mirrors: tuple[Mirror, ...], stable: dict[str, int | None]) -> Iterable[tuple[Way, float]]:
    for mirror in mirrors:
        version = mirror.version if mirror.version is not None else stable.get(mirror.service)
        if version is not None and mirror.permille:
            yield Way(source, mirror.service, version), mirror.permille / 1000


def _grouped(record: Record, group: _Group) -> None:
    if record.at >= group.since and record.arm is not None and record.service in group.shares:
        group.fresh.append(record.service)


def _share_seen(service: str, split: _Split) -> ShareSeen:
    arm = f"v{split.lease.candidate}"
    return _shown(service, arm, split.lease.release, split.test, split.now, not split.sticky, ALPHA)


def _member_seen(group: str, asked: _Group, member: str) -> ShareSeen:
    test, alpha = asked.tests[member], ALPHA / len(asked.shares)
    return _shown(group, member, "", test, asked.shares[member] * 1000, not asked.sticky, alpha)


def _shown(door: str, arm: str, release: str, test: ShareTest, now: float, judged: bool, alpha: float) -> ShareSeen:
    asked = now if test.asked_share is None else test.asked_share * 1000
    low, high = wilson_interval(test.seen, test.n)
    alarm = judged and test.alarm(alpha)
    return ShareSeen(
        door=door,
        arm=arm,
        release=release,
        asked=round(asked, 2),
        observed=None if test.share is None else round(test.share * 1000, 2),
        requests=test.n,
        seen=test.seen,
        low=round(low * 1000, 2),
        high=round(high * 1000, 2),
        alarm=alarm,
        judged=judged,
        text=_share_text(test, now, asked, judged, alarm),
    )


def _share_text(test: ShareTest, now: float, asked: float, judged: bool, alarm: bool) -> str:
    mean = "" if abs(asked - now) < 0.05 else f" ({asked / 10:.3g} % on average)"
    told = f"asked {now / 10:.3g} %{mean}"
    if test.share is None:
        return f"{told}, no request yet"
    told = f"{told}, observed {test.share * 100:.3g} % of {test.n:,} requests"
    if not judged:
        return f"{told}: not judged, because sessions stick and their requests are not independent"
    return (
        f"{told}: NOT as asked; chance alone does so less than once in {1 / ALPHA:,.0f} times"
        if alarm
        else f"{told}: as asked"
    )


def _copies_text(test: Shortfall, tally: Tally, waiting: int, alarm: bool) -> str:
    if not test.n:
        return f"no copy is due yet; {waiting:,} requests wait for theirs" if waiting else "no request to copy yet"
    told = f"{test.expected:,.0f} copies of {test.n:,} requests expected, {test.seen:,} arrived"
    if tally.dropped:
        told += f", {tally.dropped:,} dropped because as many were open as may be (`mirror_in_flight`), no fault"
    return f"{told}: copies do NOT arrive" if alarm else f"{told}: as asked"
