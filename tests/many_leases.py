"""Leases of several services, renewed and let go under load, and what the records say of each request."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from load_client import Load, Plan, load
from running_envoy import Proxy, Upstream

from gateway.port import Applied, Backend, Cursor, Endpoint, GatewayState, Record, ServiceRoute, Token, Traffic
from rollout.nouns import Lease

SERVICES = ("ask", "chat", "tell")
DOORS = tuple((name, f"token-of-{name}") for name in SERVICES)


@dataclass
class Windows:
    """All stretches of time in which a service's lease held, in epoch milliseconds."""

    granted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def grant(self, service: str, seconds: float) -> Lease:
        """A lease from now on; half of the requests to the candidate, and a tenth copied to it."""
        now_ms = int(time.time() * 1000)
        lease = Lease(2, 500, 100, now_ms, now_ms + int(seconds * 1000), f"release-of-{service}")
        self.granted.setdefault(service, []).append((lease.from_ms, lease.until_ms))
        return lease

    def gaps(self, service: str) -> list[tuple[int, int]]:
        """Between an end and the next grant."""
        ends, found = 0, []
        for begin, end in self.granted[service]:
            if ends and begin > ends:
                found.append((ends, begin))
            ends = max(ends, end)
        return found

    def held(self, service: str, at_ms: int) -> bool:
        """Whether any lease of the service held then."""
        granted = self.granted[service]  # in the order of their beginnings, each at most a few seconds long
        last = bisect.bisect_right(granted, (at_ms, 1 << 62))
        return any(begin <= at_ms < end for begin, end in granted[max(0, last - 200) : last])


@dataclass
class Outcome:
    """What came of it."""

    windows: Windows
    running: Load
    records: list[Record]
    renewals: list[Applied]
    expiries: int

    def late(self) -> list[Record]:
        """Requests that the candidate answered, and copies that it got, of requests from outside each lease."""
        began = {r.request_id: r.at for r in self.records if r.kind == "live"}
        asked = [(r, began.get(r.request_id)) for r in self.records if r.arm == 2 or r.version == 2]
        return [r for r, at in asked if at is not None and not self.windows.held(r.service, stamp(at))]


def stamp(at: float) -> int:
    """The milliseconds that Envoy compared with the window: cut off, not rounded."""
    return round(at * 1e6) // 1000


def fleet() -> dict[str, tuple[Upstream, Upstream]]:
    """Two versions of each service, ready."""
    made = {name: (Upstream(1).prepare(), Upstream(2).prepare()) for name in SERVICES}
    for pair in made.values():
        for upstream in pair:
            upstream.start()
    return made


def state_of(running: dict[str, tuple[Upstream, Upstream]], leases: dict[str, Lease], *more: Token) -> GatewayState:
    """Three services with leases of their own; ``more`` tokens open the first."""
    return GatewayState(tuple(_service(name, pair, leases.get(name), more) for name, pair in running.items()))


def _service(name: str, pair: tuple[Upstream, Upstream], lease: Lease | None, more: tuple[Token, ...]) -> ServiceRoute:
    backends = tuple(Backend(u.version, (Endpoint(f"{name}-v{u.version}", "127.0.0.1", u.port),)) for u in pair)
    tokens = (Token("load", f"token-of-{name}"), *(more if name == SERVICES[0] else ()))
    return ServiceRoute(name, tokens, backends, 1, lease, traffic=Traffic(usage="engine"))


def many_leases(
    proxy: Proxy, running: dict[str, tuple[Upstream, Upstream]], expiries: int, renewals: int, plan: Plan
) -> Outcome:
    """``expiries`` times: renew all services' leases so often, then let one service's end while others go on."""
    gateway, windows = proxy.gateway, Windows()
    gateway.apply(state_of(running, {}))
    applied, leases = [], dict[str, Lease]()
    with load(plan) as at_work:
        for turn in range(expiries):
            victim = SERVICES[turn % len(SERVICES)]
            for _ in range(renewals):
                leases = _renewed(windows, SERVICES)
                applied.append(gateway.apply(state_of(running, leases)))
            end = leases[victim].until_ms
            while time.time() * 1000 < end + 150:
                leases |= _renewed(windows, set(SERVICES) - {victim})
                applied.append(gateway.apply(state_of(running, leases)))
                time.sleep(0.05)
    return Outcome(windows, at_work, _all_records(proxy, at_work.seen().requests), applied, expiries)


def _renewed(windows: Windows, services: Iterable[str]) -> dict[str, Lease]:
    """Each service's lease ends at a time of its own."""
    return {name: windows.grant(name, 0.6 + 0.1 * SERVICES.index(name)) for name in services}


def _all_records(proxy: Proxy, count: int) -> list[Record]:
    """All records, once they hold those of ``count`` requests."""
    found: list[Record] = []
    cursor, deadline = Cursor(), time.monotonic() + 30
    while sum(r.kind == "live" for r in found) < count and time.monotonic() < deadline:
        records, cursor = proxy.gateway.records(cursor)
        found += records
    return found
