"""Processes and containers side by side: an instance whose spec names a container goes to Docker, others do not."""

from __future__ import annotations

from platforms.aside import Aside, Patience, Slow
from platforms.port import InstanceSpec, Platform, Running


class MixedPlatform:
    """The verbs of ``platforms.port.Platform``. Docker is asked only when an instance of it is known, and aside."""

    def __init__(self, processes: Platform, containers: Slow, patience: Patience = Patience()) -> None:
        self._processes, self._containers = processes, Aside(containers, patience)

    def start(self, spec: InstanceSpec) -> None:
        """Have it run where it belongs."""
        (self._containers if spec.container else self._processes).start(spec)

    def stop(self, instance_id: str) -> None:
        """SIGTERM, SIGKILL later."""
        self._home(instance_id).stop(instance_id)

    def kill(self, instance_id: str) -> None:
        """SIGKILL now."""
        self._home(instance_id).kill(instance_id)

    def remove(self, instance_id: str) -> None:
        """Forget an instance that has exited."""
        self._home(instance_id).remove(instance_id)

    def running(self) -> dict[str, Running]:
        """Both kinds; containers as Docker says, or while it does not answer as they were last seen. Raises Unavailable
        of the process manager."""
        return {**self._processes.running(), **self._containers.running()}

    def log_path(self, instance_id: str) -> str:
        """Where its output is kept."""
        return self._home(instance_id).log_path(instance_id)

    def _home(self, instance_id: str) -> Platform:
        return self._containers if instance_id in self._containers.known() else self._processes
