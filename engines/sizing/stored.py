"""The format that a checkpoint's weights are stored in, as its quantisation settings tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.sizing.keys import Keys
from rollout.errors import Refused

_MODELOPT = {  # tensorrt_llm/quantization/mode.py, QuantAlgo
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_BLOCK_SCALES": "fp8_block",
    "W8A16": "int8_wo",
    "W8A8_SQ_PER_CHANNEL": "int8_sq",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8_sq",
    "W4A16_AWQ": "int4_awq",
    "W4A16_GPTQ": "int4_gptq",
    "W4A8_AWQ": "w4a8_awq",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A8_MXFP4_MXFP8": "mxfp4",
}
_KV = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}
_NO_SIZE = "we cannot tell the size of weights stored so"
_TAKE_OTHER = "use the unquantised model, or one quantised with AWQ, GPTQ, FP8, NVFP4, MXFP4 or ModelOpt"


@dataclass(frozen=True)
class Stored:
    """Key of ``weight_formats.WEIGHTS`` ("": not quantised), weights per scale (0: per channel), KV cache dtype."""

    weights: str = ""
    group: int = 0
    kv: str = ""


def stored_format(config: Mapping[str, Any], quantization: Mapping[str, Any] | None) -> Stored:
    """What ``quantization_config`` of a ``config.json``, or ``hf_quant_config.json``, says. Raises Refused."""
    if quantization:
        return _modelopt(
            Keys(Keys({"hf_quant_config": quantization}).mapping("hf_quant_config"), prefix="hf_quant_config.")
        )
    if not config.get("quantization_config"):
        return Stored()
    keys = Keys(Keys(config).mapping("quantization_config"), prefix="quantization_config.")
    method = keys.raw("quant_method")
    match method:
        case "awq" | "awq_marlin":
            return Stored(_by_bits(keys, {4: "int4_awq"}), _group(keys))
        case "gptq" | "gptq_marlin":
            return Stored(_by_bits(keys, {4: "int4_gptq", 8: "int8_gptq"}), _group(keys))
        case "fp8" | "fbgemm_fp8":
            return Stored("fp8_block", _block(keys)) if keys.raw("weight_block_size") else Stored("fp8")
        case "mxfp4" | "gpt_oss_mxfp4":
            return Stored("mxfp4", 32)
        case "modelopt" | "modelopt_fp4":
            return _modelopt(keys)
        case "compressed-tensors":
            return _compressed_tensors(keys)
    raise Refused("quantization_config.quant_method", method, _NO_SIZE, _TAKE_OTHER)


def _by_bits(keys: Keys, formats: Mapping[int, str]) -> str:
    bits = keys.count("w_bit" if "w_bit" in keys.config else "bits")
    if bits not in formats:
        raise keys.refuse("bits", f"{' or '.join(map(str, formats))} bits are known for this method")
    return formats[bits]


def _block(keys: Keys) -> int:
    block = keys.items("weight_block_size", int) or [0]
    if min(block) < 1:
        raise keys.refuse("weight_block_size", "two sizes above 0 are needed")
    return max(block)


def _group(keys: Keys) -> int:
    """-1 and null mean one scale per column."""
    name = next((n for n in ("group_size", "q_group_size") if n in keys.config), "group_size")
    return 0 if keys.raw(name) in (None, -1) else keys.count(name)


def _modelopt(keys: Keys) -> Stored:
    inner = (
        Keys(keys.mapping("quantization"), prefix=keys.prefix + "quantization.")
        if "quantization" in keys.config
        else keys
    )
    algorithm, kv = inner.raw("quant_algo"), inner.raw("kv_cache_quant_algo")
    if algorithm is not None and (not isinstance(algorithm, str) or algorithm not in _MODELOPT):
        raise Refused(inner.prefix + "quant_algo", algorithm, _NO_SIZE, f"use one of: {', '.join(_MODELOPT)}")
    if kv is not None and (not isinstance(kv, str) or kv not in _KV):
        raise Refused(inner.prefix + "kv_cache_quant_algo", kv, _NO_SIZE, f"use one of: {', '.join(_KV)}")
    weights = _MODELOPT[algorithm] if algorithm else ""
    return Stored(weights, 128 if weights == "fp8_block" else _group(inner), _KV[kv] if kv else "")


def _compressed_tensors(keys: Keys) -> Stored:
    """Source: the format's own page, github.com/vllm-project/compressed-tensors (config_groups, kv_cache_scheme)."""
    groups = keys.mapping("config_groups")
    found = {_scheme(Keys(groups, prefix=keys.prefix + "config_groups."), name) for name in groups}
    if len(found) != 1:
        raise Refused(keys.prefix + "config_groups", sorted(map(str, groups)), _NO_SIZE, _TAKE_OTHER)
    weights, group = found.pop()
    kv = Keys(keys.mapping("kv_cache_scheme"), prefix=keys.prefix + "kv_cache_scheme.")
    return Stored(weights, group, ("fp8" if kv.raw("type") == "float" else "int8") if kv.config else "")


def _scheme(groups: Keys, name: str) -> tuple[str, int]:
    scheme = Keys(groups.mapping(name), prefix=f"{groups.prefix}{name}.")
    weights = Keys(scheme.mapping("weights"), prefix=f"{scheme.prefix}weights.")
    inputs = Keys(scheme.mapping("input_activations"), prefix=f"{scheme.prefix}input_activations.")
    kind, bits, group = weights.raw("type"), weights.count("num_bits"), _group(weights)
    match kind, bits:
        case "float", 8:
            return ("fp8_block", 128) if weights.raw("strategy") == "block" else ("fp8", 0)
        case "float", 4:
            return ("mxfp4", 32) if group == 32 else ("nvfp4", 16)
        case "int", 8:
            return ("int8_sq" if inputs.config else "int8_wo", group)
        case "int", 4:
            return ("w4a8_awq" if inputs.config else "int4_awq", group)
    raise weights.refuse("num_bits", _NO_SIZE)
