"""The answer of ``engine plan`` as text: lines and the rows of tables. Pure; the CLI prints them."""

from __future__ import annotations

from collections.abc import Sequence

from engines.hardware import Hardware
from engines.sizing.measure import Demand, Fit, gib
from engines.sizing.recommend import Option
from engines.sizing.shape import ModelShape
from engines.sizing.weight_formats import weights_of

MEMORY_COLUMNS = ("of each GPU", "GiB")
OPTION_COLUMNS = ("weights", "TP", "PP", "fits", "weights/GPU", "KV tokens", "at once", "max slots")


def heading(shape: ModelShape, demand: Demand, hardware: Hardware) -> str:
    """Which model, on what, for what."""
    size = f"{shape.parameters / 1e9:,.1f} B parameters"
    if shape.active_parameters != shape.parameters:
        size += f", {shape.active_parameters / 1e9:,.1f} B active"
    kept = weights_of(shape, demand.weights).name
    asked = f"{demand.slots} slots of {demand.context:,} tokens"
    return f"{shape.architecture} ({size}, {kept}) with {demand.engine} on {machine(hardware)}, {asked}"


def machine(hardware: Hardware) -> str:
    """``4x H100 (79.1 GiB each)``, or the memory of a machine without GPUs."""
    if not hardware.gpus:
        return f"{hardware.cores} cores with {gib(hardware.memory_bytes)}"
    names = dict.fromkeys(gpu.name for gpu in hardware.gpus)
    least = min(gpu.free_bytes for gpu in hardware.gpus)
    return f"{len(hardware.gpus)}x {' and '.join(names)} ({gib(least)} each)"


def verdict(option: Option, demand: Demand) -> str:
    """One sentence: what to choose and what it then holds."""
    found = option.fit
    stages = f", pipeline_parallel {option.pipeline}" if option.pipeline > 1 else ""
    holds = f"{found.kv_tokens:,} tokens of keys and values"
    plural = "" if found.sequences == 1 else "s"
    full = f"{found.sequences:,} request{plural} of {demand.context:,} tokens at once"
    few = f", fewer than the {demand.slots} slots: requests must be shorter" if found.sequences < demand.slots else ""
    return f"fits with tensor_parallel {option.tensor}{stages}: {holds}, {full}{few}"


def spare(option: Option, hardware: Hardware) -> str:
    """What the GPUs that one instance leaves are good for; empty: it leaves none."""
    world, gpus = option.tensor * option.pipeline, len(hardware.gpus)
    more, rest = divmod(gpus, world)
    if gpus <= world:
        return ""
    idle = f", {rest} idle" if rest else ""
    return f"one instance takes {world} of {gpus} GPUs; {more} instances fit{idle}" if more > 1 else f"{rest} GPUs idle"


def link(option: Option, hardware: Hardware) -> str:
    """What ties the GPUs of one instance together, where that is worth a word; empty: it is not."""
    if option.tensor == 1 or not hardware.gpus or all(gpu.nvlink for gpu in hardware.gpus):
        return ""
    return "no NVLink: tensor parallelism goes over PCIe, which costs time at each layer"


def memory_rows(found: Fit) -> tuple[tuple[str, str], ...]:
    """Where the memory of the fullest GPU goes."""
    parts = (
        ("weights", found.weights_bytes),
        ("activations, at most", found.activation_bytes),
        ("CUDA context, workspace, NCCL, graphs", found.overhead_bytes),
        ("keys and values", found.kv_bytes),
        ("left free", found.free_bytes - found.fixed_bytes - found.kv_bytes),
        ("all of it", found.free_bytes),
    )
    return tuple((name, gib(size).removesuffix(" GiB")) for name, size in parts)


def option_rows(options: Sequence[Option]) -> tuple[tuple[object, ...], ...]:
    """One row for each weight format; what the GPUs cannot compute has no numbers of a cache."""
    return tuple((option.weights, option.tensor, option.pipeline, *_numbers(option)) for option in options)


def _numbers(option: Option) -> tuple[str, ...]:
    found = option.fit
    weights = gib(found.weights_bytes)
    if option.note:
        return ("not on these GPUs", weights, "-", "-", "-")
    held = (f"{number:,}" for number in (found.kv_tokens, found.sequences, found.largest_slots))
    return ("yes" if option.works else "no", weights, *held)
