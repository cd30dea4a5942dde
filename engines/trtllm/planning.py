"""What a build of TensorRT-LLM needs and does, from the model's files alone: sizes, steps, disk, reasons."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from engines.hardware import Hardware
from engines.port import BuildStep, EngineSpec, Needs
from engines.sizing import memory
from engines.sizing.config_file import shape_at
from engines.sizing.fit import Fit, check_fit, computing, demand_of, least_sm, to_build_for
from engines.sizing.measure import free_gpus, gib
from engines.sizing.rules import check_architecture, check_parallel
from engines.sizing.shape import ModelShape
from engines.trtllm import container, serve
from engines.trtllm.contract import Contract
from engines.trtllm.fingerprint import architecture
from engines.trtllm.recipe_rules import check_recipe
from engines.trtllm.recipe_spec import calibrated, recipe_of
from engines.trtllm.recipes import build_steps
from engines.trtllm.spec_rules import check_draft_model, check_stored
from engines.trtllm.yaml_config import served
from rollout.command import Command
from rollout.nouns import ModelVersion

_MARGIN = 64 * 1024 * 1024  # tokenizer, manifest, log, file system
_CALIBRATION = 1.25  # of the weights in 16 bits: what running the model to calibrate it takes


@dataclass(frozen=True)
class Sized:
    """The model, its draft model if there is one, and the memory of one instance."""

    shape: ModelShape
    fit: Fit
    draft: ModelShape | None = None


def world(spec: EngineSpec) -> int:
    """Ranks, and so GPUs, of one instance."""
    return spec.tensor_parallel * spec.pipeline_parallel


def size(
    model: ModelVersion, spec: EngineSpec, contract: Contract, hardware: Hardware, draft: ModelVersion | None
) -> Sized:
    """Whether it can be, by every rule that is known from the files. Raises Refused with the numbers."""
    shape = shape_at(Path(model.directory))
    check_architecture(shape, spec.kind, recipe_of(spec))
    check_stored(spec, shape)
    check_parallel(
        shape, spec.tensor_parallel, spec.pipeline_parallel, spec.expert_parallel, spec.quantization, spec.kind
    )
    small = shape_at(Path(draft.directory)) if draft else None
    if draft and small:
        check_draft_model(spec, model, draft, small)
    usable = _of_one_kind(spec, hardware)
    sm = min((gpu.sm for gpu in usable.gpus), default=0)
    check_recipe(spec, contract.version, shape.architecture, sm, stored_kv=shape.kv_quantization)
    demand = demand_of(spec)
    return Sized(shape, check_fit(shape, demand, to_build_for(shape, demand, usable, small), small), small)


def needs(spec: EngineSpec, sized: Sized, hardware: Hardware) -> Needs:
    """What one instance takes, and of which GPUs: a TensorRT engine of the architecture that it is built for, a
    checkpoint of all that compute its formats."""
    fit, demand = sized.fit, demand_of(spec)
    built = architecture(hardware) if recipe_of(spec) == "tensorrt" else 0
    least = least_sm(sized.shape, demand, computing(sized.shape, demand, _of_one_kind(spec, hardware)))
    return Needs(fit.fixed_bytes, fit.sequence_bytes, world(spec), True, built, least)


def steps(
    model: ModelVersion,
    spec: EngineSpec,
    contract: Contract,
    hardware: Hardware,
    draft: ModelVersion | None,
    sized: Sized,
    python: str,
) -> tuple[BuildStep, ...]:
    """The commands. ``{out}`` is the engine directory; ``python`` has TensorRT-LLM where there is no container."""
    gpus = build_gpus(spec, sized.shape, hardware)
    box = container.bare_container(spec, contract, gpus) if spec.container else None
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus and not box else {}
    told = replace(spec, environment={**seen, **spec.environment})
    draft_dir = draft.directory if draft else None
    family, stored_kv = sized.shape.architecture, sized.shape.kv_quantization
    made = build_steps(
        model.directory, "{out}", told, contract.version, family, box, draft_dir, python, stored_kv=stored_kv
    )
    if draft is None:
        return made
    link = (sys.executable, "-m", "engines.trtllm", "link", draft.directory, f"{{out}}/{serve.DRAFT}")
    return (*made, BuildStep("link draft files", Command(link)))


def build_gpus(spec: EngineSpec, shape: ModelShape, hardware: Hardware) -> tuple[str, ...]:
    """UUIDs of the GPUs that a build gets: those with the most free memory, one per rank of a TensorRT engine, and so
    many that the model fits while it is calibrated. None where nothing is computed."""
    engine = recipe_of(spec) == "tensorrt"
    if not engine and spec.quantization == "none":
        return ()
    usable = _of_one_kind(spec, hardware).gpus
    ordered = free_gpus(usable, len(usable))
    wanted = world(spec) if engine else 1
    while _calibrates(spec) and wanted < len(ordered):
        if sum(gpu.free_bytes for gpu in ordered[:wanted]) >= _calibration_bytes(shape):
            break
        wanted += 1
    return tuple(gpu.uuid for gpu in ordered[:wanted])


def disk_bytes(model: ModelVersion, spec: EngineSpec, sized: Sized, draft: ModelVersion | None, root: Path) -> int:
    """What the build writes. Files of the same file system are linked, which takes no room."""
    linked = 0 if draft is None or _same_disk(draft.directory, root) else sum(f.size for f in draft.files)
    if recipe_of(spec) == "pytorch" and spec.quantization == "none":
        own = 0 if _same_disk(model.directory, root) else sum(f.size for f in model.files)
        return own + linked + _MARGIN
    asked = "int4_awq" if spec.quantization == "int4_wo" else spec.quantization
    weights = memory.weight_bytes(sized.shape, asked, dtype=spec.dtype).total
    copies = 2 if recipe_of(spec) == "tensorrt" else 1  # the checkpoint, and the engine beside it
    return copies * weights + linked + _MARGIN


def reasons(
    model: ModelVersion,
    spec: EngineSpec,
    contract: Contract,
    hardware: Hardware,
    sized: Sized,
    draft: ModelVersion | None,
) -> dict[str, str]:
    """Why each derived value is what it is, and what is not proven."""
    config = served(spec, contract, container.DRAFT)
    fit, pins = sized.fit, ", ".join(f"{name} {pin}" for name, pin in contract.pins.items())
    told = {
        "version": f"facts of the line {contract.line}; it asks for {pins}",
        "digest": f"model {model.digest[:12]}{f', draft {draft.digest[:12]}' if draft else ''}, recipe, formats, "
        f"version{', sizes and split, GPU architecture' * (recipe_of(spec) == 'tensorrt')}",
        "memory_bytes": f"{fit.why}; the cache holds {fit.kv_tokens:,} tokens, {fit.sequences} whole requests",
    }
    gpus = build_gpus(spec, sized.shape, hardware)
    if gpus:
        wants = f"; to calibrate it takes about {gib(_calibration_bytes(sized.shape))}" * _calibrates(spec)
        told["build GPUs"] = f"{len(gpus)}, those with the most free memory{wants}"
    if spec.container:
        told |= container.reasons(spec, contract)
    told |= config.reasons | serve.reasons(spec, contract)
    if config.unsure:
        told["not established"] = (
            f"that {contract.version} has {', '.join(config.unsure)}: known from a younger version; "
            "`trtllm-serve --help` in its image tells"
        )
    return told


def _calibrates(spec: EngineSpec) -> bool:
    return calibrated(spec) if recipe_of(spec) == "tensorrt" else spec.quantization != "none"


def _calibration_bytes(shape: ModelShape) -> int:
    return int(_CALIBRATION * 2 * shape.parameters)


def _of_one_kind(spec: EngineSpec, hardware: Hardware) -> Hardware:
    """A TensorRT engine runs on the architecture that it is built on, so other GPUs do not count."""
    if recipe_of(spec) == "pytorch" or not hardware.gpus:
        return hardware
    sm = architecture(hardware)
    return replace(hardware, gpus=tuple(gpu for gpu in hardware.gpus if gpu.sm == sm))


def _same_disk(directory: str, root: Path) -> bool:
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return Path(directory).stat().st_dev == existing.stat().st_dev
