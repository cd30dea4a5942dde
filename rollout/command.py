"""What is run, and where: a process, alone on a machine or in a container. Engines say it, platforms do it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.errors import NotFound

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

    A value such as ``$HF_TOKEN`` stands for a variable of the environment in which it is started: see ``revealed``.

    ``cores`` are the processors that it may run on; empty: all.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    container: Container | None = None
    cores: tuple[int, ...] = ()


_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def is_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return _SECRET.search(name) is not None


def referred(value: str) -> str:
    """The variable that a value such as ``$HF_TOKEN`` refers to; empty where it is a value."""
    found = _REFERENCE.fullmatch(value)
    return found.group(1) if found else ""


def revealed(env: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The environment with references looked up in ``known``, at the last moment, so that no record holds a secret.

    Raises NotFound where one is not there.
    """
    missing = sorted(name for value in env.values() if (name := referred(value)) and name not in known)
    if missing:
        raise NotFound(f"the environment has no {', '.join(missing)}; export it where this runs, and start again")
    return {name: known[referred(value)] if referred(value) else value for name, value in env.items()}
