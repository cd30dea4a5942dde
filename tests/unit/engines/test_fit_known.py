"""Verdicts on models and GPUs whose answer is public knowledge, and what a refusal says."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fit_models import model

from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Speculative
from engines.sizing.fit import check_fit, kv_cache_bytes, least_sm, to_build_for, vllm_utilization
from engines.sizing.gpu_catalogue import hardware_of
from engines.sizing.measure import Demand, demand_of, fit, fit_on, tokens_per_step
from engines.sizing.memory import CUDA_CONTEXT, GIB
from engines.sizing.plan import plan_on
from engines.sizing.recommend import alternatives
from rollout.errors import Refused

NONE = Hardware(cores=8, memory_bytes=64 * GIB, disk_free_bytes=GIB, gpu_note="no NVIDIA driver")


def on(gpus: str) -> Hardware:
    return hardware_of(gpus, NONE)


@pytest.mark.parametrize(
    ("name", "weights", "gpus", "tensor", "fits"),
    [
        ("llama-3.1-8b", "none", "1xL4", 1, True),
        ("llama-3.1-8b", "none", "1xT4", 1, False),  # 15 GiB of weights on 14.5
        ("llama-3.1-8b", "int4_awq", "1xT4", 1, True),
        ("llama-3.1-70b", "none", "1xH100", 1, False),
        ("llama-3.1-70b", "none", "4xH100", 4, True),
        ("llama-3.1-70b", "none", "8xA100-40G", 8, True),
        ("llama-3.1-70b", "none", "4xL40S", 4, True),
        ("llama-3.1-70b", "none", "2xL40S", 2, False),
        ("llama-3.1-70b", "fp8", "2xH100", 2, True),
        ("llama-3.1-70b", "fp8", "2xL40S", 2, True),
        ("llama-3.1-70b", "int4_awq", "1xH100", 1, True),
        ("llama-3.1-70b", "int4_awq", "1xRTX4090", 1, False),
        ("llama-3.1-70b", "int4_awq", "2xRTX4090", 2, True),
        ("mixtral-8x7b", "none", "1xH100", 1, False),
        ("mixtral-8x7b", "none", "2xA100", 2, True),
        ("mixtral-8x7b", "int4_awq", "1xL40S", 1, True),
        ("llama-3.1-405b-fp8", "fp8", "8xH100", 8, True),
        ("llama-3.1-405b-fp8", "none", "8xH100", 8, False),
        ("llama-3.1-405b-fp8", "none", "8xH200", 8, True),
        ("deepseek-v3", "none", "8xH100", 8, False),
        ("deepseek-v3", "none", "8xH200", 8, True),
        ("qwen3-235b-a22b-fp8", "none", "4xH100", 4, True),
        ("gemma-3-27b", "none", "1xH100", 1, True),
    ],
)
def test_what_is_known_to_fit_fits(name, weights, gpus, tensor, fits):
    """Requests of 4,096 tokens, on one instance over all the GPUs."""
    demand = Demand(tensor=tensor, weights=weights, context=4096)
    assert fit_on(model(name), demand, on(gpus)).fits is fits


def test_70b_on_four_h100_holds_about_half_a_million_tokens():
    """80 KiB a token and GPU; weights are 33 of 79 GiB."""
    found = check_fit(model("llama-3.1-70b"), Demand(tensor=4, slots=16, context=8192), on("4xH100"))
    assert 450_000 < found.kv_tokens < 520_000
    assert found.sequences == found.kv_tokens // 8192


@pytest.mark.parametrize(
    ("name", "gpus", "tensor", "pipeline"),
    [
        ("llama-3.1-8b", "8xH100", 1, 1),
        ("llama-3.1-70b", "4xH100", 4, 1),
        ("llama-3.1-70b", "3xH100", 1, 3),  # 64 heads are not divided by 3; 2 GPUs hold 7 of 16 requests
        ("deepseek-v3", "8xH200", 8, 1),
        ("smollm2-135m", "4xL4", 1, 1),
    ],
)
def test_the_fewest_gpus_that_hold_all_slots_are_recommended(name, gpus, tensor, pipeline):
    """16 slots of 8,192 tokens; pipelines only where tensor parallelism cannot hold them."""
    told = plan_on(model(name), Demand(slots=16, context=8192), on(gpus))
    assert (told.option.tensor, told.option.pipeline, told.refusal) == (tensor, pipeline, None)


def test_int4_fits_one_gpu_where_plain_weights_need_two():
    """The alternatives name a split for each format."""
    found = {a.weights: a for a in alternatives(model("llama-3.1-70b"), Demand(context=8192), on("4xH100"))}
    assert (found["int4_awq"].tensor, found["fp8"].tensor, found["bf16"].tensor) == (1, 1, 2)
    assert all(option.works for option in found.values())


def test_a_refusal_names_the_number_and_what_fits():
    """Weights, what is free, and other weights on the same GPU."""
    with pytest.raises(Refused) as refused:
        check_fit(model("llama-3.1-70b"), Demand(context=4096), on("1xH100"))
    assert "weights 131.4 GiB" in str(refused.value)
    assert "79.1 GiB free per GPU" in str(refused.value)
    assert "int4_awq at TP 1" in str(refused.value)
    check_fit(model("llama-3.1-70b"), Demand(context=4096, weights="int4_awq"), on("1xH100"))


def test_a_refusal_offers_the_longest_context_that_fits():
    """And that one does fit, while 64 tokens more do not."""
    demand = Demand(context=131_072)
    with pytest.raises(Refused) as refused:
        check_fit(model("llama-3.1-8b"), demand, on("1xL4"))
    longest = int(re.search(r"context (\d+)", str(refused.value))[1])
    check_fit(model("llama-3.1-8b"), replace(demand, context=longest), on("1xL4"))
    with pytest.raises(Refused):
        check_fit(model("llama-3.1-8b"), replace(demand, context=longest + 64), on("1xL4"))


def test_a_refusal_offers_a_larger_share_where_that_is_enough():
    """And one request fits with it, while with 0.01 less it does not."""
    demand = Demand(context=8192, memory_fraction=0.1)
    with pytest.raises(Refused) as refused:
        check_fit(model("llama-3.1-8b"), demand, on("1xL4"))
    share = float(re.search(r"memory_fraction (0\.\d+)", str(refused.value))[1])
    check_fit(model("llama-3.1-8b"), replace(demand, memory_fraction=share), on("1xL4"))
    with pytest.raises(Refused):
        check_fit(model("llama-3.1-8b"), replace(demand, memory_fraction=share - 0.01), on("1xL4"))


def test_a_refusal_says_how_much_is_missing_where_nothing_helps():
    """DeepSeek-V3 on eight H100: each is short of some GiB."""
    told = plan_on(model("deepseek-v3"), Demand(context=8192), on("8xH100"))
    assert told.option.tensor == 8
    assert "fp8_block at TP 8, is 3." in str(told.refusal)
    assert "use more or larger GPUs" in str(told.refusal)


@pytest.mark.parametrize(
    ("demand", "gpus", "field", "remedy"),
    [
        (Demand(tensor=4), "2xH100", "tensor_parallel x pipeline_parallel", "at most 2"),
        (Demand(context=200_000), "1xH100", "context", "at most 131072"),
        (Demand("tensorrt_llm", weights="fp8"), "1xA100", "quantization", "a GPU that has it"),
        (Demand(kv_dtype="nvfp4"), "1xH100", "kv_cache_dtype", "auto"),
        (Demand(weights="int3"), "1xH100", "quantization", "int4_awq"),
        (Demand(kv_dtype="int3"), "1xH100", "kv_cache_dtype", "fp8"),
        (Demand(dtype="bfloat16"), "1xT4", "quantization", "dtype auto or float16"),
        (Demand("tensorrt_llm"), "1xT4", "quantization", "engine vllm or llama_cpp"),
    ],
)
def test_what_the_gpus_cannot_do_is_refused(demand, gpus, field, remedy):
    """Too few of them, too old for the format, a context beyond the model's, a format that does not exist."""
    with pytest.raises(Refused) as refused:
        check_fit(model("llama-3.1-8b"), demand, on(gpus))
    assert refused.value.field == field
    assert remedy in refused.value.args[0]


def test_a_bfloat16_checkpoint_is_served_in_float16_where_there_is_no_bfloat16():
    """vLLM converts it on Turing, as long as nobody asks for bfloat16; on Ampere nothing changes."""
    small = model("llama-3.1-8b")
    for gpus, weights in (("2xT4", "fp16"), ("1xL4", "bf16")):
        told = plan_on(small, Demand(context=512), on(gpus))
        assert (told.refusal, told.option.weights, told.alternatives[0].works) == (None, weights, True)
    assert plan_on(small, Demand(context=512, dtype="bfloat16"), on("2xT4")).refusal.field == "quantization"
    assert plan_on(small, Demand("tensorrt_llm", context=512), on("2xT4")).refusal.field == "quantization"


def test_plain_weights_in_another_dtype_are_judged_by_it():
    """A bfloat16 checkpoint served in float16 runs on GPUs that know no bfloat16."""
    demand = Demand(dtype="float16", context=512, slots=1)
    assert check_fit(model("smollm2-135m"), demand, on("1xT4")).fits


def test_tensorrt_llm_without_a_gpu_is_refused_and_vllm_uses_memory():
    """The note of the hardware is in the refusal."""
    with pytest.raises(Refused, match="no NVIDIA driver"):
        check_fit(model("smollm2-135m"), Demand("tensorrt_llm"), NONE)
    assert check_fit(model("smollm2-135m"), Demand("vllm", tensor=3), NONE).fits


def test_on_a_cpu_the_cache_is_what_the_slots_need():
    """And no more than the share of what is left of each rank's part of the memory."""
    shape, demand = model("smollm2-135m"), Demand(slots=4, context=1000)
    assert kv_cache_bytes(shape, demand, 64 * GIB) == 4 * 1024 * 23_040  # blocks of 128 tokens
    assert kv_cache_bytes(shape, replace(demand, tensor=3), 64 * GIB) == 4 * 1024 * 7_680
    assert kv_cache_bytes(shape, replace(demand, slots=4096), 4 * GIB) < 0.85 * 4 * GIB


def test_vllms_share_is_of_the_whole_gpu():
    """Weights and all, with 4 digits, and never more than vLLM finds free beside its context."""
    found = fit(model("llama-3.1-8b"), Demand(), 80 * GIB)
    share = vllm_utilization(found, 80 * GIB)
    assert 0 <= (found.fixed_bytes + found.kv_bytes) / (80 * GIB) - share < 0.0001
    full = fit(model("llama-3.1-8b"), Demand(memory_fraction=0.999), 80 * GIB)
    assert vllm_utilization(full, 80 * GIB) * 80 * GIB <= 80 * GIB - CUDA_CONTEXT


def test_a_draft_model_takes_its_weights_and_cache():
    """Speculation with a draft leaves fewer tokens; both caches grow with each token."""
    target, draft = model("llama-3.1-70b"), model("llama-3.1-8b")
    alone = fit(target, Demand(tensor=4), 80 * GIB)
    both = fit(target, Demand(tensor=4), 80 * GIB, draft=draft)
    assert both.kv_token_bytes == alone.kv_token_bytes + 32_768
    assert both.weights_bytes - alone.weights_bytes == pytest.approx(4.02e9, rel=0.01)
    assert both.kv_tokens < alone.kv_tokens


@pytest.mark.parametrize(
    ("spec", "tokens"),
    [
        (EngineSpec("vllm"), 2048),
        (EngineSpec("vllm", max_tokens=512), 512),
        (EngineSpec("vllm", chunked_prefill=0, context=4096), 4096),
        (EngineSpec("vllm", slots=4000), 4000),
        (EngineSpec("vllm", slots=1000, speculative=Speculative("ngram", tokens=4)), 5000),
    ],
)
def test_tokens_of_a_step_follow_from_the_spec(spec, tokens):
    """Asked for; or the chunk; or a whole prompt; and at least one for each slot and guess."""
    assert tokens_per_step(spec) == demand_of(spec).max_tokens == tokens


def test_what_others_hold_is_not_free():
    """A GPU with 60 GiB in use is planned with the rest, and the emptiest GPUs are taken."""
    busy, idle = (Gpu(i, f"GPU-{i}", "H100", 80 * GIB, free * GIB, (9, 0)) for i, free in ((0, 20), (1, 79)))
    hardware = replace(NONE, gpus=(busy, idle))
    assert fit_on(model("llama-3.1-8b"), Demand(), hardware).free_bytes == 79 * GIB
    assert fit_on(model("llama-3.1-8b"), Demand(tensor=2), hardware).free_bytes == 20 * GIB


def test_what_is_built_is_judged_by_emptied_gpus_where_they_are_full():
    """Else no release could ask for room on a busy machine; one that fits now is judged as it is."""
    shape, demand = model("llama-3.1-8b"), Demand(slots=8, context=8192)
    empty = on("2xH100")
    full = replace(empty, gpus=tuple(replace(gpu, free_bytes=8 * GIB) for gpu in empty.gpus))
    with pytest.raises(Refused):
        check_fit(shape, demand, full)
    assert check_fit(shape, demand, to_build_for(shape, demand, full)).largest_slots > 8
    assert to_build_for(shape, demand, empty) == empty
    with pytest.raises(Refused):
        check_fit(model("llama-3.1-70b"), demand, to_build_for(model("llama-3.1-70b"), demand, full))


def test_the_gpus_that_compute_a_format_are_told():
    """FP8 from Ada, NVFP4 from Blackwell; of a mixed machine those are taken that can, however free the others are."""
    shape = model("llama-3.1-8b")
    fp8, fp4 = (Demand("tensorrt_llm", weights=name, context=1024) for name in ("fp8", "nvfp4"))
    assert least_sm(shape, fp8, on("1xH100")) == 89
    assert least_sm(shape, fp4, on("1xB200")) == 100
    mixed = replace(on("1xH100"), gpus=(*on("2xA100").gpus, *on("1xH100").gpus))
    assert check_fit(shape, fp8, mixed).fits
    with pytest.raises(Refused, match=r"8\.9"):
        check_fit(shape, replace(fp8, tensor=2), mixed)
