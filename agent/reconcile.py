"""Makes desired state so, again and again: instances on the platform, traffic in the gateway, leases in Envoy.

Each tick reads reality first, decides with the pure functions beside this page, acts, and writes down what it saw.
Doing a tick twice is harmless; an agent that was killed goes on where the store and the platform stand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from agent.lifecycle import Bounds, Do, Seen, next_state
from agent.probes import Probes
from agent.routes import gateway_state
from engines.port import RESERVED_PORTS, EngineKind, EngineSettings, EngineSpec, Faults, open_engine
from gateway.port import Gateway, GatewayState, ServiceRoute
from gateway.tokens import TokenFile
from platforms.port import InstanceSpec, Platform, Running
from platforms.ports import is_free
from rollout.errors import RoundhouseError, Unavailable
from rollout.nouns import Engine, Health, Lease, Phase
from store.port import Event, InstanceState, Observed, Store, VersionState

log = logging.getLogger("roundhouse.agent")
LOST_AFTER_S = 15.0  # after a lease's end, a release that has not renewed it counts as lost


@dataclass(frozen=True)
class Parts:
    """What the loop works on; tests hand in the in-memory ones."""

    store: Store
    platform: Platform
    gateway: Gateway
    engines: EngineSettings
    tokens: TokenFile
    probes: Probes
    ports: range
    host: str = "127.0.0.1"
    clock: Callable[[], float] = time.time
    port_free: Callable[[int, str], bool] = is_free


class Reconciler:
    """One loop over all services of this machine."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._applied: GatewayState | None = None
        self._refused: tuple[GatewayState, float] | None = None
        self._inherited = True  # what stands in the store was written before this agent began

    def tick(self) -> None:
        """One look and what follows from it. Raises nothing that a later tick could mend; it is logged."""
        steps = (self._end_inherited_leases, self._retire_versions, self._move_instances)
        for step in (*steps, self._end_lost_leases, self._move_traffic):
            try:
                step()
            except RoundhouseError as error:
                log.warning("%s: %s", step.__name__.strip("_"), error)

    # --- instances

    def _retire_versions(self) -> None:
        now = self._p.clock()
        for version in self._p.store.versions():
            if version.instances and version.retire_at is not None and version.retire_at <= now:
                self._p.store.scale(version.service, version.number, 0)
                self._note(version.service, "retired", f"version {version.number} retired")

    def _move_instances(self) -> None:
        running = self._p.platform.running()
        versions = {(v.service, v.number): v for v in self._p.store.versions()}
        known = self._p.store.instances()
        for fresh in self._missing(versions, known):
            self._p.store.put_instance(fresh)
            known.append(fresh)
        for instance in known:
            version = versions.get((instance.service, instance.version))
            try:
                self._move(instance, version, running.get(instance.id))
            except Exception as error:  # one that cannot be moved must not hold up the others
                log.warning("%s: %s", instance.id, error, exc_info=not isinstance(error, RoundhouseError))
                later = replace(instance, health=Health.BACKOFF, reason=str(error), retry_at=self._p.clock() + 5.0)
                if instance.health is Health.STARTING:
                    self._p.store.put_instance(later)

    def _missing(
        self, versions: dict[tuple[str, int], VersionState], known: list[InstanceState]
    ) -> Iterator[InstanceState]:
        taken = {i.port for i in known}
        ids = {i.id for i in known}
        first = {s.name: s.port for s in self._p.store.services()}
        for version in versions.values():
            for ordinal in range(version.instances):
                name = f"{version.service}-v{version.number}-{ordinal}"
                if name in ids:
                    continue
                port = self._free_port(taken, first.get(version.service))
                taken.add(port)
                yield InstanceState(
                    name, version.service, version.number, ordinal, self._p.host, port, since=self._p.clock()
                )

    def _free_port(self, taken: set[int], first: int | None) -> int:
        for port in [*(range(first, first + len(self._p.ports)) if first else ()), *self._p.ports]:
            if port not in taken and port not in RESERVED_PORTS and self._p.port_free(port, self._p.host):
                return port
        raise Unavailable(
            f"no port is free between {self._p.ports[0]} and {self._p.ports[-1]}; widen the range in configs/stack.yaml"
        )

    def _move(self, instance: InstanceState, version: VersionState | None, process: Running | None) -> None:
        wanted = version is not None and instance.ordinal < version.instances
        spec = spec_of(version.spec) if version else EngineSpec()
        kind = open_engine(spec.kind, self._p.engines)
        ready = kind.readiness(spec)
        seen = self._look(instance, process, ready.path)
        state, action = next_state(self._p.clock(), instance, seen, wanted, Bounds(ready.load_s, spec.drain_s))
        if action is Do.REMOVE:
            self._remove(instance)
            return
        if state != instance:
            self._p.store.put_instance(state)
        if state.health is not instance.health:
            self._note(
                instance.service,
                "instance",
                f"{instance.id}: {instance.health} -> {state.health} {state.reason}".strip(),
            )
        self._do(action, state, version, kind, spec)

    def _look(self, instance: InstanceState, process: Running | None, path: str) -> Seen:
        if instance.health is Health.BACKOFF:
            return Seen(process)
        answers, silent = self._p.probes.health(_url(instance) + path)
        numbers, error = self._p.probes.warm_up_result(instance.id)
        busy = 0
        if instance.health is Health.DRAINING:
            busy = sum(n for i, n in self._p.gateway.in_flight(instance.service, instance.version) if i == instance.id)
        return Seen(process, answers, silent, numbers, error, busy)

    def _do(
        self, action: Do, state: InstanceState, version: VersionState | None, kind: EngineKind, spec: EngineSpec
    ) -> None:
        match action:
            case Do.START if version is not None:
                self._p.probes.forget(_url(state) + kind.readiness(spec).path, state.id)
                command = kind.serve_command(Engine(**version.engine), spec, state.host, state.port)
                self._p.platform.start(
                    InstanceSpec(state.id, command.argv, state.port, state.host, command.env, command.stop_s)
                )
            case Do.WARM_UP if version is not None:
                self._p.probes.warm_up(state.id, _url(state), version.warm_up_requests)
            case Do.STOP:
                self._p.platform.stop(state.id)
            case Do.KILL:
                self._p.platform.kill(state.id)

    def _remove(self, instance: InstanceState) -> None:
        self._p.platform.remove(instance.id)
        self._p.store.drop_instance(instance.id)
        self._p.probes.forget(_url(instance) + "/health", instance.id)
        self._note(instance.service, "instance", f"{instance.id}: stopped {instance.reason}".strip())

    # --- traffic

    def _end_inherited_leases(self) -> None:
        """An agent that starts in the middle of a canary does not know what it missed: the careful way is back."""
        if self._inherited:
            for service, lease in self._p.store.leases().items():
                self._end_lease(service, lease, "the agent was restarted during the release; all traffic is on stable")
            self._inherited = False

    def _end_lost_leases(self) -> None:
        now = self._p.clock()
        for service, lease in self._p.store.leases().items():
            late = now - lease.until_ms / 1000
            if late >= LOST_AFTER_S:
                told = f"the release stopped renewing its lease {late:.0f} s ago; all traffic is on stable"
                self._end_lease(service, lease, told)

    def _end_lease(self, service: str, lease: Lease, reason: str) -> None:
        self._p.store.finish_release(lease.release, Phase.FAILED, reason, self._p.clock(), {})
        self._p.store.end_lease(service)
        if self._p.store.service(service).stable != lease.candidate:
            self._p.store.scale(service, lease.candidate, 0)
        self._note(service, "lost", reason, lease.release)

    def _move_traffic(self) -> None:
        p, now = self._p, self._p.clock()
        state = gateway_state(
            p.store.services(), p.store.versions(), p.store.instances(), p.store.leases(), p.tokens.of, int(now * 1000)
        )
        if state == self._applied or (self._refused and self._refused[0] == state and now < self._refused[1] + 1.0):
            return
        try:
            applied = p.gateway.apply(state)
        except RoundhouseError as error:
            self._refused = (state, now)
            self._observe(state.services, "", str(error))
            log.error("%s", error)
            return
        self._observe(state.services, applied.revision, "")
        self._applied, self._refused = state, None

    def _observe(self, routes: tuple[ServiceRoute, ...], revision: str, error: str) -> None:
        for route in routes:
            before = self._p.store.observed(route.name)
            if error:
                stable, lease, version = (before.stable, before.lease, before.revision) if before else (None, None, "")
            else:
                stable, lease, version = route.stable, route.lease, revision
            self._p.store.put_observed(Observed(route.name, stable, lease, version, self._p.clock(), error))
            if not error and before and before.stable != stable:
                self._note(route.name, "traffic", f"stable is version {stable}")

    def _note(self, service: str, kind: str, text: str, release: str = "") -> None:
        log.info("%s: %s", service, text)
        self._p.store.note(Event(self._p.clock(), service, kind, text, release))


def spec_of(values: dict[str, Any]) -> EngineSpec:
    """An EngineSpec from its stored mapping."""
    return replace(
        EngineSpec(**{k: v for k, v in values.items() if k != "faults"}), faults=Faults(**values.get("faults", {}))
    )


def _url(instance: InstanceState) -> str:
    return f"http://{instance.host}:{instance.port}"
