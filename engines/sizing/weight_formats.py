"""Formats of weights and of keys and values: bytes, groups that share a scale, and the GPUs that can compute them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.sizing.shape import ModelShape
from rollout.errors import Refused

GENERATIONS = {75: "Turing", 80: "Ampere", 89: "Ada", 90: "Hopper", 100: "Blackwell"}  # by compute capability


@dataclass(frozen=True)
class WeightFormat:
    """How the matrices of the layers are stored, and the least compute capability that computes it (90 is 9.0).

    Sources. ``min_sm``, TensorRT-LLM: its support matrix (FP8 from Ada, block FP8 from Hopper, NVFP4 from Blackwell,
    W4A16 from Ampere). ``vllm_sm``, vLLM 0.32: ``get_min_capability`` of each method under
    ``model_executor/layers/quantization``; lower, because Marlin kernels take FP8 and FP4 weights with 16-bit inputs.
    """

    name: str
    bits: int  # of one weight
    group: int = 0  # weights that share a scale; 0: one per channel or tensor, whose bytes do not count
    scale_bytes: float = 0.0  # of a group, zero point included
    min_sm: int = 80
    vllm_sm: int = 75
    experts_only: bool = False  # all but the routed experts stay in 16 bits
    quantises_embeddings: bool = False  # neither the input nor the output matrix, in any of these

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of one weight with its part of a scale."""
        return self.bits / 8 + (self.scale_bytes / self.group if self.group else 0.0)

    def needs_sm(self, engine: str) -> int:
        """Least compute capability with that engine."""
        return self.vllm_sm if engine == "vllm" else self.min_sm


_INT4 = 2.5  # a group of AWQ or GPTQ: a 16-bit scale and a 4-bit zero point
WEIGHTS = {
    f.name: f
    for f in (
        WeightFormat("none", 16),
        WeightFormat("fp16", 16),
        WeightFormat("bf16", 16, vllm_sm=80),
        WeightFormat("fp32", 32),
        WeightFormat("fp8", 8, min_sm=89),
        WeightFormat("fp8_block", 8, 128, 4 / 128, min_sm=90),  # one 32-bit scale for 128 x 128
        WeightFormat("int8_sq", 8),
        WeightFormat("int8_wo", 8),
        WeightFormat("int4_wo", 4),
        WeightFormat("int8_gptq", 8, 128, 3.0, vllm_sm=60),
        WeightFormat("int4_awq", 4, 128, _INT4),
        WeightFormat("int4_gptq", 4, 128, _INT4, vllm_sm=60),
        WeightFormat("w4a8_awq", 4, 128, _INT4, min_sm=89, vllm_sm=90),
        WeightFormat("nvfp4", 4, 16, 1.0, min_sm=100),
        WeightFormat("mxfp4", 4, 32, 1.0, min_sm=90, vllm_sm=80, experts_only=True),
    )
}
_BY_DTYPE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

# Bytes of one number of the KV cache. ggml's blocks hold 32 numbers and 16-bit scales (ggml-common.h).
KV_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
    "nvfp4": 9 / 16,
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}
_KV_SM = {"fp8": 80, "fp8_e4m3": 80, "fp8_e5m2": 80, "int8": 80, "nvfp4": 100}  # FP8 keys and values work from Ampere


def weights_of(shape: ModelShape, asked: str) -> WeightFormat:
    """The format that the weights will have; "none" is the checkpoint's own, with its own group size.

    Raises Refused for an unknown format, and where a quantised checkpoint is asked to be quantised otherwise.
    """
    known = _known(asked)
    if not shape.quantization:
        return WEIGHTS[_BY_DTYPE[shape.dtype]] if asked == "none" else known
    if asked not in ("none", shape.quantization):
        rule = f"the checkpoint is already stored as {shape.quantization}"
        raise Refused("quantization", asked, rule, "use none, or the unquantised checkpoint")
    stored = WEIGHTS[shape.quantization]
    return replace(stored, group=shape.group_size) if stored.scale_bytes else stored


def served_as(shape: ModelShape, asked: str, dtype: str, engine: str, sm: int) -> str:
    """The format that the weights are computed in by GPUs of which the oldest has compute capability ``sm``.

    What is not quantised follows ``dtype``; under "auto" vLLM makes float16 of bfloat16 where a GPU has none
    (vllm/config/model.py: _resolve_auto_dtype; vllm/platforms/cuda.py: supported_dtypes). Raises Refused.
    """
    name = weights_of(shape, asked).name
    if name not in _BY_DTYPE.values():
        return name
    converted = engine == "vllm" and asked == "none" and name == "bf16" and sm < WEIGHTS["bf16"].vllm_sm
    return _BY_DTYPE.get(dtype, "fp16" if converted else name)


def kv_dtype_of(shape: ModelShape, asked: str) -> str:
    """The key of ``KV_BYTES`` that "auto" means for a model: what its checkpoint asks for, else 16 bits.

    Engines keep no 32-bit cache for a 32-bit checkpoint: they compute it in 16 bits. Raises Refused.
    """
    if asked == "auto":
        return shape.kv_quantization or ("float16" if shape.dtype == "float32" else shape.dtype)
    if asked not in KV_BYTES:
        raise Refused("kv_cache_dtype", asked, "there is no such dtype", f"use auto, {', '.join(KV_BYTES)}")
    return asked


def check_hardware(weight_format: str, kv_dtype: str, sm: int, engine: str = "tensorrt_llm") -> None:
    """Refuse formats that a GPU of compute capability ``sm`` (90 is 9.0) cannot compute with that engine.

    ``weight_format`` is the format that the weights will have (``weights_of(...).name``), ``kv_dtype`` "auto" or one
    of ``KV_BYTES``. llama.cpp computes anything anywhere. Raises Refused.
    """
    if engine == "llama_cpp":
        return
    for_weights = _known(weight_format).needs_sm(engine)
    if sm < for_weights:
        fix = _remedy(weight_format, sm, engine)
        raise Refused("quantization", weight_format, _needs(for_weights, sm, engine), fix)
    for_kv = _KV_SM.get(kv_dtype, 0)
    if sm < for_kv:
        raise Refused("kv_cache_dtype", kv_dtype, _needs(for_kv, sm, engine), "use auto, or a GPU that has it")


def _known(asked: str) -> WeightFormat:
    if asked not in WEIGHTS:
        raise Refused("quantization", asked, "there is no such format of weights", f"use one of: {', '.join(WEIGHTS)}")
    return WEIGHTS[asked]


def _remedy(weight_format: str, sm: int, engine: str) -> str:
    """What that GPU computes instead, or what else would compute the format."""
    able = [name for name, f in WEIGHTS.items() if f.needs_sm(engine) <= sm and name not in ("none", "fp32")]
    if not able:
        others = "vllm or llama_cpp" if sm >= WEIGHTS["fp16"].vllm_sm and engine != "vllm" else "llama_cpp"
        return f"use a newer GPU, or engine {others}"
    dtype = "dtype auto or float16, or " if (engine, weight_format) == ("vllm", "bf16") and "fp16" in able else ""
    return f"use a GPU that has it, or {dtype}one of: {', '.join(able)}"


def _needs(least: int, sm: int, engine: str) -> str:
    name = GENERATIONS.get(least, "newer")
    return f"{engine} needs compute capability {least / 10:.1f} ({name}) or later for it, this GPU has {sm / 10:.1f}"
