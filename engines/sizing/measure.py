"""What an engine asks for, and what it then holds: the arithmetic behind every verdict. Nothing here refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec
from engines.sizing import memory
from engines.sizing.memory import GIB
from engines.sizing.shape import ModelShape

MOST_SLOTS = 4096  # what an engine file may ask for


@dataclass(frozen=True)
class Demand:
    """What is asked of the hardware: the part of an EngineSpec that decides about memory.

    ``device`` is "gpu", or "cpu" where all ranks share the machine's memory.
    """

    engine: str = "vllm"
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    weights: str = "none"  # key of weight_formats.WEIGHTS; "none": as the checkpoint is
    kv_dtype: str = "auto"
    memory_fraction: float = 0.85  # keys' and values' share of what weights, activations and runtime leave free
    slots: int = 2
    context: int = 1024
    max_tokens: int = 2048  # of one step
    dtype: str = "auto"
    device: str = "gpu"

    @property
    def world(self) -> int:
        """Ranks of one instance."""
        return self.tensor * self.pipeline

    @property
    def block(self) -> int:
        """Tokens of one page of the cache."""
        if self.engine == "tensorrt_llm":
            return memory.TRTLLM_BLOCK
        return memory.VLLM_CPU_BLOCK if self.device == "cpu" else memory.VLLM_BLOCK


@dataclass(frozen=True)
class Fit:
    """The memory of one instance, in bytes of the fullest GPU (of one rank on a CPU).

    ``kv_tokens`` is what the cache holds, ``sequences`` how many requests of the whole context that is, and
    ``largest_slots`` the most requests of the whole context that can be asked for at once.
    """

    gpu_bytes: int
    free_bytes: int
    weights_bytes: int
    activation_bytes: int
    overhead_bytes: int
    kv_token_bytes: int
    sequence_bytes: int
    kv_bytes: int
    kv_tokens: int
    sequences: int
    largest_slots: int
    fits: bool
    why: str

    @property
    def fixed_bytes(self) -> int:
        """All but the cache."""
        return self.weights_bytes + self.activation_bytes + self.overhead_bytes


def tokens_per_step(spec: EngineSpec) -> int:
    """``max_tokens`` as asked for; else the chunk of a prompt, or without chunks a whole prompt, and never fewer than
    one token (with speculation, the guesses too) of each slot."""
    guesses = spec.speculative.tokens if spec.speculative.method != "none" else 0
    return spec.max_tokens or max(spec.chunked_prefill or spec.context, spec.slots * (1 + guesses))


def demand_of(spec: EngineSpec, device: str = "gpu") -> Demand:
    """The part of a spec that decides about memory."""
    return Demand(
        engine=spec.kind,
        tensor=spec.tensor_parallel,
        pipeline=spec.pipeline_parallel,
        expert=spec.expert_parallel,
        weights=spec.quantization,
        kv_dtype=spec.kv_cache_dtype,
        memory_fraction=spec.memory_fraction,
        slots=spec.slots,
        context=spec.context,
        max_tokens=tokens_per_step(spec),
        dtype=spec.dtype,
        device=device,
    )


def fit(
    shape: ModelShape,
    demand: Demand,
    gpu_bytes: int,
    free_bytes: int | None = None,
    draft: ModelShape | None = None,
) -> Fit:
    """The memory of one instance where each device has ``gpu_bytes``, and ``free_bytes`` of them before it starts.

    ``draft`` is the model that guesses tokens ahead: its weights and its cache come on top. Raises Refused
    only for formats that do not exist.
    """
    here = _measure(shape, demand, gpu_bytes, gpu_bytes if free_bytes is None else free_bytes, draft)
    return replace(here, largest_slots=_largest_slots(shape, demand, here, draft) if here.fits else 0)


def _measure(shape: ModelShape, demand: Demand, total: int, free: int, draft: ModelShape | None) -> Fit:
    models = (shape, draft) if draft else (shape,)
    weights = sum(_weights(model, demand, model is draft) for model in models)
    activations = max(
        memory.activation_bytes(model, demand.slots, max(demand.max_tokens, demand.slots), demand.tensor, demand.dtype)
        for model in models
    )
    overhead = memory.overhead_bytes(shape, demand.slots, demand.tensor, demand.pipeline, demand.device)
    token = sum(_token_bytes(model, demand) for model in models)
    sequence = sum(_sequence_bytes(model, demand) for model in models)
    left = free - weights - activations - overhead
    cache = max(0, int(demand.memory_fraction * left))
    if demand.device == "cpu":  # this memory is everybody's: no more than all slots can use
        cache = min(cache, sequence * demand.slots)
    return Fit(
        gpu_bytes=total,
        free_bytes=free,
        weights_bytes=weights,
        activation_bytes=activations,
        overhead_bytes=overhead,
        kv_token_bytes=token,
        sequence_bytes=sequence,
        kv_bytes=cache,
        kv_tokens=_tokens(demand, cache, token, sequence),
        sequences=cache // sequence,
        largest_slots=0,
        fits=cache >= sequence,
        why=_why(demand, free, left, weights, activations, overhead, sequence, cache),
    )


def _weights(shape: ModelShape, demand: Demand, draft: bool) -> int:
    asked = "none" if draft else demand.weights
    return memory.weight_bytes(shape, asked, demand.tensor, demand.pipeline, demand.expert, demand.dtype).total


def _token_bytes(shape: ModelShape, demand: Demand) -> int:
    return memory.kv_token_bytes(shape, demand.kv_dtype, demand.tensor, demand.pipeline, demand.dtype)


def _sequence_bytes(shape: ModelShape, demand: Demand) -> int:
    """Only vLLM gives back what a sliding window has left behind; for TensorRT-LLM every layer keeps every token."""
    window = shape.window - 1 + demand.max_tokens if shape.windowed_layers and demand.engine == "vllm" else 0
    return memory.sequence_bytes(
        shape, demand.context, demand.kv_dtype, demand.tensor, demand.pipeline, demand.block, window, demand.dtype
    )


def _tokens(demand: Demand, cache: int, token: int, sequence: int) -> int:
    """Tokens in whole blocks; where layers keep a window, vLLM counts those of requests of the whole context."""
    pages = ceil(demand.context / demand.block) * demand.block
    if sequence < pages * token:
        return int(cache / sequence * demand.context) // demand.block * demand.block
    return cache // (token * demand.block) * demand.block


def _why(
    demand: Demand, free: int, left: int, weights: int, activations: int, overhead: int, sequence: int, cache: int
) -> str:
    parts = f"weights {gib(weights)}, activations {gib(activations)} and the runtime {gib(overhead)}"
    if left <= 0:
        return f"{parts} need {gib(free - left)} of {gib(free)} free, before any keys and values"
    room = f"{parts} leave {gib(left)} of {gib(free)}, {demand.memory_fraction:.0%} of it {gib(cache)}"
    needs = f"one request of {demand.context:,} tokens needs {gib(sequence)}"
    return f"{room}; {needs}"


def _largest_slots(shape: ModelShape, demand: Demand, here: Fit, draft: ModelShape | None) -> int:
    """By halving: the more slots, the more activations and the fewer whole requests."""

    def holds(slots: int) -> bool:
        asked = replace(demand, slots=slots)
        return _measure(shape, asked, here.gpu_bytes, here.free_bytes, draft).sequences >= slots

    low, high = 0, MOST_SLOTS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def free_gpus(gpus: Sequence[Gpu], world: int) -> tuple[Gpu, ...]:
    """The ``world`` GPUs with the most free memory, fullest last."""
    return tuple(sorted(gpus, key=lambda gpu: -gpu.free_bytes)[:world])


def fit_on(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> Fit:
    """The fit on the machine's GPUs with the most free memory, or in its memory where it has none.

    A machine with too few GPUs is judged as if it had enough of its fullest.
    """
    if not hardware.gpus:
        share = hardware.memory_bytes // demand.world
        return fit(shape, replace(demand, device="cpu"), share, draft=draft)
    fullest = free_gpus(hardware.gpus, demand.world)[-1]
    return fit(shape, replace(demand, device="gpu"), fullest.memory_bytes, fullest.free_bytes, draft)


def gib(size: int) -> str:
    """For a person."""
    return f"{size / GIB:,.1f} GiB"
