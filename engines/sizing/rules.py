"""Which ways of splitting a model over GPUs work, decided before anything is downloaded, converted or started.

The rules are those that the engines themselves assert. vLLM 0.32: ``ModelConfig.verify_with_parallel_config``,
``Attention`` of each model, ``FusedMoEConfig``, ``quantization/``. TensorRT-LLM: ``Attention``, ``Mapping``, ``Linear``
and the routing of experts under ``tensorrt_llm/_torch/modules``. Vocabulary needs no rule: it is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

from engines.sizing.shape import ModelShape
from engines.sizing.weight_formats import WEIGHTS, WeightFormat, weights_of
from rollout.errors import Refused

Broken = tuple[str, int | str, str]  # (field, value given, rule)
_SPLIT = ("vllm", "tensorrt_llm")
_WIDEST = 64  # tensor parallelism that remedies look at
_OFFERED = ("none", "fp8", "fp8_block", "int8_sq", "int8_wo", "int4_awq", "nvfp4", "mxfp4")  # by remedies
_LEAST_GROUP = 32  # vLLM's moe_wna16 halves the groups of experts down to this

_TRTLLM = {
    "pytorch": {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Mistral3ForConditionalGeneration",
        "MixtralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "DeepseekV3ForCausalLM",
        "GptOssForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Phi3ForCausalLM",
    },
    "tensorrt": {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "PhiForCausalLM",
        "Phi3ForCausalLM",
        "PhiMoEForCausalLM",
        "DeepseekV2ForCausalLM",
    },
}


def check_parallel(shape: ModelShape, tensor: int, pipeline: int, expert: int, weight_format: str, engine: str) -> None:
    """Refuse a split that the engine cannot make. ``weight_format`` is a key of ``WEIGHTS``; "none": as stored.

    Raises Refused with the number given, the rule, and the numbers that do work. llama.cpp splits anything.
    """
    if engine not in _SPLIT:
        return
    weights = weights_of(shape, weight_format)
    broken = next(_broken(shape, tensor, pipeline, expert, weights, engine), None)
    if broken:
        field, given, rule = broken
        raise Refused(field, given, rule, _remedy(shape, field, tensor, expert, weight_format, engine))


def possible_tensor_parallel(
    shape: ModelShape, weight_format: str, engine: str, limit: int, expert: int = 1
) -> tuple[int, ...]:
    """The tensor parallelisms from 1 to ``limit`` that work. ``expert`` over 1: vLLM then spreads experts over all
    ranks, TensorRT-LLM over that many. Raises Refused for an unknown format of weights."""
    if engine not in _SPLIT:
        return tuple(range(1, limit + 1))
    weights = weights_of(shape, weight_format)
    return tuple(
        n for n in range(1, limit + 1) if not any(_broken(shape, n, 1, _spread(engine, n, expert), weights, engine))
    )


def check_architecture(shape: ModelShape, engine: str, recipe: str = "") -> None:
    """Refuse an architecture that the engine does not run; ``recipe`` is TensorRT-LLM's, "" is "pytorch".

    Sources: TensorRT-LLM 1.2, ``register_auto_model`` and ``tensorrt_llm/models/__init__.py: MODEL_MAP``. vLLM and
    llama.cpp run all that can be sized here. Raises Refused.
    """
    if engine != "tensorrt_llm" or shape.architecture in _TRTLLM.get(recipe or "pytorch", ()):
        return
    others = [name for name, known in _TRTLLM.items() if shape.architecture in known]
    fix = f"use recipe {others[0]}, or engine vllm" if others else "use engine vllm or llama_cpp"
    rule = f"TensorRT-LLM's {recipe or 'pytorch'} recipe does not know it"
    raise Refused("architectures", shape.architecture, rule, fix)


def _spread(engine: str, tensor: int, expert: int) -> int:
    return tensor if engine == "vllm" and expert > 1 else expert


def _broken(s: ModelShape, tensor: int, pipeline: int, expert: int, w: WeightFormat, engine: str) -> Iterator[Broken]:
    """The rules that a split breaks, one after the other; quantised groups come last."""
    for field, number in (("tensor_parallel", tensor), ("pipeline_parallel", pipeline), ("expert_parallel", expert)):
        if number < 1:
            yield field, number, "at least 1 is needed"
            return
    if pipeline > s.layers:
        yield "pipeline_parallel", pipeline, f"the model has {s.layers} layers, and each stage needs one"
    whole = [*_attention(s, tensor, engine), *_feed_forward(s, tensor), *_vision(s, tensor, engine)]
    yield from whole
    yield from _experts(s, tensor, expert, engine)
    if not whole:
        yield from _groups(s, tensor, expert, w, engine)


def _attention(s: ModelShape, tensor: int, engine: str) -> Iterator[Broken]:
    """Heads are dealt out; KV heads too, or each is copied to as many ranks as there are more."""
    if s.heads % tensor:
        yield "tensor_parallel", tensor, f"num_attention_heads is {s.heads}, which {tensor} does not divide"
    if s.latent or s.kv_heads % tensor == 0:
        return
    if tensor % s.kv_heads:
        rule = f"num_key_value_heads is {s.kv_heads}, which is neither a multiple nor a divisor of {tensor}"
        yield "tensor_parallel", tensor, rule
    elif s.family == "gpt_oss" and engine == "vllm":  # its models/gpt_oss.py divides them and copies none
        yield "tensor_parallel", tensor, f"num_key_value_heads is {s.kv_heads}, and vLLM copies none of this family"


def _vision(s: ModelShape, tensor: int, engine: str) -> Iterator[Broken]:
    """vLLM splits an image tower as well (models/siglip.py, models/pixtral.py)."""
    if engine == "vllm" and s.vision_heads % tensor:
        yield "tensor_parallel", tensor, f"the image tower has {s.vision_heads} heads, which {tensor} does not divide"


def _feed_forward(s: ModelShape, tensor: int) -> Iterator[Broken]:
    for name, width in (("intermediate_size", s.intermediate), ("the shared experts' width", s.shared_intermediate)):
        if width % tensor:
            yield "tensor_parallel", tensor, f"{name} is {width}, which {tensor} does not divide"


def _experts(s: ModelShape, tensor: int, expert: int, engine: str) -> Iterator[Broken]:
    """vLLM: experts are spread over all ranks (--enable-expert-parallel), evenly or not, or over none. TensorRT-LLM:
    over a divisor of the tensor parallelism that divides the experts; the rest splits each expert."""
    if expert > 1 and not s.experts:
        yield "expert_parallel", expert, "the model has no experts"
        return
    if engine == "vllm" and expert not in (1, tensor):
        yield "expert_parallel", expert, f"vLLM spreads experts over all {tensor} ranks of tensor_parallel or over none"
    elif expert > s.experts > 0:
        yield "expert_parallel", expert, f"there are {s.experts} experts"
    elif engine == "tensorrt_llm" and s.experts % expert:
        yield "expert_parallel", expert, f"there are {s.experts} experts, which {expert} does not divide"
    elif engine == "tensorrt_llm" and tensor % expert:
        yield "expert_parallel", expert, f"tensor_parallel is {tensor}, which {expert} does not divide"
    if engine == "vllm" and s.family in ("qwen2_moe", "qwen3_moe") and tensor > s.experts:
        yield "tensor_parallel", tensor, f"there are {s.experts} experts, and vLLM wants no more ranks of this family"
    whole_experts = expert > 1 and not (engine == "vllm" and s.family == "gpt_oss")  # models/gpt_oss.py: MLPBlock
    ranks = max(1, tensor // expert) if whole_experts else tensor
    if s.moe_intermediate % ranks:
        yield "tensor_parallel", tensor, f"an expert's width is {s.moe_intermediate}, which {ranks} does not divide"


def _groups(s: ModelShape, tensor: int, expert: int, w: WeightFormat, engine: str) -> Iterator[Broken]:
    """No group of weights that share a scale may lie on two ranks, or be cut at the end of a row."""
    if not w.group:
        return
    if not w.experts_only:
        for name, width, ranks in _rows(s, tensor, w, engine):
            if width % (ranks * w.group):
                yield _cut(tensor, ranks, name, width, w)
    if s.experts:
        yield from _expert_groups(s, tensor, max(1, tensor // expert), w, engine)


def _rows(s: ModelShape, tensor: int, w: WeightFormat, engine: str) -> Iterator[tuple[str, int, int]]:
    """Matrices by the width along which their groups lie, and over how many ranks it is split.

    Block FP8 pads the last block of a matrix that is whole on its rank (vLLM: ``validate_fp8_block_shape``;
    TensorRT-LLM: scales of ``ceil(width / 128)``), so that only what is split counts.
    """
    blocks = w.name == "fp8_block"
    if not blocks:
        yield "hidden_size", s.hidden, 1
    elif tensor == 1:
        return
    yield "heads x head_dim", s.attention_width, tensor
    if blocks and engine == "tensorrt_llm":
        if not s.latent:
            yield "KV heads x head_dim", s.kv_heads * s.head_dim, gcd(s.kv_heads, tensor)
        if s.family == "deepseek_v3":  # modeling_deepseekv3.py splits dense layers over fewer ranks where it must
            return
    yield "intermediate_size", s.intermediate, tensor
    yield "the shared experts' width", s.shared_intermediate, tensor


def _expert_groups(s: ModelShape, tensor: int, ranks: int, w: WeightFormat, engine: str) -> Iterator[Broken]:
    """Experts of one rank. vLLM halves INT4 groups that do not fit (``quantization/moe_wna16.py``), and pads MXFP4;
    block FP8 must fit even where nothing is split (``validate_fp8_block_shape_moe``)."""
    if w.name == "mxfp4" or (w.name == "fp8_block" and engine == "tensorrt_llm" and ranks == 1):
        return
    group = w.group
    if engine == "vllm" and w.name in ("int4_awq", "int4_gptq", "int8_gptq"):
        while group > _LEAST_GROUP and (s.moe_intermediate % (ranks * group) or s.hidden % group):
            group //= 2
    if s.moe_intermediate % (ranks * group):
        yield _cut(tensor, ranks, "an expert's width", s.moe_intermediate, w)


def _cut(tensor: int, ranks: int, name: str, width: int, w: WeightFormat) -> Broken:
    """A group that is cut even on one rank is the fault of the format, and not of the split."""
    if width % w.group and (w.name != "fp8_block" or ranks == 1):
        return "quantization", w.name, f"{name} is {width}, which is no multiple of its groups of {w.group}"
    rule = f"{name} is {width}, of which a rank has {width / ranks:g}: no multiple of {w.name}'s groups of {w.group}"
    return "tensor_parallel", tensor, rule


def _remedy(s: ModelShape, field: str, tensor: int, expert: int, weight_format: str, engine: str) -> str:
    """What works instead: other numbers of that field, experts kept whole, or other formats of the weights."""
    if field == "pipeline_parallel":
        return f"use pipeline_parallel 1 to {s.layers}"
    if field == "expert_parallel":
        able = [n for n in range(1, max(tensor, 1) + 1) if not any(_experts(s, tensor, n, engine))]
        return f"use expert_parallel {_listed(able or [1])}"
    ways = []
    if able := possible_tensor_parallel(s, weight_format, engine, _WIDEST, expert):
        ways.append(f"tensor_parallel {_listed(able)}")
    if expert == 1 < tensor and s.experts and _works(s, tensor, tensor, weight_format, engine):
        ways.append(f"expert_parallel {tensor}, which keeps experts whole")
    offered = () if s.quantization else (n for n in _OFFERED if s.experts or not WEIGHTS[n].experts_only)
    if formats := [n for n in offered if _works(s, tensor, expert, n, engine)]:
        ways.append(f"quantization {_listed(formats)}")
    return "use " + ("; or ".join(ways) or "the unquantised checkpoint, or engine llama_cpp")


def _works(s: ModelShape, tensor: int, expert: int, weight_format: str, engine: str) -> bool:
    return not any(_broken(s, tensor, 1, expert, weights_of(s, weight_format), engine))


def _listed(values: Sequence[int] | Sequence[str]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
