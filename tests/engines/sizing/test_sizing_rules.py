"""Which splits work: verdicts on public models, numbers and remedies, experts, pipelines, architectures."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from public_models import MODELS, QUANTISED

from engines.sizing.rules import check_architecture, check_parallel, possible_tensor_parallel
from engines.sizing.shape import ModelShape, read_shape
from rollout.errors import Refused

ENGINES = ("vllm", "tensorrt_llm")
TENSOR = (1, 2, 3, 4, 8)


def shape_of(name: str) -> ModelShape:
    """The shape of a model of the table."""
    return read_shape({**MODELS, **QUANTISED}[name]["config"])


def refusal(shape: ModelShape, *split: Any) -> Refused:
    """The refusal that a split meets."""
    with pytest.raises(Refused) as refused:
        check_parallel(shape, *split)
    return refused.value


def numbers(text: str) -> set[int]:
    """The whole numbers in a sentence."""
    return {int(n) for n in re.findall(r"\b\d+\b", text)}


def offered(fix: str) -> set[int]:
    """The tensor parallelisms that a remedy names."""
    found = re.search(r"tensor_parallel ([\d, or]+)", fix)
    return numbers(found.group(1)) if found else set()


def check_verdicts(shape: ModelShape, stored: dict[str, Any], engine: str, own_format: bool) -> None:
    """Every split of the table is allowed or refused as expected, and each refusal has its number and remedy."""
    own = {shape.heads, shape.kv_heads, shape.intermediate, shape.shared_intermediate, shape.moe_intermediate}
    own |= {shape.hidden, shape.attention_width, shape.kv_heads * shape.head_dim, shape.vision_heads} - {0}
    for (weights, works), tensor in product(stored.items(), TENSOR):
        asked = "none" if own_format else weights
        if tensor in works:
            check_parallel(shape, tensor, 1, 1, asked, engine)
            continue
        refused = refusal(shape, tensor, 1, 1, asked, engine)
        assert refused.value == (weights if refused.field == "quantization" else tensor)
        assert numbers(refused.rule) & own, refused
        assert {n for n in offered(refused.fix) if n <= 8} == set(works), refused
        for better in offered(refused.fix):
            check_parallel(shape, better, 1, 1, asked, engine)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_verdicts_on_public_models(name: str, engine: str) -> None:
    """Tensor parallelism 1, 2, 3, 4, 8 in five formats: yes and no are those derived from the published rules."""
    entry = MODELS[name]
    check_verdicts(read_shape(entry["config"]), entry.get(engine, entry["vllm"]), engine, own_format=False)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("engine", ENGINES)
def test_verdicts_on_quantised_models(name: str, engine: str) -> None:
    """A quantised checkpoint is split by its own groups."""
    entry = QUANTISED[name]
    check_verdicts(read_shape(entry["config"]), entry.get(engine, entry["vllm"]), engine, own_format=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_remedies_name_formats_that_work(engine: str) -> None:
    """Where another format of weights is offered, it does work."""
    seen = 0
    for entry in MODELS.values():
        shape = read_shape(entry["config"])
        for weights, tensor in product(("fp8_block", "int4_awq", "nvfp4"), TENSOR):
            try:
                check_parallel(shape, tensor, 1, 1, weights, engine)
            except Refused as refused:
                found = re.search(r"quantization ([\w, ]+)", refused.fix)
                for better in re.findall(r"\w+", found.group(1).replace(" or ", ", ")) if found else ():
                    seen += 1
                    check_parallel(shape, tensor, 1, 1, better, engine)
    assert seen > 50


def test_fewer_heads_than_ranks_copies_keys_and_values() -> None:
    """One KV head on two ranks is copied (gemma-2b); two on seven cannot be, though seven divides the 14 heads."""
    check_parallel(shape_of("google/gemma-2b"), 2, 1, 1, "none", "vllm")
    check_parallel(shape_of("meta-llama/Llama-3.1-8B"), 16, 1, 1, "none", "tensorrt_llm")
    refused = refusal(shape_of("Qwen/Qwen2.5-0.5B"), 7, 1, 1, "none", "vllm")
    assert (refused.field, refused.value) == ("tensor_parallel", 7)
    assert refused.rule == "num_key_value_heads is 2, which is neither a multiple nor a divisor of 7"
    assert refused.fix == "use tensor_parallel 1 or 2"


def test_nine_heads_on_three_ranks_only() -> None:
    """SmolLM2-135M: three ranks work; nine would copy its 3 KV heads but cannot divide 1536."""
    shape = shape_of("HuggingFaceTB/SmolLM2-135M")
    check_parallel(shape, 3, 1, 1, "none", "vllm")
    assert refusal(shape, 2, 1, 1, "none", "vllm").fix == "use tensor_parallel 1 or 3"
    assert "1536" in refusal(shape, 9, 1, 1, "none", "vllm").rule


def test_groups_are_counted_per_rank() -> None:
    """Qwen2.5-72B's 29568 is 231 groups of 128: one rank at most. The published AWQ checkpoint was padded for it."""
    refused = refusal(shape_of("Qwen/Qwen2.5-72B"), 8, 1, 1, "int4_awq", "vllm")
    assert {29568, 3696, 128} <= numbers(refused.rule)
    assert offered(refused.fix) == {1}
    assert "fp8" in refused.fix
    check_parallel(shape_of("Qwen/Qwen2.5-72B-Instruct-AWQ"), 8, 1, 1, "none", "vllm")


def test_format_that_fits_no_split_is_the_fault_of_the_format() -> None:
    """576 is no multiple of 128, so that INT4 with such groups is refused for SmolLM2-135M whatever the split."""
    refused = refusal(shape_of("HuggingFaceTB/SmolLM2-135M"), 1, 1, 1, "int4_awq", "tensorrt_llm")
    assert (refused.field, refused.value) == ("quantization", "int4_awq")
    assert {576, 128} <= numbers(refused.rule)
    assert "fp8" in refused.fix


def test_experts_whole_where_blocks_would_be_cut() -> None:
    """Block FP8 cuts Qwen3-30B-A3B's experts on four ranks; spread over them they stay whole, as the remedy says."""
    shape = shape_of("Qwen/Qwen3-30B-A3B-FP8")
    for engine in ENGINES:
        refused = refusal(shape, 4, 1, 1, "none", engine)
        assert {768, 192, 128} <= numbers(refused.rule)
        assert "expert_parallel 4" in refused.fix
        check_parallel(shape, 4, 1, 4, "none", engine)


def test_vllm_halves_the_groups_of_experts() -> None:
    """INT4 experts of 192 per rank: vLLM halves groups of 128, TensorRT-LLM refuses."""
    shape = shape_of("Qwen/Qwen3-30B-A3B")
    check_parallel(shape, 4, 1, 1, "int4_awq", "vllm")
    assert 192 in numbers(refusal(shape, 4, 1, 1, "int4_awq", "tensorrt_llm").rule)


@pytest.mark.parametrize(
    ("name", "engine", "tensor", "expert", "said"),
    [
        ("meta-llama/Llama-3.1-8B", "vllm", 2, 2, "no experts"),
        ("Qwen/Qwen3-30B-A3B", "vllm", 4, 2, "all 4 ranks"),
        ("Qwen/Qwen3-30B-A3B", "tensorrt_llm", 4, 3, "128 experts"),
        ("Qwen/Qwen1.5-MoE-A2.7B", "tensorrt_llm", 4, 3, "tensor_parallel is 4"),
        ("mistralai/Mixtral-8x7B-v0.1", "tensorrt_llm", 16, 16, "8 experts"),
    ],
)
def test_experts_that_cannot_be_spread(name: str, engine: str, tensor: int, expert: int, said: str) -> None:
    """Experts are spread as the engine can; the remedy names numbers that it can."""
    shape = shape_of(name)
    refused = refusal(shape, tensor, 1, expert, "none", engine)
    assert (refused.field, refused.value) == ("expert_parallel", expert)
    assert said in refused.rule
    for better in numbers(refused.fix):
        check_parallel(shape, tensor, 1, better, "none", engine)


@pytest.mark.parametrize(
    ("name", "engine", "tensor", "expert"),
    [
        ("Qwen/Qwen1.5-MoE-A2.7B", "vllm", 8, 8),  # 60 experts over 8 ranks: some have 8, some 7
        ("Qwen/Qwen3-30B-A3B", "tensorrt_llm", 8, 2),
        ("mistralai/Mixtral-8x7B-v0.1", "tensorrt_llm", 8, 8),
        ("deepseek-ai/DeepSeek-V3", "vllm", 16, 16),
    ],
)
def test_experts_that_can_be_spread(name: str, engine: str, tensor: int, expert: int) -> None:
    """What works is not refused."""
    check_parallel(shape_of(name), tensor, 1, expert, "none", engine)


def test_pipeline_has_a_layer_per_stage() -> None:
    """Stages may be uneven, but none empty."""
    shape = shape_of("meta-llama/Llama-3.1-8B")
    check_parallel(shape, 1, 32, 1, "none", "vllm")
    check_parallel(shape, 1, 5, 1, "none", "vllm")
    refused = refusal(shape, 1, 33, 1, "none", "vllm")
    assert (refused.field, refused.value, refused.fix) == ("pipeline_parallel", 33, "use pipeline_parallel 1 to 32")
    assert 32 in numbers(refused.rule)


@pytest.mark.parametrize("field", ["tensor_parallel", "pipeline_parallel", "expert_parallel"])
def test_nothing_is_split_over_no_ranks(field: str) -> None:
    """Zero of anything is refused."""
    split = [0 if field.startswith(part) else 1 for part in ("tensor", "pipeline", "expert")]
    assert refusal(shape_of("google/gemma-2b"), *split, "none", "vllm").field == field


def test_image_towers_are_split_by_vllm() -> None:
    """Gemma 3 27B has 32 heads, but its image tower 16, which vLLM splits too."""
    shape = shape_of("google/gemma-3-27b-it")
    check_parallel(shape, 32, 1, 1, "none", "tensorrt_llm")
    assert 16 in numbers(refusal(shape, 32, 1, 1, "none", "vllm").rule)


def test_keys_and_values_that_vllm_does_not_copy() -> None:
    """vLLM's GPT-OSS divides its 8 KV heads and copies none."""
    assert offered(refusal(shape_of("openai/gpt-oss-20b"), 16, 1, 1, "none", "vllm").fix) == {1, 2, 4, 8}


def test_llama_cpp_splits_anything() -> None:
    """llama.cpp splits by layers and rows of any size."""
    shape = shape_of("HuggingFaceTB/SmolLM2-135M")
    check_parallel(shape, 2, 1, 1, "none", "llama_cpp")
    assert possible_tensor_parallel(shape, "none", "llama_cpp", 4) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "recipe", "fix"),
    [
        ("microsoft/phi-2", "pytorch", "use recipe tensorrt, or engine vllm"),
        ("google/gemma-2-9b", "", "use recipe tensorrt, or engine vllm"),
        ("openai/gpt-oss-20b", "tensorrt", "use recipe pytorch, or engine vllm"),
        ("deepseek-ai/DeepSeek-V3", "tensorrt", "use recipe pytorch, or engine vllm"),
    ],
)
def test_architecture_that_a_recipe_does_not_know(name: str, recipe: str, fix: str) -> None:
    """An architecture outside of a recipe's list is refused, with what does run it."""
    shape = shape_of(name)
    with pytest.raises(Refused) as refused:
        check_architecture(shape, "tensorrt_llm", recipe)
    assert (refused.value.field, refused.value.value) == ("architectures", shape.architecture)
    assert refused.value.fix == fix
    check_architecture(shape, "vllm")


@pytest.mark.parametrize("recipe", ["pytorch", "tensorrt"])
def test_llama_is_known_to_each_recipe(recipe: str) -> None:
    """What both recipes run is refused by neither."""
    check_architecture(shape_of("meta-llama/Llama-3.1-8B"), "tensorrt_llm", recipe)
