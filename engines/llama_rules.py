"""What llama.cpp can do with a spec, a model and a machine. Pure; each rule raises Refused with number and remedy.

A field of the spec that llama.cpp has no use for is refused unless it has its default: nothing is silently ignored.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from engines.checks import check_context, check_spec
from engines.hardware import Hardware
from engines.llama_params import CACHE_MIB, EXACT_KV, KV_TYPES, MICRO_BATCH, batch, check_options, kv_type, slot_tokens
from engines.port import EngineSpec, Needs
from engines.quantize import QUANTIZATIONS
from engines.sources import Facts, Source
from rollout.errors import Refused

_MOST_SLOTS = 256  # LLAMA_MAX_SEQ in llama-cparams.h
_PROCESS = 160 * 1024 * 1024  # measured: two Python processes, libraries
_GPU_OPTIONS = ("n_gpu_layers", "split_mode", "main_gpu", "no_kv_offload", "no_op_offload")


def check_llama(spec: EngineSpec) -> None:
    """What can be said before there is a model. Raises Refused."""
    check_spec(spec, QUANTIZATIONS)
    _check_not_ours(spec)
    if spec.slots > _MOST_SLOTS:
        rule = f"llama.cpp has at most {_MOST_SLOTS} slots"
        raise Refused("slots", spec.slots, rule, f"choose at most {_MOST_SLOTS} and more instances")
    if kv_type(spec) not in KV_TYPES:
        rule = "llama.cpp has no such type for keys and values"
        raise Refused("kv_cache_dtype", spec.kv_cache_dtype, rule, f"use one of: auto, {', '.join(KV_TYPES)}")
    _check_steps(spec)
    check_options(spec.options)
    _check_together(spec)


def _check_not_ours(spec: EngineSpec) -> None:
    default, split = EngineSpec(), "llama.cpp splits a model over GPUs only, by its options split_mode and n_gpu_layers"
    installed = version("xllamacpp")
    for field, value, wanted, rule, fix in (
        ("tensor_parallel", spec.tensor_parallel, 1, split, "use 1, or engine vllm for ranks on CPUs"),
        ("pipeline_parallel", spec.pipeline_parallel, 1, split, "use 1, or engine vllm or tensorrt_llm"),
        ("expert_parallel", spec.expert_parallel, 1, split, "use 1, or engine vllm or tensorrt_llm"),
        ("recipe", spec.recipe, "", "only tensorrt_llm has recipes", "remove it"),
        ("container", spec.container, None, "llama.cpp runs from this installation", "remove it"),
        ("flags", " ".join(spec.flags), "", "this server takes no flags", "use options, its CommonParams fields"),
        ("dtype", spec.dtype, "auto", "llama.cpp chooses it by operation", "use quantization and kv_cache_dtype"),
        (
            "memory_fraction",
            spec.memory_fraction,
            default.memory_fraction,
            "llama.cpp reserves slots x context tokens at its start, not a share of the memory",
            "use slots, context and kv_cache_dtype",
        ),
        ("version", spec.version or installed, installed, f"xllamacpp {installed} is installed", "remove it"),
    ):
        if value != wanted:
            raise Refused(field, value, rule, fix)


def _check_steps(spec: EngineSpec) -> None:
    """That every slot can go on in every step, with its guesses, and a whole prompt fits where chunks are off."""
    if not spec.chunked_prefill and 0 < spec.max_tokens < spec.context:
        rule = f"without chunked_prefill one step takes a whole prompt, up to {spec.context} tokens"
        raise Refused("max_tokens", spec.max_tokens, rule, f"choose at least {spec.context} or chunked_prefill > 0")
    guesses = spec.speculative.tokens if spec.speculative.method != "none" else 0
    needed = spec.slots * (1 + guesses)
    if batch(spec) < needed:
        field = "max_tokens" if spec.max_tokens == batch(spec) else "chunked_prefill"
        rule = f"{spec.slots} slots go on by {1 + guesses} tokens each, so a step needs {needed}"
        raise Refused(field, batch(spec), rule, f"choose at least {needed}")


def _check_together(spec: EngineSpec) -> None:
    """Options against the fields that they touch."""
    micro, attention = spec.options.get("n_ubatch", 1), str(spec.options.get("flash_attn_type", "")).lower()
    if not 1 <= micro <= batch(spec):
        raise Refused("options.n_ubatch", micro, f"a step has {batch(spec)} tokens", f"choose 1 to {batch(spec)}")
    if attention == "disabled" and kv_type(spec) not in EXACT_KV:
        rule = f"values of type {kv_type(spec)} are only read by flash attention"
        raise Refused("options.flash_attn_type", attention, rule, "remove it, or use kv_cache_dtype f16")
    reuse = spec.options.get("n_cache_reuse", 0)
    if reuse and not spec.prefix_reuse:
        raise Refused("options.n_cache_reuse", reuse, "prefix_reuse is off", "turn prefix_reuse on")


def check_fits(spec: EngineSpec, source: Source, hardware: Hardware, draft: Source | None) -> None:
    """The spec with this model, draft model and machine, but for the draft's vocabulary. Raises Refused."""
    check_context(spec.context, source.facts.context)
    for facts in [source.facts] + ([draft.facts] if draft else []):
        check_heads(spec, facts)
    for name in _GPU_OPTIONS if not hardware.gpus else ():
        if name in spec.options:
            raise Refused(f"options.{name}", spec.options[name], "this machine has no GPU", "remove it")


def check_heads(spec: EngineSpec, facts: Facts) -> None:
    """Keys and values of a quantised type come in whole blocks of one head. Raises Refused."""
    block = GGML_QUANT_SIZES[_ggml(spec)][0]
    if facts.head_dim % block:
        rule = f"{kv_type(spec)} has blocks of {block} and the model's heads have {facts.head_dim} elements"
        raise Refused("kv_cache_dtype", kv_type(spec), rule, "use f16, bf16 or f32")


def _ggml(spec: EngineSpec) -> GGMLQuantizationType:
    return GGMLQuantizationType[kv_type(spec).upper()]


def kv_bytes(facts: Facts, spec: EngineSpec) -> int:
    """Keys and values of all slots; exact for models whose layers all have the same KV heads."""
    block, block_bytes = GGML_QUANT_SIZES[_ggml(spec)]
    elements = 2 * facts.layers * facts.kv_heads * facts.head_dim * slot_tokens(spec) * spec.slots
    return elements * block_bytes // block


def needs_of(facts: Facts, weights: int, spec: EngineSpec, draft: tuple[Facts, int] | None = None) -> Needs:
    """The same by slot, for plans of several instances."""
    by_slot = sum(kv_bytes(one, replace(spec, slots=1)) for one, _ in [(facts, weights), *([draft] if draft else [])])
    return Needs(instance_bytes(facts, weights, spec, draft) - spec.slots * by_slot, by_slot)


def instance_bytes(facts: Facts, weights: int, spec: EngineSpec, draft: tuple[Facts, int] | None = None) -> int:
    """Memory of one instance at most: weights, keys and values of all slots, compute buffers (logits of one pass), for
    the draft model too, earlier prompts that are kept, and the processes. ``draft``: (facts, bytes of weights)."""
    models = [(facts, weights), *([draft] if draft else [])]
    passes = min(MICRO_BATCH, batch(spec)) * 4
    kept = spec.options.get("cache_ram_mib", CACHE_MIB if spec.prefix_reuse else 0) * 1024 * 1024
    held = sum(size + kv_bytes(one, spec) + passes * one.vocabulary for one, size in models)
    return held + max(kept, 0) + _PROCESS
