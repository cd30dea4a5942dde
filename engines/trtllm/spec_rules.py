"""What can be said of a TensorRT-LLM spec without a model, and of a model, a split and a draft together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from engines.checks import check_spec
from engines.model_folder import check_folder, check_tokenizer
from engines.port import EngineSpec, Faults
from engines.sizing.rules import check_parallel
from engines.sizing.shape import ModelShape
from engines.trtllm.contract import Contract
from engines.trtllm.recipe_spec import HF_PTQ, QUANTIZE, calibration_of, recipe_of, step_tokens
from engines.vocabulary import tokens_of_folder
from rollout.errors import Corrupt, Refused
from rollout.nouns import ModelVersion

RECIPES = ("pytorch", "tensorrt")
_KV = {"pytorch": ("auto", "fp8", "nvfp4"), "tensorrt": ("auto", "fp8", "int8")}
_DTYPES = ("auto", "float16", "bfloat16", "float32")
_DRAFT = "speculative.draft_model"


def check_fields(spec: EngineSpec) -> None:
    """The fields by themselves, whatever the version. Raises Refused."""
    if spec.recipe not in ("", *RECIPES):
        raise Refused("recipe", spec.recipe, "there is no such recipe", f"use one of: {', '.join(RECIPES)}")
    recipe = recipe_of(spec)
    formats = tuple(dict.fromkeys(("none", *(HF_PTQ if recipe == "pytorch" else QUANTIZE))))
    check_spec(spec, tuple(dict.fromkeys((*formats, *HF_PTQ, *QUANTIZE))))
    for field, value, known in (("kv_cache_dtype", spec.kv_cache_dtype, _KV[recipe]), ("dtype", spec.dtype, _DTYPES)):
        if value not in known:
            raise Refused(field, value, f"recipe {recipe} does not have it", f"use one of: {', '.join(known)}")
    if spec.faults != Faults():
        given = ", ".join(name for name, value in asdict(spec.faults).items() if value)
        raise Refused("faults", given, "only llama.cpp's server of ours can have them", "remove faults")
    calibration_of(spec)
    if not spec.chunked_prefill and step_tokens(spec) < spec.context:
        rule = f"prompts are never split (chunked_prefill 0), so one of up to {spec.context} tokens must fit a step"
        fix = f"set max_tokens to {spec.context} or leave it out, or chunked_prefill to 2048"
        raise Refused("max_tokens", spec.max_tokens, rule, fix)


def check_recipe_exists(spec: EngineSpec, contract: Contract) -> None:
    """The version has what the recipe needs. Raises Refused."""
    if recipe_of(spec) not in contract.backends:
        rule = f"TensorRT-LLM {contract.version} has no TensorRT engines: they ended before 1.3.0rc22"
        raise Refused("recipe", spec.recipe, rule, "use recipe pytorch, or a version up to 1.2.1")


def check_files(model: ModelVersion, field: str = "model") -> None:
    """A whole Hugging Face folder, by the heads of its files. Raises Refused, and Corrupt for damaged ones."""
    if model.format != "safetensors":
        rule = f"TensorRT-LLM reads a Hugging Face folder with safetensors, and {model.name} is {model.format}"
        raise Refused(field, model.format, rule, "register the original folder, or use engine llama_cpp")
    try:
        check_tokenizer(Path(model.directory))
    except Corrupt as bad:
        what, _, fix = str(bad).partition("; ")
        raise Refused("tokenizer", model.name, what, fix or "add tokenizer.json to the model") from bad
    check_folder(Path(model.directory))


def check_stored(spec: EngineSpec, shape: ModelShape) -> None:
    """What the checkpoint is already. Raises Refused."""
    if recipe_of(spec) == "tensorrt" and shape.quantization:
        rule = f"the checkpoint is stored as {shape.quantization}, and recipe tensorrt starts from 16 bits"
        raise Refused("recipe", "tensorrt", rule, "use recipe pytorch, or the unquantised model")
    stages = spec.options.get("pp_partition")
    if stages and sum(stages) != shape.layers:
        rule = f"its sum is {sum(stages)} and the model has {shape.layers} layers"
        raise Refused("options.pp_partition", stages, rule, f"give numbers that sum to {shape.layers}")


def check_draft_model(spec: EngineSpec, model: ModelVersion, draft: ModelVersion, shape: ModelShape) -> None:
    """The draft model is split as the model is, and has its tokens. Raises Refused."""
    try:
        check_parallel(shape, spec.tensor_parallel, spec.pipeline_parallel, 1, "none", "tensorrt_llm")
    except Refused as bad:
        rule = f"it is split as the model is, and {bad.field} {bad.value}: {bad.rule}"
        raise Refused(_DRAFT, draft.name, rule, f"take another draft model, or for this one {bad.fix}") from bad
    ours, theirs = (set(tokens_of_folder(Path(each.directory))) for each in (model, draft))
    if ours and theirs and ours != theirs:
        rule = f"its tokenizer has {len(theirs)} tokens and the model's {len(ours)}, {len(ours & theirs)} in both"
        raise Refused(_DRAFT, draft.name, rule, "take a small model of the same family, with the same tokenizer")
