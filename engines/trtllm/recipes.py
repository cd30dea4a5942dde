"""How a model becomes something that TensorRT-LLM serves: the commands, by recipe and version.

"tensorrt" (to 1.3.0rc21): convert or quantise to a checkpoint per rank, then ``trtllm-build``. "pytorch": the model's
files as they are, or quantised by ModelOpt. docs/trtllm-contract.md says what each tool takes and writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace

from engines.port import BuildStep, EngineSpec
from engines.trtllm.recipe_rules import check_recipe
from engines.trtllm.recipe_spec import (
    CHECKPOINT,
    ENGINE,
    EXAMPLES,
    EXAMPLES_KEY,
    FAMILIES,
    FP8_ATTENTION,
    HF_PTQ,
    MODELOPT_KEY,
    QUANTIZE,
    TOKENIZER,
    WORK,
    Family,
    calibrated,
    calibration_of,
    facts,
    lookahead,
    paged_context,
    recipe_of,
    step_tokens,
)
from rollout.command import Command, Container, Mount

_NO_USAGE_STATS = {"TRTLLM_NO_USAGE_STATS": "1"}


def build_steps(
    model_dir: str,
    out: str,
    spec: EngineSpec,
    version: str,
    architecture: str,
    image: Container | None,
    draft_dir: str | None = None,
    python: str = "python3",
    stored_kv: str = "",
) -> tuple[BuildStep, ...]:
    """The commands, in order, with every setting that matters stated. ``out`` is the engine directory or ``{out}``.

    In a container the model and ``out`` lie at the same paths as outside. ``python`` is the interpreter that has
    TensorRT-LLM (its folder has ``trtllm-build``). ``stored_kv`` is as in ``check_recipe``. A draft model's files are
    checked. Raises Refused.
    """
    check_recipe(spec, version, architecture, stored_kv=stored_kv)
    python = "python3" if image else python
    box = _mounted(image, model_dir, out, spec)
    if recipe_of(spec) == "tensorrt":
        return _tensorrt(model_dir, out, spec, architecture, box, python)
    folders = {"model": model_dir, **({"draft": draft_dir} if draft_dir else {})}
    checks = [BuildStep(f"check {role} files", _ours(["files", path])) for role, path in folders.items()]
    if spec.quantization == "none":
        return (*checks, BuildStep("link files", _ours(["link", model_dir, f"{out}/{CHECKPOINT}"])))
    quantise = _command(_hf_ptq(model_dir, f"{out}/{CHECKPOINT}", spec, python), spec, box)
    return (*checks, BuildStep("quantise", quantise))


def _tensorrt(
    model_dir: str, out: str, spec: EngineSpec, architecture: str, box: Container | None, python: str
) -> tuple[BuildStep, ...]:
    checkpoint = f"{out}/{WORK}/{CHECKPOINT}"
    write = _quantize if calibrated(spec) else _convert
    expected = json.dumps(facts(spec), sort_keys=True)
    return (
        BuildStep("check model files", _ours(["files", model_dir])),
        BuildStep(
            "quantise checkpoint" if calibrated(spec) else "convert checkpoint",
            _command(write(model_dir, checkpoint, spec, FAMILIES[architecture], python), spec, box),
        ),
        BuildStep("check checkpoint", _ours(["checkpoint", checkpoint, expected])),
        BuildStep("build engine", _command(_build(checkpoint, out, spec, python), spec, box)),
        BuildStep("copy tokenizer", _ours(["tokenizer", model_dir, f"{out}/{TOKENIZER}"])),
        BuildStep("clean up", Command(("rm", "-rf", f"{out}/{WORK}"), container=box)),
    )


def _convert(model_dir: str, checkpoint: str, spec: EngineSpec, family: Family, python: str) -> tuple[str, ...]:
    script = f"{_examples(spec)}/models/core/{family.folder}/convert_checkpoint.py"
    precision = {"int8_wo": "int8", "int4_wo": "int4"}.get(spec.quantization)
    weights = {"use_weight_only": None, "weight_only_precision": precision} if precision else {}
    if family.folder == "gemma":  # flags of its own, and tensor parallelism only
        paths = {"ckpt-type": "hf", "model-dir": model_dir, "output-model-dir": checkpoint}
        return (python, script, *_words({**paths, "dtype": spec.dtype, "world-size": spec.tensor_parallel, **weights}))
    sizes = {"tp_size": spec.tensor_parallel, "pp_size": spec.pipeline_parallel, "workers": 1}
    if spec.expert_parallel > 1:
        tensors = spec.tensor_parallel // spec.expert_parallel
        sizes |= {"moe_tp_size": tensors, "moe_ep_size": spec.expert_parallel}
    paths = {"model_dir": model_dir, "output_dir": checkpoint, "dtype": spec.dtype}
    return (python, script, *_words({**paths, **sizes, **weights}))


def _quantize(model_dir: str, checkpoint: str, spec: EngineSpec, family: Family, python: str) -> tuple[str, ...]:
    how = calibration_of(spec)
    qformat = QUANTIZE[spec.quantization] or {"none": "full_prec"}.get(spec.quantization, spec.quantization)
    awq = "awq" in qformat
    flags = {
        "model_dir": model_dir,
        "output_dir": checkpoint,
        "dtype": spec.dtype,
        "qformat": qformat,
        **({} if spec.kv_cache_dtype == "auto" else {"kv_cache_dtype": spec.kv_cache_dtype}),
        "calib_dataset": how.calib_dataset,
        "calib_size": min(how.calib_size, 32) if awq else how.calib_size,
        "calib_max_seq_length": how.calib_max_seq_length,
        **({"awq_block_size": how.awq_block_size} if awq else {}),
        "tp_size": spec.tensor_parallel,
        "pp_size": spec.pipeline_parallel,
    }
    return (python, f"{_examples(spec)}/quantization/quantize.py", *_words(flags))


def _build(checkpoint: str, out: str, spec: EngineSpec, python: str) -> tuple[str, ...]:
    """``trtllm-build``, which names no parallelism: that is in the checkpoint."""
    draft = lookahead(spec)
    flags = {
        "checkpoint_dir": checkpoint,
        "output_dir": f"{out}/{ENGINE}",
        "output_timing_cache": f"{out}/{WORK}/model.cache",  # else it is written where we stand
        "max_batch_size": spec.slots,
        "max_input_len": spec.context - 1,  # an answer has at least one token
        "max_seq_len": spec.context,
        "max_num_tokens": step_tokens(spec),
        "max_beam_width": 1,
        "kv_cache_type": "paged",
        "gemm_plugin": "auto",
        "remove_input_padding": "enable",
        "context_fmha": "enable",
        "use_paged_context_fmha": _switch(paged_context(spec)),
        "use_fp8_context_fmha": _switch(spec.kv_cache_dtype == "fp8" and spec.quantization in FP8_ATTENTION),
        "workers": calibration_of(spec).workers or spec.tensor_parallel * spec.pipeline_parallel,
        "log_level": "info",
        **({"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": draft} if draft else {}),
    }
    folder, slash, _ = python.rpartition("/")
    return (f"{folder}{slash}trtllm-build", *_words(flags))


def _hf_ptq(model_dir: str, checkpoint: str, spec: EngineSpec, python: str) -> tuple[str, ...]:
    """ModelOpt's script. --calib_seq is left out: 0.37, which 1.1 to 1.3 pin, need not know it; 512 is its default."""
    how = calibration_of(spec)
    flags = {
        "pyt_ckpt_path": model_dir,
        "export_path": checkpoint,
        "qformat": HF_PTQ[spec.quantization],
        "kv_cache_qformat": "none" if spec.kv_cache_dtype == "auto" else spec.kv_cache_dtype,  # unasked it takes fp8
        "dataset": how.calib_dataset,
        "calib_size": how.calib_size,
        "batch_size": 0,  # as large as fits
        **({"awq_block_size": how.awq_block_size} if "awq" in spec.quantization else {}),
    }
    return (python, f"{spec.environment[MODELOPT_KEY]}/hf_ptq.py", *_words(flags))


def _words(flags: Mapping[str, object]) -> tuple[str, ...]:
    """--name value; a switch has None."""
    pairs = ((f"--{name}",) if value is None else (f"--{name}", str(value)) for name, value in flags.items())
    return tuple(word for pair in pairs for word in pair)


def _examples(spec: EngineSpec) -> str:
    return spec.environment.get(EXAMPLES_KEY, EXAMPLES)


def _switch(on: bool) -> str:
    return "enable" if on else "disable"


def _ours(words: list[str]) -> Command:
    """One of our own checks, on the host."""
    return Command((sys.executable, "-m", "engines.trtllm", *words))


def _command(argv: tuple[str, ...], spec: EngineSpec, box: Container | None) -> Command:
    return Command(argv, {**_NO_USAGE_STATS, **spec.environment}, box)


def _mounted(image: Container | None, model_dir: str, out: str, spec: EngineSpec) -> Container | None:
    if image is None:
        return None
    scripts = (spec.environment[MODELOPT_KEY],) if spec.environment.get(MODELOPT_KEY) else ()
    read = tuple(Mount(path, path) for path in (model_dir, *scripts))  # NVIDIA's own scripts are in the image
    return replace(image, mounts=(*image.mounts, *read, Mount(out, out, read_only=False)))
