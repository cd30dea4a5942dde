"""The machine's GPUs, asked of the NVIDIA driver through NVML (``nvidia-ml-py``, the bindings of ``nvml.h``).

What a driver, a virtualised GPU or a MIG instance does not tell is None here and never an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pynvml

from engines.devices.visible import visible
from engines.hardware import Gpu
from rollout.errors import Unavailable

NODES = 16  # 64-bit words of a set of NUMA nodes: 1,024 nodes, the most that Linux is built for
_WHY = {  # nvmlReturn_t -> what is wrong, for a person
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver on this machine (libnvidia-ml.so.1 is not found)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver in the kernel and its library differ in version; "
    "restart the machine after an update of the driver",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver",
}


@dataclass(frozen=True)
class Handle:
    """One GPU or MIG instance as NVML knows it; ``parent`` is the whole GPU that a MIG instance is part of."""

    index: int
    uuid: str
    device: Any
    parent: Any = None

    @property
    def whole(self) -> Any:
        """The whole GPU: a MIG instance has its architecture, links and place on the board."""
        return self.parent if self.parent is not None else self.device


@contextmanager
def opened(library: Any = pynvml) -> Iterator[None]:
    """NVML ready to be asked. Raises Unavailable with a sentence that says why it is not."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise Unavailable(_WHY.get(error.value, f"the NVIDIA driver does not answer: {error}")) from error
    try:
        yield
    finally:
        ask(library, "nvmlShutdown")


def ask(library: Any, name: str, *arguments: Any) -> Any:
    """The answer of one NVML function, None where it has none: not supported, not known to this driver, not allowed."""
    try:
        return getattr(library, name)(*arguments)
    except library.NVMLError:
        return None


def handles(library: Any = pynvml) -> tuple[Handle, ...]:
    """Each GPU, and in place of one in MIG mode its instances. NVML must be open."""
    found: list[Handle] = []
    for index in range(ask(library, "nvmlDeviceGetCount") or 0):
        device = ask(library, "nvmlDeviceGetHandleByIndex", index)
        if device is None:  # fallen off the bus, or not this user's to see
            continue
        if (ask(library, "nvmlDeviceGetMigMode", device) or (0, 0))[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            parts = _mig_devices(library, device)
            found += [Handle(index, uuid, part, device) for part, uuid in parts]
        elif uuid := ask(library, "nvmlDeviceGetUUID", device):
            found.append(Handle(index, uuid, device))
    return tuple(found)


def _mig_devices(library: Any, device: Any) -> list[tuple[Any, str]]:
    count = ask(library, "nvmlDeviceGetMaxMigDeviceCount", device) or 0
    asked = (ask(library, "nvmlDeviceGetMigDeviceHandleByIndex", device, slot) for slot in range(count))
    named = ((part, ask(library, "nvmlDeviceGetUUID", part)) for part in asked if part is not None)
    return [(part, uuid) for part, uuid in named if uuid]


def read_gpus(library: Any = pynvml, environment: Mapping[str, str] = os.environ) -> tuple[tuple[Gpu, ...], str, str]:
    """(the GPUs that a process of this environment may use, the driver's version, why there are none).

    CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES are respected. Raises nothing: no driver is an answer.
    """
    try:
        with opened(library):
            driver = ask(library, "nvmlSystemGetDriverVersion") or ""
            present = handles(library)
            gpus = tuple(_gpu(library, handle) for handle in present)
            linked = _links(library, present)
    except Unavailable as error:
        return (), "", f"no GPU: {error}"
    seen, why = visible(tuple(replace(gpu, nvlink=linked[gpu.uuid]) for gpu in gpus), environment)
    if not gpus:
        why = f"no GPU: the NVIDIA driver {driver} sees none"
    return seen, driver, why


def _gpu(library: Any, handle: Handle) -> Gpu:
    memory = ask(library, "nvmlDeviceGetMemoryInfo", handle.device)
    name = ask(library, "nvmlDeviceGetName", handle.device) or ask(library, "nvmlDeviceGetName", handle.whole)
    return Gpu(
        index=handle.index,
        uuid=handle.uuid,
        name=name or "NVIDIA GPU",
        memory_bytes=memory.total if memory else 0,
        free_bytes=memory.free if memory else 0,
        compute_capability=ask(library, "nvmlDeviceGetCudaComputeCapability", handle.whole) or (0, 0),
        mig=handle.parent is not None,
        processes=_processes(library, handle.device),
        numa=_numa(library, handle.whole),
    )


def _processes(library: Any, device: Any) -> tuple[tuple[int, int], ...]:
    """(pid, bytes); 0 bytes where the driver does not tell. Drivers before R510 know the second version only."""
    found = ask(library, "nvmlDeviceGetComputeRunningProcesses_v3", device)
    if found is None:
        found = ask(library, "nvmlDeviceGetComputeRunningProcesses_v2", device)
    return tuple(sorted((each.pid, each.usedGpuMemory or 0) for each in found or ()))


def _numa(library: Any, device: Any) -> int | None:
    """The NUMA node of the host that is nearest: the lowest of the set that NVML gives."""
    words = ask(library, "nvmlDeviceGetMemoryAffinity", device, NODES, pynvml.NVML_AFFINITY_SCOPE_NODE)
    bits = sum(word << (64 * place) for place, word in enumerate(words or ()))
    return (bits & -bits).bit_length() - 1 if bits else None


def _links(library: Any, present: tuple[Handle, ...]) -> dict[str, tuple[str, ...]]:
    """Each GPU's peers over NVLink, directly or through NVSwitch: where peers' memory can be reached by NVLink.

    MIG instances have none: a link needs the whole GPU.
    """
    peers: dict[str, list[str]] = {handle.uuid: [] for handle in present}
    for one, other in combinations([handle for handle in present if handle.parent is None], 2):
        index = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        if ask(library, "nvmlDeviceGetP2PStatus", one.device, other.device, index) == pynvml.NVML_P2P_STATUS_OK:
            peers[one.uuid].append(other.uuid)
            peers[other.uuid].append(one.uuid)
    return {uuid: tuple(found) for uuid, found in peers.items()}
