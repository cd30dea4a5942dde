"""A platform in this process, for tests: the same rules, no processes. ``die`` and ``hang`` stage accidents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from platforms.port import InstanceSpec, ProcessState, Running
from platforms.supervisor_conf import SAFE_NAME
from rollout.errors import Conflict, Refused
from rollout.limits import RESERVED_PORTS


class MemoryPlatform:
    """The verbs of ``platforms.port.Platform`` on a dictionary. ``clock`` gives epoch seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[str, Running] = {}
        self._specs: dict[str, InstanceSpec] = {}
        self._stop_at: dict[str, float] = {}
        self._hung: set[str] = set()
        self._next_pid = 1000

    def start(self, spec: InstanceSpec) -> None:
        """Have it run. Raises Conflict, Refused as the real one does."""
        if not SAFE_NAME.fullmatch(spec.id):
            raise Refused("id", spec.id, "letters, digits and . _ - only", "rename it, for example chat-v1-0")
        known = self.running().get(spec.id)
        if known and known.state is ProcessState.RUNNING:
            return
        if known and known.state is ProcessState.STOPPING:
            raise Conflict(f"{spec.id} (pid {known.pid}) is still stopping; start it again when it has exited")
        self._require_free(spec)
        self._next_pid += 1
        self._specs[spec.id] = spec
        self._seen[spec.id] = Running(spec.id, ProcessState.RUNNING, self._next_pid, self._clock())

    def stop(self, instance_id: str) -> None:
        """It exits at once, or after its ``stop_s`` when it hangs."""
        known = self._seen.get(instance_id)
        if known is None or known.state is not ProcessState.RUNNING:
            return
        if instance_id not in self._hung:
            return self._end(instance_id, 0)
        self._stop_at[instance_id] = self._clock() + self._specs[instance_id].stop_s
        self._seen[instance_id] = replace(known, state=ProcessState.STOPPING)

    def kill(self, instance_id: str) -> None:
        """It exits now, hanging or not."""
        if instance_id in self._seen and self._seen[instance_id].pid:
            self._end(instance_id, -1)

    def remove(self, instance_id: str) -> None:
        """Forget it. Raises Conflict while it runs."""
        known = self.running().get(instance_id)
        if known and known.pid:
            raise Conflict(f"{instance_id} still runs (pid {known.pid}); stop it first")
        self._seen.pop(instance_id, None)

    def running(self) -> dict[str, Running]:
        """All that were started and not removed."""
        for each, at in list(self._stop_at.items()):
            if self._clock() >= at:
                self._end(each, -1)
        return dict(self._seen)

    def log_path(self, instance_id: str) -> str:
        """Nothing is written there."""
        return f"/dev/null/{instance_id}.log"

    def die(self, instance_id: str, exit_status: int = 1) -> None:
        """As if its process had crashed."""
        self._end(instance_id, exit_status)

    def hang(self, instance_id: str) -> None:
        """As if it no longer heeded SIGTERM."""
        self._hung.add(instance_id)

    def _end(self, instance_id: str, exit_status: int) -> None:
        self._hung.discard(instance_id)
        self._stop_at.pop(instance_id, None)
        known = self._seen[instance_id]
        self._seen[instance_id] = replace(known, state=ProcessState.EXITED, pid=None, exit_status=exit_status)

    def _require_free(self, spec: InstanceSpec) -> None:
        if spec.port in RESERVED_PORTS:
            raise Refused("port", spec.port, "8080 and 9090 are reserved", "choose another port, for example 18100")
        for each, known in self._seen.items():
            if known.pid and self._specs[each].port == spec.port:
                raise Conflict(f"port: port {spec.port} is held by pid {known.pid} ({each})")
