"""What this machine gives to a process: cores, memory, disk, GPUs. Bounds of a container (cgroup v2) count."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    numa: int | None = None  # the host's NUMA node that is nearest; None: not told

    @property
    def sm(self) -> int:
        """The architecture as one number: 90 for compute capability 9.0."""
        return self.compute_capability[0] * 10 + self.compute_capability[1]


@dataclass(frozen=True)
class Hardware:
    """Cores and bytes. ``gpu_note`` says why there are no GPUs, where there are none.

    ``nodes`` are the processors that may be used, by NUMA node; of each node one of every physical core comes first,
    so that who takes the first few shares no core. ``memory_available`` is what new processes can have of the memory
    now, by Linux's own estimate; 0: not known.
    """

    cores: int
    memory_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    gpu_note: str = ""
    nodes: tuple[tuple[int, ...], ...] = ()
    memory_available: int = 0


def cgroup_cores(cpu_max: str) -> float | None:
    """Cores that a cgroup's ``cpu.max`` grants ("max 100000" or "150000 100000"), None for no bound."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota in ("max", "") or not period else int(quota) / int(period)


def read_hardware(
    directory: str,
    cgroup: Path = Path("/sys/fs/cgroup"),
    nvml: Any = None,
    system: Path = Path("/sys/devices/system"),
) -> Hardware:
    """Look at this machine. ``directory`` need not exist yet; the disk of its nearest existing parent is asked.

    ``nvml`` is the module that asks NVIDIA's driver; None: ``pynvml``.
    """
    import psutil
    import pynvml  # here: the bindings take longer to load than all else on this page

    from engines.devices.nvml import read_gpus

    gpus, driver, note = read_gpus(nvml or pynvml)
    granted = cgroup_cores(_text(cgroup / "cpu.max"))
    usable = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bound = _text(cgroup / "memory.max").strip()
    existing = next(p for p in (Path(directory).absolute(), *Path(directory).absolute().parents) if p.exists())
    return Hardware(
        cores=usable if granted is None else max(1, min(usable, round(granted))),
        memory_bytes=min(memory, int(bound)) if bound.isdigit() else memory,
        disk_free_bytes=shutil.disk_usage(existing).free,
        gpus=gpus,
        driver=driver,
        gpu_note=note,
        nodes=_nodes(os.sched_getaffinity(0), system),
        memory_available=psutil.virtual_memory().available,
    )


def cpu_list(text: str) -> tuple[int, ...]:
    """Linux's list of processors.

    >>> cpu_list("0-2,5")
    (0, 1, 2, 5)
    """
    parts = [part.partition("-") for part in text.strip().split(",") if part]
    return tuple(core for first, _, last in parts for core in range(int(first), int(last or first) + 1))


def _nodes(usable: Iterable[int], system: Path) -> tuple[tuple[int, ...], ...]:
    """The usable processors by NUMA node, second threads of a core last; one node where Linux tells of none."""
    cores = sorted(usable)

    def thread(core: int) -> int:
        siblings = cpu_list(_text(system / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list"))
        return siblings.index(core) if core in siblings else 0

    ordered = sorted(cores, key=lambda core: (thread(core), core))
    folders = sorted((system / "node").glob("node[0-9]*"), key=lambda folder: int(folder.name[4:]))
    nodes = [set(cpu_list(_text(folder / "cpulist"))) for folder in folders]
    by_node = tuple(tuple(core for core in ordered if core in node) for node in nodes)
    told = tuple(node for node in by_node if node)
    return told if sum(map(len, told)) == len(cores) else (tuple(ordered),)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
