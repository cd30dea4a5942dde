"""One ``Case`` per engine: what it is tried with. A new engine is one entry in CASES."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stand_in_vllm import vllm_interpreter
from tiny_models import write_tiny
from trtllm_builds import TOOLS, environment

from engines.hardware import Gpu, Hardware
from engines.port import (
    ContainerSpec,
    EngineKind,
    EngineSettings,
    EngineSpec,
    LocalSettings,
    MemorySettings,
    Speculative,
    Usage,
    open_engine,
)
from rollout.nouns import ModelVersion

GIB = 1 << 30
MACHINE = Hardware(4, 64 * GIB, 64 * GIB, gpu_note="there is none")
H100 = tuple(
    Gpu(n, f"GPU-0000000{n}", "NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, (9, 0), nvlink=(f"GPU-0000000{1 - n}",))
    for n in range(2)
)
GPU_MACHINE = Hardware(16, 256 * GIB, 512 * GIB, gpus=H100, driver="580.1")

Change = dict[str, Any]  # fields of a spec


@dataclass(frozen=True)
class Case:
    """An engine, a spec that fits a tiny model, and what must and must not change or be taken.

    All build without a GPU. ``weights``: the file of a built engine that holds the model; empty: it has no files.
    ``starts``: its process can be started here; else only its command is looked at.
    """

    name: str
    spec: EngineSpec
    hardware: Hardware
    settings: Callable[[Path], EngineSettings] = lambda root: LocalSettings(str(root))
    rebuilds: tuple[Change, ...] = ()  # each gives another digest
    serves: tuple[Change, ...] = ()  # none of them does
    refuses: tuple[tuple[Change, str], ...] = ()  # with the field that the refusal names, or its beginning
    metrics: frozenset[str] = frozenset({"requests_running", "requests_waiting"})
    usage: Usage = "parsed"
    starts: bool = False
    weights: str = ""

    def open(self, root: Path) -> EngineKind:
        """The engine, with its directory below ``root``."""
        return open_engine(self.spec.kind, self.settings(root))

    def model(self, folder: Path) -> ModelVersion:
        """A model that it can build from."""
        return write_tiny(folder).version


_OURS = frozenset({"requests_running", "requests_waiting", "tokens_in_total", "tokens_out_total"})
_SERVING: tuple[Change, ...] = ({"slots": 1}, {"drain_s": 1.0}, {"prefix_reuse": False}, {"environment": {"A": "1"}})

# what no engine takes, whatever it is
UNIVERSAL: tuple[tuple[Change, str], ...] = (
    ({"kind": "nothing"}, "kind"),
    ({"quantization": "Q9"}, "quantization"),
    ({"kv_cache_dtype": "int3"}, "kv_cache_dtype"),
    ({"slots": 0}, "slots"),
    ({"context": 0}, "context"),
    ({"threads": 0}, "threads"),
    ({"max_queue": -1}, "max_queue"),
    ({"drain_s": -1.0}, "drain_s"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"chunked_prefill": -1}, "chunked_prefill"),
    ({"tensor_parallel": 0}, "tensor_parallel"),
    ({"pipeline_parallel": 0}, "pipeline_parallel"),
    ({"memory_fraction": 1.5}, "memory_fraction"),
    ({"speculative": Speculative("draft")}, "speculative"),
    ({"speculative": Speculative("ngram", draft_model="x")}, "speculative"),
    ({"environment": {"A B": "1"}}, "environment"),
    ({"options": {"no_such_option": 1}}, "options"),
    ({"flags": ("--no-such-flag",)}, "flags"),
)

MEMORY = Case(
    "memory",
    EngineSpec(context=128),
    MACHINE,
    settings=lambda root: MemorySettings(),
    rebuilds=({"quantization": "F16"},),
    serves=_SERVING,
    metrics=_OURS,
    usage="engine",
)
LLAMA_CPP = Case(
    "llama_cpp",
    EngineSpec(context=128),
    MACHINE,
    rebuilds=({"quantization": "F16"},),
    serves=(
        *_SERVING,
        {"max_queue": 0},
        {"kv_cache_dtype": "q8_0"},
        {"speculative": Speculative("ngram")},
        {"options": {"n_ubatch": 64}},
    ),
    refuses=(
        ({"context": 4096}, "context"),
        ({"threads": 1000}, "threads"),
        ({"tensor_parallel": 2}, "tensor_parallel"),
        ({"recipe": "tensorrt"}, "recipe"),
        ({"container": ContainerSpec()}, "container"),
        ({"dtype": "float16"}, "dtype"),
    ),
    metrics=_OURS | {"requests_refused_total", "tokens_cached_total"},
    usage="engine",
    starts=True,
    weights="model.gguf",
)
VLLM = Case(
    "vllm",
    EngineSpec(kind="vllm", context=128),
    MACHINE,
    settings=lambda root: LocalSettings(str(root), vllm_python=vllm_interpreter(root.parents[1] / "vllm")),
    serves=(*_SERVING, {"options": {}}),
    refuses=(
        ({"context": 4096}, "context"),
        ({"tensor_parallel": 3}, "tensor_parallel"),
        ({"recipe": "tensorrt"}, "recipe"),
    ),
    metrics=_OURS | {"ttft_s", "tpot_s", "kv_cache_used"},
    weights="model/model.safetensors",
)


def trtllm_settings(root: Path) -> LocalSettings:
    """An interpreter of this environment beside the stand-ins for TensorRT-LLM's programs."""
    place = root.parents[1] / "trtllm"
    place.mkdir(exist_ok=True)
    for name, program in (
        ("python", sys.executable),
        *((tool, TOOLS / "bin" / tool) for tool in ("trtllm-serve", "trtllm-build")),
    ):
        (place / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (place / name).chmod(0o755)
    return LocalSettings(str(root), trtllm_python=str(place / "python"))


TENSORRT_LLM = Case(
    "tensorrt_llm",
    EngineSpec(kind="tensorrt_llm", version="1.2.1", context=128, container=ContainerSpec()),
    GPU_MACHINE,
    rebuilds=({"version": "1.1.0"},),
    serves=_SERVING,
    refuses=(
        ({"context": 4096}, "context"),
        ({"tensor_parallel": 3}, "tensor_parallel"),
        ({"version": "0.1"}, "version"),
        ({"recipe": "none"}, "recipe"),
    ),
    metrics=frozenset({"requests_running", "requests_waiting", "kv_cache_used"}),
    weights="checkpoint/model.safetensors",
)
TENSORRT_ENGINE = Case(
    "tensorrt_engine",
    EngineSpec(kind="tensorrt_llm", version="1.2.1", recipe="tensorrt", context=128, environment=environment()),
    GPU_MACHINE,
    settings=trtllm_settings,
    rebuilds=({"tensor_parallel": 2}, {"quantization": "fp8"}, {"slots": 1}),
    serves=({"drain_s": 1.0}, {"memory_fraction": 0.5}),
    refuses=(
        ({"context": 4096}, "context"),
        ({"tensor_parallel": 3}, "tensor_parallel"),
        ({"version": "1.3.0"}, ""),
    ),
    metrics=TENSORRT_LLM.metrics,
    weights="engine/rank0.engine",
)
CASES = (MEMORY, LLAMA_CPP, VLLM, TENSORRT_LLM, TENSORRT_ENGINE)
