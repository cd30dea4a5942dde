"""Makes desired state so, again and again: instances on the platform, traffic in the gateway, leases in Envoy.

Each tick reads reality first, decides with the pure functions beside this page, acts, and writes down what it saw.
Doing a tick twice is harmless; an agent that was killed goes on where the store and the platform stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.lending import lent
from agent.lifecycle import Bounds, Do, Seen, next_state, not_started
from agent.parts import Parts
from agent.placing import placed, placement_of, write_files
from agent.probes import WarmUp
from agent.traffic import Traffic
from agent.warm_up import MOST_S, RETURN_S, unsettled
from engines.artifacts import note_use
from engines.port import EngineKind, EngineSpec, Needs, open_engine, spec_of
from platforms.port import InstanceSpec, Running
from rollout.errors import Conflict, RoundhouseError, Unavailable
from rollout.limits import RESERVED_PORTS
from rollout.nouns import Engine, Health, Phase
from store.port import Event, InstanceState, VersionState
from store.steer import STALE_S

log = logging.getLogger("roundhouse.agent")
PATIENCE_S = 5.0  # with a platform that does not answer, before a start that it did not do counts as a death
LOST_AFTER_S = 15.0  # after a lease's end, a release that has not renewed it counts as lost


class Reconciler:
    """One loop over all services of this machine."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._traffic = Traffic(parts, self._note)
        self._inherited = True  # what stands in the store was written before this agent began
        self._unavailable: dict[str, float] = {}  # instance -> since when what should start it does not answer

    def tick(self) -> None:
        """One look and what follows from it. Raises nothing that a later tick could mend; it is logged."""
        steps = (self._end_inherited_leases, self._end_silent_releases, self._retire_versions, self._move_instances)
        for step in (*steps, self._end_lost_leases, self._traffic.steer):
            _guarded(step.__name__.strip("_"), step)

    # --- instances

    def _retire_versions(self) -> None:
        now = self._p.clock()
        for version in self._p.store.versions():
            due = version.instances and version.retire_at is not None and version.retire_at <= now
            if due and self._p.store.retire(version.service, version.number, due_by=now):
                self._note(version.service, "retired", f"version {version.number} retired")

    def _move_instances(self) -> None:
        running = self._p.platform.running()
        known = self._p.store.instances()
        room = lent(self._p.store.versions(), self._p.store.unsettled())
        versions = {(v.service, v.number): v for v in room}
        for instance in [*known, *self._added(versions, known)]:
            version = versions.get((instance.service, instance.version))
            move = partial(self._move, instance, version, running.get(instance.id))
            if isinstance(_guarded(instance.id, move), Conflict) and instance.health is Health.STARTING:
                self._p.store.drop_instance(instance.id)  # a stranger took its port; the next look gives it another

    def _added(self, versions: dict[tuple[str, int], VersionState], known: list[InstanceState]) -> list[InstanceState]:
        """The instances that should be and are not, written down; what cannot have a port now is tried again later."""
        taken, ids = {i.port for i in known}, {i.id for i in known}
        first = {s.name: s.port for s in self._p.store.services()}
        added: list[InstanceState] = []
        for version in versions.values():
            for ordinal in range(version.instances):
                name = f"{version.service}-v{version.number}-{ordinal}"
                if name not in ids:
                    _guarded(name, lambda v=version, o=ordinal, n=name: added.append(self._new(v, o, n, first, taken)))
        return added

    def _new(
        self, version: VersionState, ordinal: int, name: str, first: dict[str, int | None], taken: set[int]
    ) -> InstanceState:
        port = self._free_port(taken, first.get(version.service))
        taken.add(port)
        now = self._p.clock()
        fresh = InstanceState(name, version.service, version.number, ordinal, self._p.host, port, since=now)
        fresh = self._placed(fresh, version)
        self._p.store.put_instance(fresh)
        return fresh

    def _placed(self, instance: InstanceState, version: VersionState) -> InstanceState:
        spec, needs = spec_of(version.spec), Needs(**version.engine.get("needs", {}))
        return placed(self._p.clock(), instance, spec, self._p.hardware(), self._p.store.instances(), needs)

    def _free_port(self, taken: set[int], first: int | None) -> int:
        own = range(first, min(first + len(self._p.ports), 65536)) if first else ()
        for port in [*own, *self._p.ports]:
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
        bounds = Bounds(ready.load_s, kind.drain(spec).wait_s)
        state, action = next_state(self._p.clock(), instance, seen, wanted, bounds)
        if action is Do.START and version is not None:
            state = self._placed(state, version)
            action = Do.START if state.health is Health.STARTING else Do.NOTHING
        if action is Do.REMOVE:
            self._remove(instance)
            return
        if state != instance:
            self._p.store.put_instance(state)
        if state.health is not instance.health:
            self._note(
                instance.service,
                "instance",
                f"{instance.id}: {instance.health} -> {state.health} {state.reason or unsettled(state)}".strip(),
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
                self._try_to_start(state, version, kind, spec)
            case Do.WARM_UP if version is not None:
                engine = Engine(**version.engine)
                most_s = RETURN_S if state.warm_up else MOST_S
                wanted = WarmUp(engine.directory, engine.served_name, version.warm_up_requests, spec.context, most_s)
                self._p.probes.warm_up(state.id, _url(state), wanted)
            case Do.STOP:
                if version is not None:
                    note_use(Path(version.engine["directory"]))  # of engines kept, those used longest ago go first
                self._p.platform.stop(state.id)
            case Do.KILL:
                self._p.platform.kill(state.id)

    def _try_to_start(self, state: InstanceState, version: VersionState, kind: EngineKind, spec: EngineSpec) -> None:
        """What fails counts as a death; what does not answer, only once it has not for a while. Raises Conflict."""
        now = self._p.clock()
        try:
            self._start(state, kind, Engine(**version.engine), spec)
        except Conflict:
            raise
        except Exception as error:
            if not isinstance(error, RoundhouseError | OSError):
                log.exception("%s could not be started", state.id)
            first = self._unavailable.setdefault(state.id, now)
            counts = not isinstance(error, Unavailable) or now - first > PATIENCE_S
            self._p.store.put_instance(not_started(now, state, str(error) or type(error).__name__, counts))
            if counts or first == now:
                self._note(state.service, "instance", f"{state.id}: could not be started: {error}")
        else:
            self._unavailable.pop(state.id, None)

    def _start(self, state: InstanceState, kind: EngineKind, engine: Engine, spec: EngineSpec) -> None:
        command = kind.serve_command(engine, spec, state.host, state.port, placement_of(state.placement))
        write_files(command.files)
        with suppress(OSError, ValueError):  # only the order in which engines are removed depends on it
            note_use(Path(engine.directory))
        self._p.platform.start(
            InstanceSpec(
                id=state.id,
                argv=command.argv,
                port=state.port,
                host=state.host,
                env=command.env,
                stop_s=command.stop_s,
                container=command.container,
                cores=command.cores,
            )
        )

    def _remove(self, instance: InstanceState) -> None:
        self._p.platform.remove(instance.id)
        self._p.store.drop_instance(instance.id)
        self._unavailable.pop(instance.id, None)
        self._p.probes.forget(_url(instance) + "/health", instance.id)
        self._note(instance.service, "instance", f"{instance.id}: stopped {instance.reason}".strip())

    # --- traffic

    def _end_inherited_leases(self) -> None:
        """An agent that starts in the middle of a canary does not know what it missed: the careful way is back."""
        if self._inherited:
            for service, lease in self._p.store.leases().items():
                self._end(
                    service, lease.release, "the agent was restarted during the release; all traffic is on stable"
                )
            self._inherited = False

    def _end_silent_releases(self) -> None:
        """Whose process is gone before it held a lease, or after."""
        now = self._p.clock()
        for release in self._p.store.unsettled():
            if release.phase.active and now - release.beat_at > STALE_S:
                told = f"its process was not heard of for {now - release.beat_at:.0f} s; all traffic is on stable"
                self._end(release.service, release.id, told)

    def _end_lost_leases(self) -> None:
        now = self._p.clock()
        for service, lease in self._p.store.leases().items():
            late = now - lease.until_ms / 1000
            if late >= LOST_AFTER_S:
                told = f"the release stopped renewing its lease {late:.0f} s ago; all traffic is on stable"
                self._end(service, lease.release, told)

    def _end(self, service: str, release: str, reason: str) -> None:
        self._p.store.finish_release(release, Phase.FAILED, reason, self._p.clock(), {})
        self._note(service, "lost", reason, release)

    def _note(self, service: str, kind: str, text: str, release: str = "") -> None:
        log.info("%s: %s", service, text)
        self._p.store.note(Event(self._p.clock(), service, kind, text, release))


def _guarded(what: str, act: Callable[[], object]) -> Exception | None:
    """Do it; a failure is logged and given back, because one that cannot be done must not hold up the others."""
    try:
        act()
    except Exception as error:
        log.warning("%s: %s", what, error, exc_info=not isinstance(error, RoundhouseError))
        return error
    return None


def _url(instance: InstanceState) -> str:
    return f"http://{instance.host}:{instance.port}"
