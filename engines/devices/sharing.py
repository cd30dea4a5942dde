"""What a GPU has room for beside what our instances take of it: one rule for plans of releases and for places. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from engines.hardware import Gpu
from engines.port import Needs, Placement


def least_bytes(fixed: int, request: int, slots: int, share: float) -> int:
    """Free bytes of a device with which an instance can hold so many requests: its cache may take ``share`` of what
    the ``fixed`` ones leave."""
    return fixed + ceil(request * slots / share)


def taken_bytes(fixed: int, request: int, slots: int, share: float, greedy: bool, room: int) -> int:
    """What it then holds of a device with so much ``room``: a greedy one takes its share even if less would do."""
    wanted = request * slots
    return fixed + (max(wanted, int(share * (room - fixed))) if greedy else wanted)


def able(gpus: Iterable[Gpu], needs: Needs) -> tuple[Gpu, ...]:
    """Those that can run it at all: of its architecture, and whole where there are several ranks, since these cannot
    talk to one another between MIG instances (NVIDIA's MIG user guide). What a driver does not tell excludes nothing.
    """

    def suits(gpu: Gpu) -> bool:
        told = gpu.sm > 0
        right = not told or (gpu.sm >= needs.least_sm and needs.sm in (0, gpu.sm))
        return right and not (gpu.mig and needs.devices > 1)

    return tuple(gpu for gpu in gpus if suits(gpu))


def room_on(gpu: Gpu, held: Iterable[int], given_back: int = 0) -> int:
    """Bytes that one more instance can count on: what is free, and no more than the ``held`` of our other instances
    leave of the whole, since one that still loads has not taken all of it. ``given_back``: of instances that end."""
    return max(0, min(gpu.free_bytes + given_back, gpu.memory_bytes - sum(held)))


def held_by(placement: Placement, gpus: Mapping[str, Gpu]) -> dict[str, int]:
    """What an instance takes of each of its GPUs, as it was noted when it was placed; where it was not, all of it."""
    noted = placement.gpu_bytes or [gpus[uuid].memory_bytes if uuid in gpus else 0 for uuid in placement.gpus]
    return dict(zip(placement.gpus, noted, strict=True))


def loads(gpu: Gpu, held: Sequence[int]) -> bool:
    """Whether our instances on it have clearly not taken yet what they will."""
    return 2 * (gpu.memory_bytes - gpu.free_bytes) < sum(held)
