"""What this machine gives to a process: cores, memory, disk. Bounds of a container (cgroup v2) count."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hardware:
    """Cores and bytes."""

    cores: int
    memory_bytes: int
    disk_free_bytes: int


def cgroup_cores(cpu_max: str) -> float | None:
    """Cores that a cgroup's ``cpu.max`` grants ("max 100000" or "150000 100000"), None for no bound."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota in ("max", "") or not period else int(quota) / int(period)


def read_hardware(directory: str, cgroup: Path = Path("/sys/fs/cgroup")) -> Hardware:
    """Look at this machine. ``directory`` need not exist yet; the disk of its nearest existing parent is asked."""
    granted = cgroup_cores(_text(cgroup / "cpu.max"))
    usable = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bound = _text(cgroup / "memory.max").strip()
    existing = next(p for p in (Path(directory).absolute(), *Path(directory).absolute().parents) if p.exists())
    return Hardware(
        cores=usable if granted is None else max(1, min(usable, round(granted))),
        memory_bytes=min(memory, int(bound)) if bound.isdigit() else memory,
        disk_free_bytes=shutil.disk_usage(existing).free,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
