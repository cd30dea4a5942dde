"""The content address of a TensorRT-LLM engine: everything that changes what is built, and nothing that only serves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from packaging.version import Version

from engines.hardware import Hardware
from engines.port import EngineSpec
from engines.trtllm.recipe_spec import (
    EXAMPLES_KEY,
    MODELOPT_KEY,
    calibration_of,
    lookahead,
    paged_context,
    recipe_of,
    step_tokens,
    version_of,
)
from rollout.errors import Refused

BUILDER = "1"  # raise it when the same inputs give other bytes
_TENSORRT = (("1.3.0rc0", "10.15.1"), ("1.2.0", "10.14.1"), ("1.1.0", "10.13.3"))  # pins of the packages, newest first
_MODELOPT = (("1.3.0rc23", ""), ("1.1.0", "0.37.0"))
_MADE_ONLY = ("image", "scripts")  # they make other files, and do not matter to what serves those
_WORDS = {
    "builder": "the builder's format",
    "recipe": "the recipe",
    "version": "TensorRT-LLM",
    "tensorrt": "TensorRT",
    "modelopt": "ModelOpt",
    "sm": "the GPU architecture (SM)",
}


def fingerprint(
    model_digest: str, spec: EngineSpec, version: str, hardware: Hardware, draft_digest: str = ""
) -> tuple[str, dict[str, str]]:
    """The digest of a build, and what it is built with.

    A TensorRT engine runs on the architecture that it was built on, so that is part of it; a checkpoint is not bound.
    Raises Refused where a TensorRT engine has no GPU to be bound to.
    """
    with_ = built_with(spec, version, hardware)
    inputs = {"model": model_digest, "draft": draft_digest, "with": with_, "spec": shaping(spec)}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(), with_


def built_with(spec: EngineSpec, version: str, hardware: Hardware) -> dict[str, str]:
    """What builds it here and now: pins of the package, image, scripts that are not the package's. Raises Refused."""
    recipe = recipe_of(spec)
    found = {"builder": BUILDER, "recipe": recipe, "version": str(version_of(version))}
    if recipe == "tensorrt":
        found |= {"tensorrt": _pin(_TENSORRT, version), "sm": str(architecture(hardware))}
    if spec.quantization != "none":
        found["modelopt"] = _pin(_MODELOPT, version)
    if recipe == "tensorrt" or spec.quantization != "none":  # else files are linked, by nobody's tool
        found["image"] = spec.container.image if spec.container else ""  # empty: that of the version
        found["scripts"] = _scripts(spec.environment.get(EXAMPLES_KEY if recipe == "tensorrt" else MODELOPT_KEY, ""))
    return {name: value for name, value in found.items() if value}


def architecture(hardware: Hardware) -> int:
    """The SM number of this machine's GPUs; of a mixture the most frequent, then the newest. Raises Refused."""
    if not hardware.gpus:
        raise Refused(
            "recipe",
            "tensorrt",
            f"a TensorRT engine is built on a GPU of the architecture that serves it, and this machine has none"
            f"{': ' + hardware.gpu_note if hardware.gpu_note else ''}",
            "build on such a machine, or use recipe pytorch",
        )
    counted = Counter(gpu.sm for gpu in hardware.gpus)
    return max(counted, key=lambda sm: (counted[sm], sm))


def shaping(spec: EngineSpec) -> dict[str, Any]:
    """The settings that change the files. With "pytorch" sizes and parallelism are decided when it is served."""
    calibration = asdict(calibration_of(spec))
    calibration.pop("workers")
    quantised = {"kv_cache_dtype": spec.kv_cache_dtype, **calibration} if spec.quantization != "none" else {}
    if recipe_of(spec) == "pytorch":
        return {"quantization": spec.quantization, **quantised}
    return {
        "quantization": spec.quantization,
        "kv_cache_dtype": spec.kv_cache_dtype,
        **(calibration if quantised or spec.kv_cache_dtype != "auto" else {}),
        "dtype": spec.dtype,
        "tensor_parallel": spec.tensor_parallel,
        "pipeline_parallel": spec.pipeline_parallel,
        "expert_parallel": spec.expert_parallel,
        "slots": spec.slots,
        "context": spec.context,
        "max_tokens": step_tokens(spec),
        "paged_context": paged_context(spec),
        "lookahead": lookahead(spec),
    }


def why_stale(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In words, why something built with ``was`` cannot be served by what is here ``now``; empty where it can."""
    changed = [name for name in _WORDS if was.get(name) != now.get(name)]
    changed += sorted(name for name in {*was, *now} - {*_WORDS, *_MADE_ONLY} if was.get(name) != now.get(name))
    parts = [f"{_WORDS.get(name, name)} was {was.get(name, 'none')} and is {now.get(name, 'none')}" for name in changed]
    return f"{'; '.join(parts)}: it is built again" if parts else ""


def _pin(pins: tuple[tuple[str, str], ...], version: str) -> str:
    """The version that a package of TensorRT-LLM asks for; empty where we know none."""
    wanted = version_of(version)
    return next((pin for since, pin in pins if wanted >= Version(since)), "")


def _scripts(directory: str) -> str:
    """Those of a checkout by their content, so that its place does not count; the place where they cannot be read."""
    folder, read = Path(directory), hashlib.sha256()
    try:
        found = sorted(path for path in folder.rglob("*.py") if path.is_file()) if directory else []
        for path in found:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            read.update(f"{path.relative_to(folder)} {content}\n".encode())
    except OSError:
        return directory
    return read.hexdigest()[:16] if found else directory
