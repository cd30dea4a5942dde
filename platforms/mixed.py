"""Processes and containers side by side: an instance whose spec names a container goes to Docker, others do not."""

from __future__ import annotations

import logging

from platforms.on_docker import DockerPlatform
from platforms.port import InstanceSpec, Platform, ProcessState, Running
from rollout.errors import Unavailable

log = logging.getLogger("roundhouse.docker")


class MixedPlatform:
    """The verbs of ``platforms.port.Platform``. Docker is asked only when an instance of it is known."""

    def __init__(self, processes: Platform, containers: DockerPlatform) -> None:
        self._processes, self._containers = processes, containers
        self._last: dict[str, Running] = {}

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
        """Both kinds. While Docker does not answer, containers are as they were last seen: that it is silent says
        nothing of them, and whether they serve is asked of themselves. Raises Unavailable of the process manager."""
        processes = self._processes.running()
        try:
            self._last = self._containers.running() if self._containers.known() else {}
        except Unavailable as silent:
            log.warning("%s", silent)
            for each in self._containers.known():
                self._last.setdefault(each, Running(each, ProcessState.RUNNING, None, None))
        return {**processes, **self._last}

    def log_path(self, instance_id: str) -> str:
        """Where its output is kept."""
        return self._home(instance_id).log_path(instance_id)

    def _home(self, instance_id: str) -> Platform:
        return self._containers if instance_id in self._containers.known() else self._processes
