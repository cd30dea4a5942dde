"""What holds for any model, demand and memory."""

from __future__ import annotations

from dataclasses import replace

from fit_models import MORE, model
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.hardware import Hardware
from engines.sizing.fit import check_fit, vllm_utilization
from engines.sizing.gpu_catalogue import gpu_names, hardware_of
from engines.sizing.measure import Demand, fit
from engines.sizing.memory import GIB, weight_bytes
from engines.sizing.plan import plan_on
from rollout.errors import Refused

NONE = Hardware(cores=8, memory_bytes=64 * GIB, disk_free_bytes=GIB)
shapes = st.sampled_from(("llama-3.1-8b", "mixtral-8x7b", "gemma-3-27b", "deepseek-v3", *MORE)).map(model)
gib = st.floats(0.5, 300).map(lambda size: int(size * GIB))
demands = st.builds(
    Demand,
    engine=st.sampled_from(("vllm", "tensorrt_llm")),
    tensor=st.sampled_from((1, 2, 3, 4, 8)),
    pipeline=st.integers(1, 3),
    kv_dtype=st.sampled_from(("auto", "fp8", "nvfp4")),
    memory_fraction=st.floats(0.05, 0.99),
    slots=st.integers(1, 512),
    context=st.integers(64, 40_000),
    max_tokens=st.integers(1, 16_384),
    device=st.sampled_from(("gpu", "cpu")),
)
few = settings(max_examples=60, deadline=None)


@few
@given(shapes, demands, gib, st.integers(0, 100 * GIB))
def test_more_memory_never_holds_less(shape, demand, size, more):
    """Tokens, requests and slots grow with the memory of the GPU; what fits keeps fitting."""
    small, large = fit(shape, demand, size), fit(shape, demand, size + more)
    assert small.fits <= large.fits
    assert (small.kv_tokens, small.sequences, small.largest_slots) <= (large.kv_tokens, 10**9, 10**9)
    assert small.sequences <= large.sequences
    assert small.largest_slots <= large.largest_slots


@few
@given(shapes, demands, gib)
def test_what_is_planned_is_there(shape, demand, size):
    """Weights, activations, runtime and cache are never more than is free, and the cache holds what is said."""
    found = fit(shape, demand, size)
    assert not found.fits or found.fixed_bytes + found.kv_bytes <= size
    assert found.sequences * found.sequence_bytes <= found.kv_bytes
    assert found.fits == (found.sequences >= 1)
    assert found.largest_slots == 0 or fit(shape, replace(demand, slots=found.largest_slots), size).fits
    assert 0 <= vllm_utilization(found, size) <= 1


@few
@given(shapes, demands, gib, st.floats(0, 0.9))
def test_a_larger_share_never_holds_fewer_tokens(shape, demand, size, less):
    """``memory_fraction`` is monotone."""
    smaller = replace(demand, memory_fraction=max(0.01, demand.memory_fraction * less))
    assert fit(shape, smaller, size).kv_tokens <= fit(shape, demand, size).kv_tokens


@few
@given(shapes, st.sampled_from((1, 2, 4, 8)), st.integers(1, 4))
def test_more_gpus_never_hold_more_weights_each(shape, tensor, pipeline):
    """Twice the tensor parallelism or one stage more: no GPU gets more, and all of them at least the model."""
    held = weight_bytes(shape, "none", tensor, pipeline).total
    assert weight_bytes(shape, "none", 2 * tensor, pipeline).total <= held
    assert weight_bytes(shape, "none", tensor, pipeline + 1).total <= held
    assert held * tensor * pipeline >= weight_bytes(shape).total


@few
@given(shapes, demands, st.sampled_from(gpu_names()), st.integers(1, 8))
def test_every_question_has_an_answer(shape, demand, kind, count):
    """A fit or a refusal with a fix; what is recommended fits where there is no refusal."""
    hardware = hardware_of(f"{count}x{kind}", NONE)
    try:
        told = plan_on(shape, demand, hardware)
    except Refused as refusal:
        assert "Fix: " in str(refusal)
        return
    assert (told.refusal is None) == told.option.works
    assert told.refusal is None or "Fix: " in str(told.refusal)
    if told.refusal is None:
        assert told.option.tensor * told.option.pipeline <= count
        assert check_fit(shape, told.demand, hardware) == told.option.fit
