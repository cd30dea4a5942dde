"""The commands of a build, by recipe and version, and what the recipes refuse."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from engines.port import BuildStep, EngineSpec, Speculative
from engines.trtllm.recipe_rules import check_recipe
from engines.trtllm.recipe_spec import ALGORITHMS, HF_PTQ, QUANTIZE, lookahead, step_tokens
from engines.trtllm.recipes import build_steps
from rollout.command import Container
from rollout.errors import Refused

GOLDEN = Path(__file__).parent / "golden"
LLAMA, GEMMA, QWEN_MOE, PHI = "LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM", "Phi3ForCausalLM"
MODELOPT = {"MODELOPT_EXAMPLES": "/opt/modelopt/examples/llm_ptq"}
LOOKAHEAD = {
    "decoding_type": "Lookahead",
    "max_window_size": 4,
    "max_ngram_size": 3,
    "max_verification_set_size": 4,
}
BIG = {"slots": 64, "context": 8192, "tensor_parallel": 4}


def spec(recipe: str = "tensorrt", **more: object) -> EngineSpec:
    """A spec of TensorRT-LLM."""
    return EngineSpec(kind="tensorrt_llm", recipe=recipe, **more)  # type: ignore[arg-type]


CASES = {
    "1.1.0-tensorrt-bf16-tp4": ("1.1.0", LLAMA, spec(**BIG)),
    "1.2.1-tensorrt-bf16-tp4-pp2": ("1.2.1", LLAMA, spec(**BIG, pipeline_parallel=2)),
    "1.2.1-tensorrt-fp8-kv8": ("1.2.1", LLAMA, spec(**BIG, quantization="fp8", kv_cache_dtype="fp8")),
    "1.2.1-tensorrt-int4-awq": ("1.2.1", LLAMA, spec(**BIG, quantization="int4_awq")),
    "1.2.1-tensorrt-gemma-int8": ("1.2.1", GEMMA, spec(tensor_parallel=2, quantization="int8_wo")),
    "1.2.1-tensorrt-moe-ep2": ("1.2.1", QWEN_MOE, spec(**BIG, expert_parallel=2)),
    "1.2.1-tensorrt-phi-unsplit-prompts": (
        "1.2.1",
        PHI,
        spec(chunked_prefill=0, prefix_reuse=False, kv_cache_dtype="int8", dtype="float16"),
    ),
    "1.2.1-tensorrt-lookahead": ("1.2.1", LLAMA, spec(slots=128, options={"speculative_config": LOOKAHEAD})),
    "1.3.0rc15-tensorrt-bf16": ("1.3.0rc15", LLAMA, spec()),
    "1.1.0-pytorch-none": ("1.1.0", LLAMA, spec("pytorch", **BIG)),
    "1.2.1-pytorch-fp8": ("1.2.1", LLAMA, spec("", quantization="fp8", environment=MODELOPT)),
    "1.2.1-pytorch-int4-awq-kv8": (
        "1.2.1",
        LLAMA,
        spec("pytorch", quantization="int4_awq", kv_cache_dtype="fp8", environment=MODELOPT),
    ),
    "1.3.0rc29-pytorch-fp8-block": (
        "1.3.0rc29",
        "DeepseekV3ForCausalLM",
        spec("pytorch", quantization="fp8_block", environment=MODELOPT),
    ),
}


def text(steps: tuple[BuildStep, ...]) -> str:
    """Readable: a step's name, then its words, a flag a line."""
    lines = []
    for step in steps:
        words = ["PYTHON" if word == sys.executable else word for word in step.command.argv]
        lines += [f"# {step.name}", shlex.join(words).replace(" --", " \\\n  --")]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_a_spec_becomes_the_commands_of_its_version(name: str) -> None:
    """Word for word; ROUNDHOUSE_REWRITE_GOLDEN=1 writes them anew."""
    version, architecture, given = CASES[name]
    found = text(build_steps("/models/m", "{out}", given, version, architecture, None))
    if os.environ.get("ROUNDHOUSE_REWRITE_GOLDEN"):
        (GOLDEN / f"{name}.txt").write_text(found)
    assert found == (GOLDEN / f"{name}.txt").read_text()


REFUSED = {
    "no TensorRT from rc22": (spec(), "1.3.0rc22", LLAMA, "recipe"),
    "no TensorRT in 1.3": (spec(), "1.3.0", LLAMA, "recipe"),
    "no version": (spec("pytorch"), "newest", LLAMA, "version"),
    "architecture without a script": (spec(), "1.2.1", "GptOssForCausalLM", "architecture"),
    "block FP8 in a TensorRT engine": (spec(quantization="fp8_block"), "1.2.1", LLAMA, "quantization"),
    "SmoothQuant for PyTorch": (spec("pytorch", quantization="int8_sq"), "1.2.1", LLAMA, "quantization"),
    "int4_wo for PyTorch": (spec("pytorch", quantization="int4_wo"), "1.2.1", LLAMA, "quantization"),
    "Gemma by pipeline": (spec(pipeline_parallel=2), "1.2.1", GEMMA, "pipeline_parallel"),
    "Phi by pipeline": (spec(pipeline_parallel=2), "1.2.1", PHI, "pipeline_parallel"),
    "experts of a calibrated one": (
        spec(tensor_parallel=2, expert_parallel=2, quantization="fp8"),
        "1.2.1",
        QWEN_MOE,
        "expert_parallel",
    ),
    "experts that do not divide": (spec(tensor_parallel=4, expert_parallel=3), "1.2.1", QWEN_MOE, "expert_parallel"),
    "draft model for TensorRT": (spec(speculative=Speculative("draft", "m")), "1.2.1", LLAMA, "speculative.method"),
    "FP8 cache of an AWQ engine": (
        spec(quantization="int4_awq", kv_cache_dtype="fp8"),
        "1.2.1",
        LLAMA,
        "kv_cache_dtype",
    ),
    "INT8 cache with reuse": (spec(kv_cache_dtype="int8"), "1.2.1", LLAMA, "kv_cache_dtype"),
    "NVFP4 cache of a TensorRT engine": (spec(kv_cache_dtype="nvfp4"), "1.2.1", LLAMA, "kv_cache_dtype"),
    "INT8 cache of PyTorch": (spec("pytorch", kv_cache_dtype="int8"), "1.2.1", LLAMA, "kv_cache_dtype"),
    "NVFP4 cache, unquantised": (spec("pytorch", kv_cache_dtype="nvfp4"), "1.2.1", LLAMA, "kv_cache_dtype"),
    "ModelOpt's script unnamed": (
        spec("pytorch", quantization="fp8"),
        "1.2.1",
        LLAMA,
        "environment.MODELOPT_EXAMPLES",
    ),
    "unknown build option": (spec(options={"build": {"calib": 1}}), "1.2.1", LLAMA, "options.build"),
    "build option of another type": (
        spec(options={"build": {"calib_size": "512"}}),
        "1.2.1",
        LLAMA,
        "options.build.calib_size",
    ),
    "lookahead half stated": (
        spec(options={"speculative_config": {"decoding_type": "Lookahead", "max_window_size": 4}}),
        "1.2.1",
        LLAMA,
        "options.speculative_config.max_ngram_size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_recipe_cannot_do_is_refused(name: str) -> None:
    """By the field, before any command is made."""
    given, version, architecture, field = REFUSED[name]
    with pytest.raises(Refused) as refused:
        build_steps("/models/m", "{out}", given, version, architecture, None)
    assert refused.value.field == field


def test_integer_formats_are_refused_on_blackwell_alone() -> None:
    """SM 100 has no INT8 and INT4 kernels for TensorRT engines; SM 90 and 120 are not refused, and FP8 is not."""
    integer, fp8 = spec(quantization="int8_wo"), spec(quantization="fp8")
    for given, sm in ((integer, 90), (integer, 120), (fp8, 100)):
        check_recipe(given, "1.2.1", LLAMA, sm)
    with pytest.raises(Refused, match="SM 100"):
        check_recipe(integer, "1.2.1", LLAMA, 100)


def test_a_quantised_checkpoint_makes_no_tensorrt_engine() -> None:
    """It serves on the PyTorch backend as it is."""
    check_recipe(spec("pytorch"), "1.2.1", LLAMA, stored="fp8")
    with pytest.raises(Refused, match="quantised already"):
        check_recipe(spec(), "1.2.1", LLAMA, stored="fp8")


def test_nvfp4_keys_and_values_need_their_scales() -> None:
    """A checkpoint that was stored with them has them; another says so before any command is made."""
    given = spec("pytorch", kv_cache_dtype="nvfp4")
    (check, link) = build_steps("/m", "/e", given, "1.2.1", LLAMA, None, stored_kv="nvfp4")
    assert (check.name, link.name) == ("check model files", "link files")
    with pytest.raises(Refused, match="this one has none"):
        check_recipe(given, "1.2.1", LLAMA, stored_kv="fp8")


def test_a_container_sees_model_and_output_where_they_are() -> None:
    """Same paths inside; the model is read only; our own checks stay outside; no usage statistics are sent."""
    image = Container("nvcr.io/nvidia/tensorrt-llm/release:1.2.1", gpus=("GPU-1",))
    given = spec("pytorch", quantization="fp8", environment={**MODELOPT, "HF_TOKEN": "hf_0123456789"})
    steps = build_steps("/models/m", "{out}", given, "1.2.1", LLAMA, image, python="/venv/bin/python")
    inside = next(step.command for step in steps if step.command.container)
    assert inside.container is not None and inside.container.gpus == ("GPU-1",)
    mounts = {mount.inside: (mount.host, mount.read_only) for mount in inside.container.mounts}
    assert mounts == {
        "/models/m": ("/models/m", True),
        MODELOPT["MODELOPT_EXAMPLES"]: (MODELOPT["MODELOPT_EXAMPLES"], True),
        "{out}": ("{out}", False),
    }
    assert inside.argv[0] == "python3" and inside.env["TRTLLM_NO_USAGE_STATS"] == "1"
    assert [step.name for step in steps if not step.command.container] == ["check model files"]


def test_an_interpreter_brings_its_own_trtllm_build() -> None:
    """Outside a container the tools are those beside the interpreter that is named."""
    steps = build_steps("/m", "/e", spec(), "1.2.1", LLAMA, None, python="/opt/trt/bin/python")
    programs = {step.name: step.command.argv[0] for step in steps}
    assert programs["convert checkpoint"] == "/opt/trt/bin/python"
    assert programs["build engine"] == "/opt/trt/bin/trtllm-build"


def test_a_step_holds_every_slot_and_its_drafts() -> None:
    """As the builder would raise it: batch x (draft + 1); what is asked for stays."""
    given = spec(slots=256, chunked_prefill=1024, options={"speculative_config": LOOKAHEAD})
    assert lookahead(given) == 1 + (4 - 1 + 4) * 2
    assert step_tokens(given) == 256 * 16
    assert step_tokens(spec(max_tokens=4096)) == 4096


def test_each_format_has_one_name_in_its_output() -> None:
    """What can be asked for of either tool can be recognised afterwards."""
    assert set(ALGORITHMS) == set(QUANTIZE) | set(HF_PTQ)
