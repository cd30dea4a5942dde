"""What an engine spec means to the recipes of TensorRT-LLM: names of formats and scripts, sizes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from engines.port import EngineSpec
from engines.sizing.fit import tokens_per_step
from rollout.errors import Refused

# Folders of an engine directory.
ENGINE, CHECKPOINT, TOKENIZER, DRAFT, WORK = "engine", "checkpoint", "tokenizer", "draft", "work"
WITHOUT_TENSORRT = Version("1.3.0rc22")  # the first release whose package has no tensorrt dependency
EXAMPLES = "/app/tensorrt_llm/examples"  # in NVIDIA's release images
EXAMPLES_KEY, MODELOPT_KEY = "TRTLLM_EXAMPLES", "MODELOPT_EXAMPLES"  # environment: where the scripts are elsewhere

# Ours -> quantize.py's --qformat ("tensorrt"), None where convert_checkpoint.py does it without calibration.
QUANTIZE: dict[str, str | None] = {
    "none": None,
    "int8_wo": None,
    "int4_wo": None,
    "fp8": "fp8",
    "int8_sq": "int8_sq",
    "int4_awq": "int4_awq",
    "w4a8_awq": "w4a8_awq",
    "nvfp4": "nvfp4",
}
# Ours -> hf_ptq.py's --qformat ("pytorch").
HF_PTQ = {
    "fp8": "fp8",
    "fp8_block": "fp8_pb_wo",
    "int8_wo": "int8_wo",
    "int4_awq": "int4_awq",
    "w4a8_awq": "w4a8_awq",
    "nvfp4": "nvfp4",
}
# What the tools write as quant_algo; the first is today's name.
ALGORITHMS: dict[str, tuple[str | None, ...]] = {
    "none": (None,),
    "int8_wo": ("W8A16",),
    "int4_wo": ("W4A16",),
    "fp8": ("FP8",),
    "fp8_block": ("FP8_PB_WO", "fp8_pb_wo", "FP8_BLOCK_SCALES"),
    "int8_sq": ("W8A8_SQ_PER_CHANNEL",),
    "int4_awq": ("W4A16_AWQ",),
    "w4a8_awq": ("W4A8_AWQ",),
    "nvfp4": ("NVFP4",),
}
KV_ALGORITHMS: dict[str, str | None] = {"auto": None, "fp8": "FP8", "int8": "INT8", "nvfp4": "NVFP4"}
FP8_ATTENTION = ("fp8", "w4a8_awq", "nvfp4")  # with these, FP8 keys and values can be paged (builder.py, 1.0 .. 1.3)


@dataclass(frozen=True)
class Family:
    """A folder of examples/models/core, and what its convert_checkpoint.py can do."""

    folder: str
    pipeline: bool = True
    experts: bool = True


_FAMILIES = {
    "llama": Family("llama"),
    "qwen": Family("qwen"),
    "gemma": Family("gemma", pipeline=False, experts=False),
    "phi": Family("phi", pipeline=False),
}
FAMILIES = {
    **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"), _FAMILIES["llama"]),
    **dict.fromkeys(
        ("QWenLMHeadModel", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        _FAMILIES["qwen"],
    ),
    **dict.fromkeys(("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"), _FAMILIES["gemma"]),
    **dict.fromkeys(("PhiForCausalLM", "Phi3ForCausalLM", "PhiMoEForCausalLM"), _FAMILIES["phi"]),
}


@dataclass(frozen=True)
class Calibration:
    """How quantisation learns its scales: ``options: {build: {...}}`` of an engine file. Lengths in tokens."""

    calib_dataset: str = "cnn_dailymail"  # a data set of the Hugging Face hub, or for quantize.py a folder
    calib_size: int = 512  # samples; quantize.py itself takes 32 for AWQ
    calib_max_seq_length: int = 512
    awq_block_size: int = 128
    workers: int = 0  # ranks built at once; 0: all. The tool takes no more than it sees GPUs


def recipe_of(spec: EngineSpec) -> str:
    """ "pytorch" where none is named."""
    return spec.recipe or "pytorch"


def version_of(text: str) -> Version:
    """A version of TensorRT-LLM, such as 1.2.1 or 1.3.0rc15. Raises Refused."""
    try:
        return Version(text)
    except InvalidVersion as bad:
        raise Refused("version", text, "it is no version of TensorRT-LLM", "give it as in 1.2.1 or 1.3.0rc15") from bad


def calibration_of(spec: EngineSpec) -> Calibration:
    """``options.build``, checked. Raises Refused for a key or a value that means nothing."""
    given = spec.options.get("build") or {}
    known = Calibration.__dataclass_fields__
    if not isinstance(given, Mapping) or set(given) - set(known):
        unknown = ", ".join(sorted(set(given) - set(known))) if isinstance(given, Mapping) else repr(given)
        raise Refused("options.build", unknown, "the build does not know it", f"use: {', '.join(known)}")
    for name, value in given.items():
        if not isinstance(value, type(known[name].default)) or (isinstance(value, int) and value < 0):
            raise Refused(f"options.build.{name}", value, "it must be text or a whole number from 0", "correct it")
    return Calibration(**given)


def step_tokens(spec: EngineSpec) -> int:
    """Tokens of one step over all requests, as for every engine; drafts of lookahead decoding count as well."""
    return spec.max_tokens or max(tokens_per_step(spec), spec.slots * (lookahead(spec) + 1))


def lookahead(spec: EngineSpec) -> int:
    """The longest draft of lookahead decoding, 0 without it: (N - 2, 0 for N = 1) + (W - 1 + G) * (N - 1) for window W,
    n-gram N, verification set G (TensorRT-LLM, examples/lookahead). It is asked for as ``options.speculative_config``,
    since a TensorRT engine is built for it. Raises Refused where one of the three is not stated."""
    config = spec.options.get("speculative_config")
    if not isinstance(config, Mapping) or config.get("decoding_type") != "Lookahead":
        return 0
    keys = ("max_window_size", "max_ngram_size", "max_verification_set_size")
    for key in keys:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise Refused(
                f"options.speculative_config.{key}", config.get(key), "the engine is built for it", "state it"
            )
    w, n, g = (config[key] for key in keys)
    return max(n - 2, 0) + (w - 1 + g) * (n - 1)


def paged_context(spec: EngineSpec) -> bool:
    """Whether prompts must be attended over paged keys and values: for chunks of prompts and reuse of beginnings."""
    return spec.prefix_reuse or spec.chunked_prefill > 0


def facts(spec: EngineSpec) -> dict[str, Any]:
    """What a checkpoint or engine must say of itself to be the one that was asked for."""
    return {
        "tp_size": spec.tensor_parallel,
        "pp_size": spec.pipeline_parallel,
        "world_size": spec.tensor_parallel * spec.pipeline_parallel,
        "dtype": spec.dtype,
        "quant_algo": list(ALGORITHMS[spec.quantization]),
        "kv_cache_quant_algo": KV_ALGORITHMS[spec.kv_cache_dtype],
    }


def calibrated(spec: EngineSpec) -> bool:
    """Whether the checkpoint is written by quantize.py, which runs the model, and not by convert_checkpoint.py."""
    return QUANTIZE[spec.quantization] is not None or spec.kv_cache_dtype != "auto"
