"""Does an engine fit? The verdict with numbers, and the same memory in vLLM's own words."""

from __future__ import annotations

from dataclasses import replace

from engines.hardware import Gpu, Hardware
from engines.sizing import memory
from engines.sizing.measure import Demand, Fit, demand_of, fit, fit_on, gib, tokens_per_step
from engines.sizing.recommend import as_asked, check_formats, said, ways_out, weights_on
from engines.sizing.shape import ModelShape
from engines.sizing.weight_formats import GENERATIONS, WEIGHTS, check_hardware, kv_dtype_of
from rollout.errors import Refused

__all__ = ["Demand", "Fit", "check_fit", "demand_of", "fit", "kv_cache_bytes", "tokens_per_step", "vllm_utilization"]


def check_fit(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> Fit:
    """The fit on this machine. Raises Refused with the numbers and what would fit instead.

    ``device`` of the demand follows the machine: without GPUs all ranks share its memory, which only vLLM can.
    Whether the model can be split so is ``rules.check_parallel``'s to say.
    """
    check_context(shape, demand)
    _check_gpus(demand, hardware)
    hardware = computing(shape, demand, hardware)
    check_formats(shape, demand, hardware)
    found = fit_on(shape, demand, hardware, draft)
    if not found.fits:
        where = "of each rank" if not hardware.gpus else "per GPU"
        value = f"{gib(found.free_bytes)} free {where}"
        rule = f"{said(as_asked(shape, demand, hardware, found))}: {found.why}"
        raise Refused("memory", value, rule, ways_out(shape, demand, hardware, draft))
    return found


def computing(shape: ModelShape, demand: Demand, hardware: Hardware) -> Hardware:
    """The machine with those of its GPUs that compute the formats, where these are enough; else as it is."""

    def computes(gpu: Gpu) -> bool:
        try:
            check_formats(shape, demand, replace(hardware, gpus=(gpu,)))
        except Refused:
            return False
        return True

    able = tuple(gpu for gpu in hardware.gpus if computes(gpu))
    return replace(hardware, gpus=able) if able and len(able) >= demand.world else hardware


def emptied(hardware: Hardware) -> Hardware:
    """The machine with nothing on its GPUs but the driver's own."""
    gpus = (replace(g, free_bytes=max(g.free_bytes, g.memory_bytes - memory.CUDA_CONTEXT)) for g in hardware.gpus)
    return replace(hardware, gpus=tuple(gpus))


def to_build_for(shape: ModelShape, demand: Demand, hardware: Hardware, draft: ModelShape | None = None) -> Hardware:
    """What an engine that is to be built is judged by: the machine as it is where it fits there now, else emptied.

    Whether room can be made is known only when a release plans both versions (configs/room.py). Raises Refused for
    formats that do not exist.
    """
    fits = fit_on(shape, demand, computing(shape, demand, hardware), draft).fits
    return hardware if fits else emptied(hardware)


def least_sm(shape: ModelShape, demand: Demand, hardware: Hardware) -> int:
    """The least compute capability (89 is 8.9) that computes the formats as they would be served there; 0: any."""
    name, cache = weights_on(shape, demand, hardware), kv_dtype_of(shape, demand.kv_dtype)
    for sm in (0, *sorted({f.needs_sm(demand.engine) for f in WEIGHTS.values()} | set(GENERATIONS))):
        try:
            check_hardware(name, cache, sm, demand.engine)
        except Refused:
            continue
        return sm
    return 0


def check_context(shape: ModelShape, demand: Demand) -> None:
    """A request is no longer than the model has positions for. Raises Refused."""
    most = shape.max_positions
    if most and demand.context > most:
        rule = f"the model has positions for {most:,} tokens"
        raise Refused("context", demand.context, rule, f"choose at most {most}")


def _check_gpus(demand: Demand, hardware: Hardware) -> None:
    there = len(hardware.gpus)
    if there >= demand.world or (not there and demand.engine != "tensorrt_llm"):
        return
    if not there:
        rule = f"TensorRT-LLM needs an NVIDIA GPU, and this machine has none ({hardware.gpu_note or 'none was found'})"
        raise Refused("engine", demand.engine, rule, "use vllm or llama_cpp here, or a machine with a GPU")
    asked = f"{demand.tensor} x {demand.pipeline}"
    rule = f"that takes {demand.world} GPUs and there are {there}"
    fix = f"choose a product of at most {there}, or more GPUs"
    raise Refused("tensor_parallel x pipeline_parallel", asked, rule, fix)


def vllm_utilization(fit: Fit, gpu_bytes: int) -> float:
    """vLLM's ``--gpu-memory-utilization`` for the same cache: its share is of the whole GPU, weights and all.

    vLLM refuses to start when that share is not free, and its own context is not counted in it, so a context is left.
    Rounded down to 4 digits.
    """
    wanted = min(fit.fixed_bytes + fit.kv_bytes, fit.free_bytes - memory.CUDA_CONTEXT)
    return max(0, int(wanted / gpu_bytes * 10_000)) / 10_000


def kv_cache_bytes(shape: ModelShape, demand: Demand, memory_bytes: int, draft: ModelShape | None = None) -> int:
    """vLLM's ``--kv-cache-memory-bytes`` for each rank on a CPU: all slots at the whole context, if the share of what
    is free allows it. ``memory_bytes`` is the machine's, of which each rank has its part."""
    per_rank = memory_bytes // demand.world
    return fit(shape, replace(demand, device="cpu"), per_rank, draft=draft).kv_bytes
