"""Everything the agent's loop works on, in memory and on a hand-turned clock."""

from __future__ import annotations

from history import begun, deployed, promoted

from agent.parts import Parts
from agent.reconcile import Reconciler
from engines.hardware import Hardware
from engines.port import MemorySettings as MemoryEngines
from gateway.memory import MemoryGateway
from gateway.port import GatewayRefused
from gateway.tokens import TokenFile
from platforms.memory import MemoryPlatform
from rollout.errors import Unavailable
from rollout.nouns import Lease
from store.port import ServiceState, StoreSettings, open_store


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Probes:
    """Says of every instance what the test has set; a warm-up is done at the next look."""

    def __init__(self):
        self.answering, self.warming, self.silent = True, set(), 0.0
        self.numbers = {"requests": 4.0}

    def health(self, url):
        return self.answering, self.silent

    def warm_up(self, instance_id, base_url, wanted):
        self.warming.add(instance_id)

    def warm_up_result(self, instance_id):
        if instance_id not in self.warming:
            return None, ""
        self.warming.discard(instance_id)
        return self.numbers, ""

    def forget(self, url, instance_id):
        pass


class Gateway(MemoryGateway):
    """Also tells what it was given, tokens and all, and refuses what a test says, as the proxy itself would."""

    def __init__(self, clock):
        super().__init__(clock)
        self.given, self.tried, self.silent, self.refuses = [], 0, False, lambda state: []

    def apply(self, state):
        self.tried += 1
        if self.silent:
            raise Unavailable("the proxy does not answer")
        if names := self.refuses(state):
            raise GatewayRefused(f"no body of 666 bytes: {', '.join(names)}")
        applied = super().apply(state)
        self.given.append(state)
        return applied


class House:
    """Everything the loop works on, and one turn of it."""

    def __init__(self, tmp_path, gateway=None):
        self.clock, self.probes = Clock(), Probes()
        self.hardware = Hardware(4, 1 << 34, 1 << 34, nodes=((0, 1, 2, 3),))
        self.store = open_store(StoreSettings("sqlite://"))
        self.platform, self.gateway = MemoryPlatform(self.clock), gateway or Gateway(self.clock)
        self.tokens = tokens = TokenFile(tmp_path / "tokens.json", self.clock)
        tokens.ensure("chat")
        parts = Parts(
            store=self.store,
            platform=self.platform,
            gateway=self.gateway,
            engines=MemoryEngines(),
            tokens=tokens,
            probes=self.probes,
            ports=range(18100, 18110),
            clock=self.clock,
            port_free=lambda port, host: True,
            hardware=lambda: self.hardware,
        )
        self.loop = Reconciler(parts)
        self.store.put_service(ServiceState("chat"))

    def declare(self, instances=1):
        return deployed(self.store, instances=instances, now=self.clock.now)

    def serve(self, instances=1, retire_at=1e12):
        return promoted(self.store, self.declare(instances), now=self.clock.now, retire_at=retire_at)

    def turn(self, times=1, seconds=0.5):
        for _ in range(times):
            self.loop.tick()
            self.clock.now += seconds

    def health(self):
        return {i.id: i.health for i in self.store.instances()}

    def begin(self, candidate):
        self.release = begun(self.store, now=self.clock.now, candidate=candidate)

    def grant(self, candidate, seconds=6.0):
        now_ms = int(self.clock.now * 1000)
        self.store.grant(
            Lease(candidate, 100, 0, now_ms - 5000, now_ms + int(seconds * 1000), self.release.id),
            "chat",
            self.clock.now,
        )
