"""What is run, and where: a process, alone on a machine or in a container. Engines say it, platforms do it."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1024**3


@dataclass(frozen=True)
class Mount:
    """A directory of the host inside a container."""

    host: str
    inside: str
    read_only: bool = True


@dataclass(frozen=True)
class Container:
    """The container that a command runs in. ``gpus`` are NVML UUIDs; empty: none are asked for."""

    image: str
    gpus: tuple[str, ...] = ()
    shm_bytes: int = 0  # size of /dev/shm; 0: the runtime's own
    mounts: tuple[Mount, ...] = ()
    ulimits: dict[str, int] = field(default_factory=dict)  # soft and hard; -1: no limit
    ipc: str = ""  # "host" shares the host's; empty: its own
    entrypoint: str = ""  # replaces the image's own, which else gets the whole argument list


@dataclass(frozen=True)
class Command:
    """One process: argument list, the environment added to the parent's, and the container around it if there is one.

    ``cores`` are the processors that it may run on; empty: all.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    container: Container | None = None
    cores: tuple[int, ...] = ()
