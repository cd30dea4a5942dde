"""Specs of TensorRT-LLM for tests: the cases that are written down per version, and how a plan is made of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_models import write_tiny
from trtllm_builds import hopper

from engines.hardware import Hardware
from engines.port import BuildPlan, ContainerSpec, EngineSpec, LocalSettings, Speculative
from engines.trtllm.engine import TensorRtLlm
from rollout.nouns import ModelVersion

VERSIONS = ("1.1.0", "1.2.1", "1.3.0rc15", "1.3.0rc22")
SPEC = EngineSpec(kind="tensorrt_llm", version="1.2.1", slots=8, context=256, container=ContainerSpec())
CASES: dict[str, dict[str, Any]] = {
    "tp4_fp8_kv": {"tensor_parallel": 4, "kv_cache_dtype": "fp8", "slots": 64},
    "ngram": {"speculative": Speculative("ngram", tokens=5), "chunked_prefill": 0},
    "draft": {"speculative": Speculative("draft", "models:/small/1"), "tensor_parallel": 2},
    "tensorrt": {"recipe": "tensorrt", "quantization": "fp8", "kv_cache_dtype": "fp8", "tensor_parallel": 2},
    "quantised": {"quantization": "nvfp4", "environment": {"MODELOPT_EXAMPLES": "/opt/modelopt", "HF_TOKEN": "hf_abc"}},
    "two_nodes": {
        "tensor_parallel": 4,
        "options": {"gpus_per_node": 2, "stream_interval": 4},
        "flags": ("--log_level", "debug"),
    },
}


@dataclass(frozen=True)
class Place:
    """A directory with a model, a draft model and engines."""

    root: Path
    model: ModelVersion
    draft: ModelVersion

    def kind(self) -> TensorRtLlm:
        """The engine."""
        return TensorRtLlm(LocalSettings(str(self.root / "engines")), now=lambda: 0.0)

    def plan(self, hardware: Hardware | None = None, **changes: Any) -> BuildPlan:
        """The plan of SPEC with changes, on eight H100 where nothing else is said."""
        spec = replace(SPEC, **changes)
        draft = self.draft if spec.speculative.method == "draft" else None
        return self.kind().plan(self.model, spec, hardware or hopper(8), draft)


def write_place(root: Path) -> Place:
    """Two tiny models of the same vocabulary."""
    return Place(root, write_tiny(root / "tiny").version, write_tiny(root / "small").version)
