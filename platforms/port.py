"""The platforms' interface: a place where instances run. Four verbs; no vendor is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from rollout.command import Container


class ProcessState(StrEnum):
    """What the platform sees of an instance's process; whether it can serve is asked of the process itself."""

    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"


@dataclass(frozen=True)
class InstanceSpec:
    """One instance to run: its command, where it will listen, where its log goes."""

    id: str
    argv: tuple[str, ...]
    port: int
    host: str = "127.0.0.1"
    env: dict[str, str] = field(default_factory=dict)
    stop_s: float = 35.0
    container: Container | None = None  # None: a process of this machine
    cores: tuple[int, ...] = ()  # the processors that it may run on; empty: all


@dataclass(frozen=True)
class Running:
    """What the platform knows of an instance."""

    id: str
    state: ProcessState
    pid: int | None
    started_at: float | None  # epoch seconds
    exit_status: int | None = None
    reason: str = ""  # why it ended or could not start, where the platform was told


class Platform(Protocol):
    """The verbs, all safe to repeat. Implementations: ``on_process``, ``on_docker``, ``mixed``, ``memory``."""

    def start(self, spec: InstanceSpec) -> None:
        """Have it run (again, if it exited). Returns at once. Raises Conflict when the port is taken, Unavailable."""

    def stop(self, instance_id: str) -> None:
        """SIGTERM, and SIGKILL after the spec's ``stop_s``. Returns at once."""

    def kill(self, instance_id: str) -> None:
        """SIGKILL now, for an instance that hangs."""

    def remove(self, instance_id: str) -> None:
        """Forget an instance that has exited; its log stays."""

    def running(self) -> dict[str, Running]:
        """All instances that were started and not removed, by id. Raises Unavailable."""

    def log_path(self, instance_id: str) -> str:
        """Where its output is kept."""


@dataclass(frozen=True)
class SupervisorSettings:
    """Instances as programs of the stack's own supervisord, so that they outlive flows and the agent."""

    socket: str  # supervisord's unix socket
    include_directory: str  # one file per instance
    log_directory: str
    kind: Literal["supervisor"] = "supervisor"


@dataclass(frozen=True)
class DockerSettings:
    """Instances as containers. ``url`` of the engine; empty: DOCKER_HOST, else its usual socket."""

    include_directory: str  # one file per instance
    log_directory: str
    url: str = ""
    kind: Literal["docker"] = "docker"


@dataclass(frozen=True)
class MixedSettings:
    """Processes by the process manager, and containers for instances that name one."""

    processes: SupervisorSettings
    containers: DockerSettings
    kind: Literal["mixed"] = "mixed"


@dataclass(frozen=True)
class MemorySettings:
    """Instances that exist only as values, for tests."""

    kind: Literal["memory"] = "memory"


PlatformSettings = SupervisorSettings | DockerSettings | MixedSettings | MemorySettings


def open_platform(settings: PlatformSettings) -> Platform:
    """The implementation that ``settings`` asks for, by its type; an unknown one fails loudly."""
    match settings:
        case SupervisorSettings():
            from platforms.on_process import SupervisorPlatform

            return SupervisorPlatform(settings)
        case DockerSettings():
            from platforms.on_docker import DockerPlatform

            return DockerPlatform(settings)
        case MixedSettings():
            from platforms.mixed import MixedPlatform
            from platforms.on_docker import DockerPlatform

            return MixedPlatform(open_platform(settings.processes), DockerPlatform(settings.containers))
        case MemorySettings():
            from platforms.memory import MemoryPlatform

            return MemoryPlatform()
    raise TypeError(f"no platform for settings of type {type(settings).__name__}")
