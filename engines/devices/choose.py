"""Which GPUs and processors an instance gets. Pure: the same question has the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.command import GIB
from rollout.errors import Unavailable

_MOST_SETS = 5000  # of GPUs that are compared one by one; beyond it neighbours in order only


def place(spec: EngineSpec, hardware: Hardware, taken: Sequence[Placement], needs: Needs = Needs()) -> Placement:
    """What one instance gets beside the ``taken`` ones. Where there are GPUs, vLLM and TensorRT-LLM get tensor x
    pipeline parallel of them; an engine on the CPU gets ``threads`` processors for each rank.

    A GPU is for one instance, unless ``needs`` says how much the engine takes of it and that is left (``_has_room``).
    Processors are shared when there are too few free ones, and one that wants more than there are may use all.
    Raises Unavailable with the numbers.
    """
    wanted = gpus_wanted(spec, hardware)
    if wanted:
        memory_bytes = needs.fixed_bytes + needs.request_bytes * spec.slots
        return Placement(gpus=_gpus(wanted, hardware, taken, memory_bytes, needs.greedy))
    return Placement(cores=_cores(cores_wanted(spec), hardware, taken))


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


def _gpus(
    wanted: int, hardware: Hardware, taken: Sequence[Placement], memory_bytes: int, greedy: bool
) -> tuple[str, ...]:
    holders = Counter(uuid for placement in taken for uuid in placement.gpus)
    enough = [gpu for gpu in hardware.gpus if not gpu.memory_bytes or gpu.free_bytes >= memory_bytes]
    if wanted > 1:  # ranks cannot talk to one another between MIG instances (NVIDIA's MIG user guide)
        enough = [gpu for gpu in enough if not gpu.mig]
    free = [gpu for gpu in enough if not holders[gpu.uuid]]
    if len(free) < wanted and memory_bytes:
        held = [gpu for gpu in enough if holders[gpu.uuid]]
        shared = [gpu for gpu in held if _has_room(gpu, holders[gpu.uuid], memory_bytes, greedy)]
        free += sorted(shared, key=lambda gpu: (holders[gpu.uuid], -gpu.free_bytes, gpu.index))[: wanted - len(free)]
    if len(free) < wanted:
        raise Unavailable(_short(wanted, hardware, len(free), holders, memory_bytes))
    return tuple(gpu.uuid for gpu in _best(free, wanted))


def _has_room(gpu: Gpu, holders: int, memory_bytes: int, greedy: bool) -> bool:
    """Also once the others have loaded, which may take as much as this one. Greedy ones take what is free when they
    load: only when all have is it seen what is left."""
    return gpu.memory_bytes >= memory_bytes * (holders + 1) and (not greedy or len(gpu.processes) >= holders)


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


def _short(wanted: int, hardware: Hardware, found: int, holders: Counter[str], memory_bytes: int) -> str:
    """Who has what, so that a person can end something, add something or ask for less."""
    if not hardware.gpus:
        return f"{wanted} GPU{'s' * (wanted > 1)} wanted: {hardware.gpu_note or 'no GPU'}"
    need = f" with {memory_bytes / GIB:.1f} GiB free" if memory_bytes else ""
    held = sum(1 for gpu in hardware.gpus if holders[gpu.uuid])
    each = ", ".join(
        f"{gpu.index}: {gpu.free_bytes / GIB:.1f} of {gpu.memory_bytes / GIB:.1f}" for gpu in hardware.gpus
    )
    return (
        f"{wanted} GPU{'s' * (wanted > 1)}{need} wanted, {found} of {len(hardware.gpus)} of this machine free "
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
