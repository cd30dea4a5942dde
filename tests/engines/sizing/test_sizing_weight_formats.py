"""Bytes per weight, what "none" and "auto" mean for a model, and which GPUs compute what."""

from __future__ import annotations

import pytest
from public_models import MODELS, QUANTISED

from engines.sizing.shape import read_shape
from engines.sizing.weight_formats import KV_BYTES, WEIGHTS, check_hardware, kv_dtype_of, weights_of
from rollout.errors import Refused

LLAMA = MODELS["meta-llama/Llama-3.1-8B"]["config"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("bf16", 2.0),
        ("fp32", 4.0),
        ("fp8", 1.0),
        ("fp8_block", 1 + 4 / 128 / 128),
        ("int8_sq", 1.0),
        ("int4_awq", (128 * 4 + 16 + 4) / 8 / 128),
        ("nvfp4", (16 * 4 + 8) / 8 / 16),
        ("mxfp4", (32 * 4 + 8) / 8 / 32),
    ],
)
def test_bytes_per_weight_include_scales(name: str, size: float) -> None:
    """A weight counts its own bits and its part of the scale of its group."""
    assert WEIGHTS[name].bytes_per_weight == pytest.approx(size)


def test_none_is_the_checkpoint_as_it_is() -> None:
    """Unquantised weights have the checkpoint's dtype; quantised ones their format, with the checkpoint's group."""
    assert weights_of(read_shape(LLAMA | {"torch_dtype": "float32"}), "none").name == "fp32"
    assert weights_of(read_shape(LLAMA | {"dtype": "float16"}), "none").name == "fp16"
    assert weights_of(read_shape(LLAMA), "none").name == "bf16"
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}
    stored = weights_of(read_shape(LLAMA | quantised), "none")
    assert (stored.name, stored.group) == ("int4_awq", 64)


def test_quantised_checkpoint_is_not_quantised_again() -> None:
    """Another format than the stored one is refused, the stored one is not."""
    shape = read_shape(QUANTISED["Qwen/Qwen2.5-7B-Instruct-AWQ"]["config"])
    assert weights_of(shape, "int4_awq").name == "int4_awq"
    with pytest.raises(Refused, match="already stored as int4_awq"):
        weights_of(shape, "fp8")


def test_unknown_formats_are_refused() -> None:
    """A format nobody knows is refused with those that are known."""
    with pytest.raises(Refused, match="int4_awq"):
        weights_of(read_shape(LLAMA), "fp7")
    with pytest.raises(Refused, match="int4_awq"):
        check_hardware("fp7", "auto", 90)
    with pytest.raises(Refused, match="nvfp4"):
        kv_dtype_of(read_shape(LLAMA), "fp7")


def test_auto_keys_and_values_follow_the_checkpoint() -> None:
    """ "auto" is what the checkpoint asks for, else its dtype in 16 bits."""
    asks = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    assert kv_dtype_of(read_shape(LLAMA, asks), "auto") == "fp8"
    assert kv_dtype_of(read_shape(LLAMA), "auto") == "bfloat16"
    assert kv_dtype_of(read_shape(LLAMA | {"torch_dtype": "float32"}), "auto") == "float16"
    assert KV_BYTES["nvfp4"] == 9 / 16


@pytest.mark.parametrize(
    ("weights", "kv", "sm", "engine"),
    [
        ("fp8", "auto", 89, "tensorrt_llm"),
        ("fp8", "fp8", 90, "tensorrt_llm"),
        ("fp8", "auto", 80, "vllm"),  # Marlin takes FP8 weights with 16-bit inputs
        ("int4_awq", "fp8", 80, "tensorrt_llm"),
        ("nvfp4", "nvfp4", 100, "tensorrt_llm"),
        ("nvfp4", "auto", 90, "vllm"),
        ("Q8_0", "q8_0", 60, "llama_cpp"),
    ],
)
def test_what_a_gpu_can_compute_is_not_refused(weights: str, kv: str, sm: int, engine: str) -> None:
    """Formats from the first generation that has them on."""
    check_hardware(weights, kv, sm, engine)


@pytest.mark.parametrize(
    ("weights", "kv", "sm", "engine", "field", "said"),
    [
        ("fp8", "auto", 80, "tensorrt_llm", "quantization", "8.9 (Ada)"),
        ("fp8_block", "auto", 89, "tensorrt_llm", "quantization", "9.0 (Hopper)"),
        ("nvfp4", "auto", 90, "tensorrt_llm", "quantization", "10.0 (Blackwell)"),
        ("bf16", "auto", 75, "vllm", "quantization", "8.0 (Ampere)"),
        ("fp16", "fp8", 75, "vllm", "kv_cache_dtype", "8.0 (Ampere)"),
        ("fp8", "nvfp4", 90, "tensorrt_llm", "kv_cache_dtype", "10.0 (Blackwell)"),
    ],
)
def test_what_a_gpu_cannot_compute_is_refused(
    weights: str, kv: str, sm: int, engine: str, field: str, said: str
) -> None:
    """The refusal names the generation that is needed, what this GPU has, and formats that it can compute."""
    with pytest.raises(Refused) as refused:
        check_hardware(weights, kv, sm, engine)
    assert refused.value.field == field
    assert said in refused.value.rule and f"{sm / 10:.1f}" in refused.value.rule


def test_remedy_for_an_old_gpu_works() -> None:
    """What is offered instead does run on that GPU."""
    with pytest.raises(Refused) as refused:
        check_hardware("nvfp4", "auto", 80, "tensorrt_llm")
    able = refused.value.fix.rpartition(": ")[2].split(", ")
    assert "int4_awq" in able and "fp8" not in able
    for name in able:
        check_hardware(name, "auto", 80, "tensorrt_llm")
