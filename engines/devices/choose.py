"""Which GPUs and processors an instance gets. Pure: the same question has the same answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb

from engines.devices.sharing import able, held_by, least_bytes, loads, room_on, taken_bytes
from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.command import GIB
from rollout.errors import Unavailable

_MOST_SETS = 5000  # of GPUs that are compared one by one; beyond it neighbours in order only


def place(
    spec: EngineSpec,
    hardware: Hardware,
    taken: Sequence[Placement],
    needs: Needs = Needs(),
    loading: Collection[str] = (),
) -> Placement:
    """What one instance gets beside the ``taken`` ones. Where there are GPUs, vLLM and TensorRT-LLM get tensor x
    pipeline parallel of them; an engine on the CPU gets ``threads`` processors for each rank.

    A GPU is for one instance, unless ``needs`` says how much the engine takes of it and the others leave that
    (``sharing.room_on``, as plans of releases do). One that takes a share of what is free does not join others on a GPU
    of ``loading``: before these have loaded it is not seen what they leave. Processors are shared when there are too
    few free ones, and one that wants more than there are may use all. Raises Unavailable with the numbers.
    """
    wanted = gpus_wanted(spec, hardware)
    if not wanted:
        return Placement(cores=_cores(cores_wanted(spec), hardware, taken))
    share = spec.memory_fraction if needs.greedy else 1.0
    found = _Seen(hardware, taken, replace(needs, devices=wanted), spec.slots, share, loading)
    chosen = _gpus(found)
    return Placement(gpus=tuple(gpu.uuid for gpu in chosen), gpu_bytes=found.takes(chosen))


def gpus_wanted(spec: EngineSpec, hardware: Hardware) -> int:
    """How many GPUs an instance of that spec needs on this machine; 0: it runs on the CPU."""
    if spec.kind == "tensorrt_llm" or (spec.kind == "vllm" and hardware.gpus):
        return spec.tensor_parallel * spec.pipeline_parallel
    return 0


def cores_wanted(spec: EngineSpec) -> int:
    """How many processors an instance keeps busy on the CPU."""
    ranks = spec.tensor_parallel * spec.pipeline_parallel if spec.kind == "vllm" else 1
    return max(1, spec.threads) * ranks


# --- GPUs


@dataclass(frozen=True)
class _Seen:
    """The machine as one instance sees it: ``needs.devices`` GPUs are wanted."""

    hardware: Hardware
    taken: Sequence[Placement]
    needs: Needs
    slots: int
    share: float
    loading: Collection[str]

    @cached_property
    def held(self) -> Mapping[str, list[int]]:
        """Bytes that each of the others takes, by GPU."""
        gpus, found = {gpu.uuid: gpu for gpu in self.hardware.gpus}, defaultdict(list)
        for placement in self.taken:
            for uuid, size in held_by(placement, gpus).items():
                found[uuid].append(size)
        return found

    @property
    def least(self) -> int:
        """Bytes that must be free on each GPU; 0: it is not known."""
        return least_bytes(self.needs.fixed_bytes, self.needs.request_bytes, self.slots, self.share)

    def room(self, gpu: Gpu) -> int:
        """Bytes that it can count on there."""
        return room_on(gpu, self.held.get(gpu.uuid, ()))

    def shares(self, gpu: Gpu) -> bool:
        """Whether it can join the others there now."""
        held = self.held[gpu.uuid]
        waits = self.needs.greedy and (gpu.uuid in self.loading or loads(gpu, held))
        return 0 < self.least <= self.room(gpu) and not waits

    def takes(self, chosen: Sequence[Gpu]) -> tuple[int, ...]:
        """Bytes of each chosen GPU; empty where that is not known."""
        needs = self.needs
        if not self.least or not all(gpu.memory_bytes for gpu in chosen):
            return ()
        fixed, one, greedy = needs.fixed_bytes, needs.request_bytes, needs.greedy
        return tuple(taken_bytes(fixed, one, self.slots, self.share, greedy, self.room(gpu)) for gpu in chosen)


def _gpus(seen: _Seen) -> tuple[Gpu, ...]:
    wanted, usable = seen.needs.devices, able(seen.hardware.gpus, seen.needs)
    free = [gpu for gpu in usable if gpu.uuid not in seen.held]
    free = [gpu for gpu in free if not gpu.memory_bytes or seen.room(gpu) >= seen.least]
    if len(free) < wanted:
        shared = [gpu for gpu in usable if gpu.uuid in seen.held and seen.shares(gpu)]
        shared.sort(key=lambda gpu: (len(seen.held[gpu.uuid]), -gpu.free_bytes, gpu.index))
        free += shared[: wanted - len(free)]
    if len(free) < wanted:
        raise Unavailable(_short(seen, len(free)))
    return _best(free, wanted)


def _best(free: Sequence[Gpu], wanted: int) -> tuple[Gpu, ...]:
    """Of equal GPUs, those with the most links among themselves, then on the fewest NUMA nodes, then the emptiest."""
    ordered = sorted(free, key=lambda gpu: (gpu.index, gpu.uuid))
    sets: Iterable[tuple[Gpu, ...]] = combinations(ordered, wanted)
    if comb(len(ordered), wanted) > _MOST_SETS:
        sets = (tuple(ordered[first : first + wanted]) for first in range(len(ordered) - wanted + 1))
    return min(sets, key=_rank)


def _rank(gpus: tuple[Gpu, ...]) -> tuple[object, ...]:
    pairs = list(combinations(gpus, 2))
    unlinked = sum(other.uuid not in one.nvlink for one, other in pairs)
    kinds = len({(gpu.compute_capability, gpu.memory_bytes) for gpu in gpus})
    nodes = len({gpu.numa for gpu in gpus})
    least = min(gpu.free_bytes for gpu in gpus)  # the fullest of a set bounds all of them
    spare = 0 if len(gpus) > 1 else len(gpus[0].nvlink)  # a single one leaves linked sets whole
    places = tuple((gpu.index, gpu.uuid) for gpu in gpus)
    return kinds, unlinked, nodes, -(least // GIB), spare, -sum(gpu.free_bytes // GIB for gpu in gpus), places


def _short(seen: _Seen, found: int) -> str:
    """Who has what, so that a person can end something, add something or ask for less."""
    hardware, needs, wanted = seen.hardware, seen.needs, seen.needs.devices
    if not hardware.gpus:
        return f"{wanted} GPU{'s' * (wanted > 1)} wanted: {hardware.gpu_note or 'no GPU'}"
    kind = f" of compute capability {needs.sm / 10:.1f}" if needs.sm else ""
    kind = kind or (f" of compute capability {needs.least_sm / 10:.1f} or later" if needs.least_sm else "")
    need = f" with {seen.least / GIB:.1f} GiB free" if seen.least else ""
    held = sum(1 for gpu in hardware.gpus if gpu.uuid in seen.held)
    each = ", ".join(
        f"{gpu.index}: {gpu.free_bytes / GIB:.1f} of {gpu.memory_bytes / GIB:.1f}" for gpu in hardware.gpus
    )
    return (
        f"{wanted} GPU{'s' * (wanted > 1)}{kind}{need} wanted, {found} of {len(hardware.gpus)} of this machine free "
        f"({held} held by other instances; GiB free by GPU: {each}); retire a version, or use less tensor parallelism"
    )


# --- processors


def _cores(wanted: int, hardware: Hardware, taken: Sequence[Placement]) -> tuple[int, ...]:
    """The least loaded; of these all of one NUMA node where one has as many."""
    nodes = hardware.nodes or (tuple(range(hardware.cores)),)
    load = Counter(core for placement in taken for core in placement.cores)
    everywhere = [core for node in nodes for core in node]
    if wanted > len(everywhere):
        return ()  # it takes what there is
    choices = [_lightest(node, wanted, load) for node in nodes if len(node) >= wanted]
    choices.append(_lightest(everywhere, wanted, load))
    return tuple(sorted(min(choices, key=lambda cores: sum(load[core] for core in cores))))


def _lightest(cores: Sequence[int], wanted: int, load: Counter[int]) -> list[int]:
    """In the order of ``cores``, which puts one of each physical core first."""
    return sorted(cores, key=lambda core: load[core])[:wanted]
