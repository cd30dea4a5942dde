"""Thousands of changes of all kinds, drawn one after the other, applied while clients keep calling."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from load_client import Load, Plan, load
from running_envoy import ALICE, Proxy, Upstream, a_lease

from gateway.port import Applied, Backend, Endpoint, GatewayState, GroupRoute, Member, ServiceRoute, Token, Traffic
from rollout.nouns import Mirror, Split

OPS = Token("ops", "token-of-ops")
BOB = Token("bob", "token-of-bob")
DOORS = (("chat", ALICE.secret), ("prod", OPS.secret))


@dataclass
class Fleet:
    """Real servers: two instances of each version of ``chat``, one of ``embed``."""

    chat: dict[int, tuple[Upstream, ...]]
    embed: Upstream

    @classmethod
    def start(cls) -> Fleet:
        """All of them, ready."""
        fleet = cls({v: (Upstream(v).prepare(), Upstream(v).prepare()) for v in (1, 2)}, Upstream(7).prepare())
        for upstream in fleet.all():
            upstream.start()
        return fleet

    def all(self) -> tuple[Upstream, ...]:
        return (*self.chat[1], *self.chat[2], self.embed)

    def stop(self) -> None:
        """Leave no process."""
        for upstream in self.all():
            upstream.stop()


@dataclass
class Walk:
    """A state that changes in one respect at a time, as drawn; never one that could not serve."""

    fleet: Fleet
    draw: random.Random
    there: dict[int, list[str]] = field(default_factory=lambda: {1: ["in", "in"], 2: ["in", "in"]})
    stable: int = 1
    shares: tuple[int, int, int] | None = None  # canary, mirror, mirror to embed
    clients: list[Token] = field(default_factory=list)
    weights: tuple[int, int] = (3, 1)

    def states(self) -> Iterator[GatewayState]:
        """One after the other, without end."""
        steps = [self._instance, self._lease, self._lease, self._tokens, self._weights]
        while True:
            self.draw.choice(steps)()
            if self.draw.random() < 0.01:
                self.stable = 3 - self.stable  # a change of structure: the binary itself validates it
            yield self.state()

    def state(self) -> GatewayState:
        """As it is now."""
        chat = ServiceRoute("chat", (ALICE, *self.clients), (self._backend(1), self._backend(2)), self.stable)
        embed = ServiceRoute("embed", (BOB,), (Backend(1, (_endpoint("embed", 1, 0, self.fleet.embed),)),), 1)
        members = (Member("chat", self.weights[0]), Member("embed", self.weights[1]))
        chat = replace(chat, lease=self._lease_now(), traffic=Traffic(usage="engine"))
        return GatewayState((chat, embed), (GroupRoute("prod", (OPS,), members),))

    def split(self) -> Split:
        """What ``state`` asks for ``chat``, but for the lease's times."""
        return Split("chat", self.stable, self._lease_now())

    def _lease_now(self):
        if self.shares is None:
            return None
        canary, mirror, other = self.shares
        lease = a_lease(canary=canary, mirror=mirror, candidate=3 - self.stable)
        return replace(lease, mirrors=(Mirror("embed", None, other),) if other else ())

    def _backend(self, version: int) -> Backend:
        pairs = enumerate(zip(self.fleet.chat[version], self.there[version], strict=True))
        endpoints = [replace(_endpoint("chat", version, i, u), draining=how == "out") for i, (u, how) in pairs if how]
        return Backend(version, tuple(endpoints))

    def _instance(self) -> None:
        """One instance drains, goes, or comes back; the other one of its version serves meanwhile."""
        version, one = self.draw.choice((1, 2)), self.draw.choice((0, 1))
        self.there[version] = ["in", "in"]
        self.there[version][one] = self.draw.choice(("in", "out", ""))

    def _lease(self) -> None:
        drawn = self.draw.choice((0, 1, 50, 500, 1000)), self.draw.choice((0, 100)), self.draw.choice((0, 50))
        self.shares = drawn if self.draw.random() < 0.8 else None

    def _tokens(self) -> None:
        count = self.draw.randrange(4)
        self.clients = [Token(f"client-{i}", f"token-{self.draw.getrandbits(64):x}") for i in range(count)]

    def _weights(self) -> None:
        self.weights = (self.draw.randint(1, 1000), self.draw.randint(0, 1000))


@dataclass
class Outcome:
    """What came of it."""

    applied: list[Applied]
    running: Load
    seconds: float

    def quantile(self, q: float) -> float:
        """Of the seconds that changes of numbers alone took."""
        took = sorted(change.seconds for change in self.applied if not change.structural)
        return took[int(q * (len(took) - 1))]


def many_changes(proxy: Proxy, walk: Walk, changes: int, plan: Plan) -> Outcome:
    """Apply so many changes under load, and now and then compare what Envoy has in force with what was asked."""
    gateway, applied = proxy.gateway, []
    gateway.apply(walk.state())
    with load(plan) as running:
        begun = time.monotonic()
        for step, state in zip(range(changes), walk.states(), strict=False):
            applied.append(gateway.apply(state))
            if step % 50 == 0:
                (chat, _) = state.services
                assert gateway.read()["chat"] == Split("chat", chat.stable, chat.lease)
        seconds = time.monotonic() - begun
    return Outcome(applied, running, seconds)


def _endpoint(service: str, version: int, ordinal: int, upstream: Upstream) -> Endpoint:
    return Endpoint(f"{service}-v{version}-{ordinal}", "127.0.0.1", upstream.port)
