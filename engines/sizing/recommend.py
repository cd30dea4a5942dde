"""Which parallelism and which weights fit on given hardware: the recommended one, and what else there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from engines.hardware import Hardware
from engines.sizing.measure import Demand, Fit, fit_on, free_gpus, gib
from engines.sizing.rules import possible_tensor_parallel
from engines.sizing.shape import ModelShape
from engines.sizing.weight_formats import WEIGHTS, check_hardware, kv_dtype_of, served_as, weights_of
from rollout.errors import Refused

LARGEST_FRACTION = 0.97  # of what is free; the rest is for what no plan foresees
_ANY = 999  # processors compute every format
_FP8 = 89  # compute capability from which FP8 is computed as such
OFFERED = {  # smaller weights that can be made of a plain checkpoint, or found made
    "vllm": ("fp8", "int8_sq", "int4_awq", "nvfp4"),
    "tensorrt_llm": ("fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"),
}


@dataclass(frozen=True)
class Option:
    """One way to serve the model: weights, parallelism, how that fits; ``note`` says why the GPUs cannot compute it."""

    weights: str
    tensor: int
    pipeline: int
    fit: Fit
    note: str = ""

    @property
    def works(self) -> bool:
        """The GPUs hold it and compute it."""
        return self.fit.fits and not self.note


def splits(shape: ModelShape, demand: Demand, gpus: int) -> Iterator[tuple[int, int]]:
    """(tensor, pipeline) that the model's numbers allow on so many GPUs: without pipelines first, few GPUs first."""
    for pipeline in range(1, min(gpus, shape.layers) + 1):
        limit = gpus // pipeline
        for tensor in possible_tensor_parallel(shape, demand.weights, demand.engine, limit, demand.expert):
            yield tensor, pipeline


def check_formats(shape: ModelShape, demand: Demand, hardware: Hardware) -> None:
    """The formats exist, and the GPUs that would be taken can compute them. Raises Refused."""
    name, cache = weights_on(shape, demand, hardware), kv_dtype_of(shape, demand.kv_dtype)
    for gpu in free_gpus(hardware.gpus, demand.world):
        check_hardware(name, cache, gpu.sm, demand.engine)


def weights_on(shape: ModelShape, demand: Demand, hardware: Hardware) -> str:
    """What the weights are called on the GPUs that would be taken, or on processors. Raises Refused."""
    oldest = min((gpu.sm for gpu in free_gpus(hardware.gpus, demand.world)), default=_ANY)
    return served_as(shape, demand.weights, demand.dtype, demand.engine, oldest)


def _note(shape: ModelShape, demand: Demand, hardware: Hardware) -> str:
    try:
        check_formats(shape, demand, hardware)
    except Refused as refusal:
        return str(refusal)
    return ""


def best_split(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> Option | None:
    """The fewest GPUs, without pipelines if possible, that hold all slots at the whole context; where none does, the
    split that holds most of them, again without pipelines if possible; None where nothing fits."""
    if _note(shape, demand, hardware):
        return None
    gpus, best = max(1, len(hardware.gpus)), None
    for tensor, pipeline in splits(shape, demand, gpus):
        found = fit_on(shape, replace(demand, tensor=tensor, pipeline=pipeline), hardware, draft)
        option = Option(weights_on(shape, demand, hardware), tensor, pipeline, found)
        if found.sequences >= demand.slots:
            return option
        if found.fits and (best is None or (pipeline == best.pipeline and found.sequences > best.fit.sequences)):
            best = option
    return best


def formats(shape: ModelShape, demand: Demand, hardware: Hardware) -> tuple[str, ...]:
    """The weights that are worth a look: those asked for, and the smaller ones that this engine and hardware run.

    A checkpoint that is quantised has just its own; INT8 is for GPUs that cannot compute FP8.
    """
    if shape.quantization:
        return (demand.weights,)
    width = weights_of(shape, demand.weights).bytes_per_weight
    sm = min((gpu.sm for gpu in hardware.gpus), default=0)
    offered = (WEIGHTS[name] for name in OFFERED.get(demand.engine, ()))
    smaller = (f.name for f in offered if f.bytes_per_weight < width and f.needs_sm(demand.engine) <= sm)
    return (demand.weights, *(name for name in smaller if name != "int8_sq" or sm < _FP8))


def alternatives(
    shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None
) -> tuple[Option, ...]:
    """For each weight format its best split; where nothing fits, the one that is short of the least.

    A format that no split suits is left out.
    """
    found = []
    for name in formats(shape, demand, hardware):
        asked = replace(demand, weights=name)
        best = best_split(shape, asked, hardware, draft) or closest_split(shape, asked, hardware, draft)
        found.extend([best] if best else [])
    return tuple(found)


def closest_split(
    shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None
) -> Option | None:
    """Of the splits that do not fit, the one that is short of the fewest bytes."""

    def tried(split: tuple[int, int]) -> Option:
        asked = replace(demand, tensor=split[0], pipeline=split[1])
        found, note = fit_on(shape, asked, hardware, draft), _note(shape, asked, hardware)
        return Option(weights_on(shape, asked, hardware), *split, found, note)

    options = map(tried, splits(shape, demand, max(1, len(hardware.gpus))))
    return min(options, key=lambda option: _least(option.fit), default=None)


def _least(found: Fit) -> int:
    return found.fixed_bytes + found.sequence_bytes


def ways_out(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> str:
    """What would fit instead, as the end of a refusal: other splits or weights, a shorter context, a larger
    share, other GPUs."""
    others = alternatives(shape, demand, hardware, draft)
    asked = (weights_on(shape, demand, hardware), demand.tensor, demand.pipeline)
    out = [
        f"{said(option)} ({option.fit.kv_tokens:,} tokens of keys and values)"
        for option in others
        if option.works and (option.weights, option.tensor, option.pipeline) != asked
    ]
    shorter = longest_context(shape, demand, hardware, draft)
    out += [f"context {shorter}"] if shorter else []
    share = least_fraction(fit_on(shape, demand, hardware, draft))
    out += [f"memory_fraction {share:g}"] if share else []
    if out:
        return "use " + ", or ".join(out)
    larger = "use more or larger GPUs" if hardware.gpus else "use a machine with more memory"
    if not others:
        return larger
    closest = min(others, key=lambda option: _least(option.fit))
    found, each = closest.fit, "on each GPU" if hardware.gpus else "for each rank"
    short = found.fixed_bytes + found.sequence_bytes / demand.memory_fraction - found.free_bytes
    return f"{larger}: the closest way, {said(closest)}, is {gib(int(short))} short {each}"


def least_fraction(found: Fit) -> float:
    """The smallest ``memory_fraction`` with which one request fits, in steps of 0.01; 0: none does up to 0.97."""
    left = found.free_bytes - found.fixed_bytes
    share = ceil(100 * found.sequence_bytes / left) / 100 if left > 0 else 1.0
    return share if share <= LARGEST_FRACTION else 0.0


def as_asked(shape: ModelShape, demand: Demand, hardware: Hardware, found: Fit) -> Option:
    """What the demand itself comes to."""
    return Option(weights_on(shape, demand, hardware), demand.tensor, demand.pipeline, found)


def said(option: Option) -> str:
    """``fp8 at TP 2``."""
    return f"{option.weights} at TP {option.tensor}" + (f" x PP {option.pipeline}" if option.pipeline > 1 else "")


def longest_context(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> int:
    """The longest single request that the split as asked for holds, in steps of 64 tokens; 0: not even 64."""
    low, high = 0, demand.context // 64
    while low < high:
        middle = (low + high + 1) // 2
        fits = fit_on(shape, replace(demand, context=64 * middle), hardware, draft).fits
        low, high = (middle, high) if fits else (low, middle - 1)
    return 64 * low
