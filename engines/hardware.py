"""What this machine gives to a process: cores, memory, disk, GPUs. Bounds of a container (cgroup v2) count."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML describes it. ``uuid`` is stable over restarts; a MIG instance is a Gpu of its own."""

    index: int
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]  # (9, 0) is Hopper
    mig: bool = False
    nvlink: tuple[str, ...] = ()  # UUIDs of the GPUs that it is linked to directly
    processes: tuple[tuple[int, int], ...] = ()  # (pid, bytes)

    @property
    def sm(self) -> int:
        """The architecture as one number: 90 for compute capability 9.0."""
        return self.compute_capability[0] * 10 + self.compute_capability[1]


@dataclass(frozen=True)
class Hardware:
    """Cores and bytes. ``gpu_note`` says why there are no GPUs, where there are none."""

    cores: int
    memory_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    gpu_note: str = ""


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
