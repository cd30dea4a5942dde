"""What the recipes of TensorRT-LLM cannot do, said before an hour is spent on it."""

from __future__ import annotations

from engines.port import EngineSpec
from engines.trtllm.recipe_spec import (
    FAMILIES,
    FP8_ATTENTION,
    HF_PTQ,
    MODELOPT_KEY,
    QUANTIZE,
    WITHOUT_TENSORRT,
    calibrated,
    calibration_of,
    paged_context,
    recipe_of,
    version_of,
)
from rollout.errors import Refused


def check_recipe(
    spec: EngineSpec, version: str, architecture: str, sm: int = 0, stored: str = "", stored_kv: str = ""
) -> None:
    """What can be said of a spec before anything is built. ``sm`` (90 for Hopper) 0: the GPU is not known yet.
    ``stored``, ``stored_kv``: how the checkpoint came, weights and keys and values. Raises Refused.
    """
    calibration_of(spec)
    if recipe_of(spec) == "tensorrt":
        if stored:
            raise Refused(
                "quantization",
                stored,
                "the checkpoint is quantised already, and TensorRT engines are built from unquantised ones",
                "use recipe pytorch, or the unquantised checkpoint",
            )
        _check_tensorrt(spec, version, architecture)
        _check_blackwell(spec, sm)
    else:
        _check_pytorch(spec, version, stored_kv)


def _check_tensorrt(spec: EngineSpec, version: str, architecture: str) -> None:
    if version_of(version) >= WITHOUT_TENSORRT:
        raise Refused(
            "recipe",
            "tensorrt",
            f"TensorRT-LLM {version} has no TensorRT engines: they ended with 1.3.0rc21",
            "use recipe pytorch, or a version up to 1.2.1",
        )
    if architecture not in FAMILIES:
        raise Refused(
            "architecture", architecture, f"trtllm-build is planned for {', '.join(FAMILIES)}", "use recipe pytorch"
        )
    if spec.quantization not in QUANTIZE:
        raise Refused(
            "quantization",
            spec.quantization,
            "quantize.py of TensorRT-LLM does not write it",
            f"use one of: {', '.join(QUANTIZE)}; or recipe pytorch",
        )
    family = FAMILIES[architecture]
    if spec.pipeline_parallel > 1 and not family.pipeline:
        raise Refused(
            "pipeline_parallel",
            spec.pipeline_parallel,
            f"convert_checkpoint.py of {family.folder} splits by tensors only",
            f"use pipeline_parallel 1 and tensor_parallel {spec.pipeline_parallel * spec.tensor_parallel}",
        )
    if spec.expert_parallel > 1 and (not family.experts or calibrated(spec)):
        raise Refused(
            "expert_parallel",
            spec.expert_parallel,
            "the script that writes this checkpoint cannot split experts",
            "use expert_parallel 1, or recipe pytorch",
        )
    if spec.tensor_parallel % spec.expert_parallel:
        raise Refused(
            "expert_parallel",
            spec.expert_parallel,
            f"it must divide tensor_parallel {spec.tensor_parallel}",
            "choose a divisor",
        )
    if spec.speculative.method != "none":
        raise Refused(
            "speculative.method",
            spec.speculative.method,
            "trtllm-serve drafts with a model or n-grams on its PyTorch backend only",
            "use recipe pytorch, or options.speculative_config of type Lookahead",
        )
    _check_paged(spec)


def _check_paged(spec: EngineSpec) -> None:
    """The builder quietly gives up paged context attention for some keys and values (builder.py); we do not."""
    if spec.kv_cache_dtype not in ("auto", "fp8", "int8"):
        raise Refused(
            "kv_cache_dtype",
            spec.kv_cache_dtype,
            "a TensorRT engine has keys and values as auto, fp8 or int8",
            "use one of these, or recipe pytorch",
        )
    fp8 = spec.kv_cache_dtype == "fp8" and spec.quantization not in FP8_ATTENTION
    if (fp8 or spec.kv_cache_dtype == "int8") and paged_context(spec):
        raise Refused(
            "kv_cache_dtype",
            spec.kv_cache_dtype,
            f"with weights as {spec.quantization} it excludes paged context attention, which "
            "chunked_prefill and prefix_reuse need",
            "set chunked_prefill 0 and prefix_reuse false, or kv_cache_dtype auto"
            + (f", or quantization {' or '.join(FP8_ATTENTION)}" if fp8 else ""),
        )


def _check_blackwell(spec: EngineSpec, sm: int) -> None:
    """builder.py refuses integer formats on SM 100 to 119."""
    integer = spec.quantization in ("int8_wo", "int4_wo", "int4_awq", "int8_sq") or spec.kv_cache_dtype == "int8"
    if 100 <= sm < 120 and integer:
        raise Refused(
            "quantization",
            spec.quantization,
            f"TensorRT engines have no INT8 or INT4 kernels for SM {sm}",
            "use fp8 or nvfp4, or recipe pytorch",
        )


def _check_pytorch(spec: EngineSpec, version: str, stored_kv: str) -> None:
    version_of(version)
    if spec.quantization == "int8_sq":
        raise Refused(
            "quantization",
            "int8_sq",
            "ModelOpt writes it for TensorRT engines only",
            "use recipe tensorrt, or quantization int8_wo or fp8",
        )
    if spec.quantization != "none" and spec.quantization not in HF_PTQ:
        raise Refused(
            "quantization",
            spec.quantization,
            "hf_ptq.py of ModelOpt does not write it",
            f"use one of: none, {', '.join(HF_PTQ)}",
        )
    if spec.kv_cache_dtype not in ("auto", "fp8", "nvfp4"):
        raise Refused(
            "kv_cache_dtype",
            spec.kv_cache_dtype,
            "the PyTorch backend has keys and values as auto, fp8 or nvfp4",
            "use one of these",
        )
    if spec.kv_cache_dtype == "nvfp4" and spec.quantization == "none" and stored_kv != "nvfp4":
        raise Refused(
            "kv_cache_dtype",
            "nvfp4",
            "its scales come with a quantised checkpoint, and this one has none",
            "use kv_cache_dtype fp8 or auto, or quantization nvfp4",
        )
    if spec.quantization != "none" and not spec.environment.get(MODELOPT_KEY):
        raise Refused(
            f"environment.{MODELOPT_KEY}",
            "",
            "hf_ptq.py is in ModelOpt's repository and not in its package",
            "clone NVIDIA/Model-Optimizer at the version that TensorRT-LLM pins and name its examples/llm_ptq folder",
        )
