"""A spec as the fields of llama.cpp's ``CommonParams`` (xllamacpp): which are set from it, which a user may set."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from engines.port import EngineSpec
from rollout.errors import Refused

PAD = 256  # llama.cpp rounds the tokens of a slot up to a multiple (GGML_PAD in llama_context; seen in /slots)
CACHE_MIB = 256  # of earlier prompts' keys and values, in memory; llama.cpp's own default is 8 GiB
MICRO_BATCH = 512  # tokens in one pass through the graph; llama.cpp's own default

# What the spec decides, and by which field. Everything else about files, addresses, keys and tools is not for options.
OWNED = {
    "n_parallel": "slots",
    "n_ctx": "context",
    "n_batch": "max_tokens or chunked_prefill",
    "cpuparams.n_threads": "threads",
    "cpuparams_batch.n_threads": "threads",
    "cache_type_k": "kv_cache_dtype",
    "cache_type_v": "kv_cache_dtype",
    "cache_prompt": "prefix_reuse",
    "speculative.types": "speculative.method",
    "speculative.draft.mparams.path": "speculative.draft_model",
    "speculative.draft.n_max": "speculative.tokens",
    "speculative.draft.cache_type_k": "kv_cache_dtype",
    "speculative.draft.cache_type_v": "kv_cache_dtype",
    "speculative.ngram_simple.size_n": "speculative.ngram",
    "speculative.ngram_simple.size_m": "speculative.tokens",
}
_TOP = """attention_type cache_idle_slots cache_ram_mib chat_template check_tensors checkpoint_min_step cont_batching
ctx_shift default_template_kwargs enable_chat_template enable_reasoning fit_params flash_attn_type
force_pure_content_parser lazy_mode load_mode main_gpu moe_cache_size n_cache_reuse n_ctx_checkpoints n_gpu_layers
n_keep n_predict n_threads_http n_ubatch no_extra_bufts no_host no_kv_offload no_op_offload no_perf numa
prefill_assistant reasoning_format rope_freq_base rope_freq_scale rope_scaling_type slot_prompt_similarity split_mode
swa_full use_jinja warmup yarn_attn_factor yarn_beta_fast yarn_beta_slow yarn_ext_factor yarn_orig_ctx"""
_SAMPLING = """dry_allowed_length dry_base dry_multiplier dry_penalty_last_n dynatemp_exponent dynatemp_range min_keep
min_p mirostat mirostat_eta mirostat_tau penalty_freq penalty_last_n penalty_present penalty_repeat seed temp top_k
top_p typ_p xtc_probability xtc_threshold"""
PASSED = frozenset(
    [
        *_TOP.split(),
        *(f"sampling.{name}" for name in _SAMPLING.split()),
        *(f"{cpu}.{name}" for cpu in ("cpuparams", "cpuparams_batch") for name in ("poll", "priority")),
        *(f"speculative.draft.{name}" for name in ("n_gpu_layers", "n_min", "p_min", "p_split")),
        "speculative.ngram_simple.min_hits",
    ]
)
KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")  # with a CPU kernel; [run]
_COUNTS = ("_count", "_max_value")  # the last member of a C enumeration, which is no value
EXACT_KV = ("f16", "bf16", "f32")


def kv_type(spec: EngineSpec) -> str:
    """The ggml type of keys and values; llama.cpp's own is f16."""
    return "f16" if spec.kv_cache_dtype == "auto" else spec.kv_cache_dtype


def slot_tokens(spec: EngineSpec) -> int:
    """Tokens that a slot really has."""
    return -(-spec.context // PAD) * PAD


def batch(spec: EngineSpec) -> int:
    """Tokens of one step over all slots (n_batch). llama.cpp has one bound for what vLLM and TensorRT-LLM have two: the
    smaller one counts, and without chunks a whole prompt must fit."""
    wanted = [n for n in (spec.max_tokens, spec.chunked_prefill) if n]
    return min(wanted) if spec.chunked_prefill else max([spec.context, *wanted])


def params_of(spec: EngineSpec, model: str, draft: str = "") -> dict[str, Any]:
    """CommonParams by dotted name, enumerations by the end of their member's name. ``model``, ``draft``: GGUF files."""
    values: dict[str, Any] = {
        "model.path": model,
        "n_parallel": spec.slots,
        "kv_unified": False,
        "n_ctx": spec.slots * spec.context,  # llama.cpp divides it by the slots
        "n_batch": batch(spec),
        "n_ubatch": min(MICRO_BATCH, batch(spec)),
        "cpuparams.n_threads": spec.threads,
        "cpuparams_batch.n_threads": spec.threads,
        "n_threads_http": spec.slots + 4,
        "cache_type_k": kv_type(spec),
        "cache_type_v": kv_type(spec),
        "cache_prompt": spec.prefix_reuse,
        "cache_idle_slots": spec.prefix_reuse,
        "cache_ram_mib": CACHE_MIB if spec.prefix_reuse else 0,
        "endpoint_metrics": True,
        "endpoint_slots": True,
        "ui": False,
    }
    if kv_type(spec) not in EXACT_KV:
        values["flash_attn_type"] = "enabled"  # without it quantised values cannot be read, and the load fails [run]
    return {**values, **_speculation(spec, draft), **spec.options}


def _speculation(spec: EngineSpec, draft: str) -> dict[str, Any]:
    guess = spec.speculative
    if guess.method == "ngram":
        return {
            "speculative.types": ["ngram_simple"],
            "speculative.ngram_simple.size_n": guess.ngram,
            "speculative.ngram_simple.size_m": guess.tokens,
        }
    if guess.method == "draft":
        return {
            "speculative.types": ["draft_simple"],
            "speculative.draft.mparams.path": draft,
            "speculative.draft.n_max": guess.tokens,
            "speculative.draft.cpuparams.n_threads": spec.threads,
            "speculative.draft.cpuparams_batch.n_threads": spec.threads,
            "speculative.draft.cache_type_k": kv_type(spec),
            "speculative.draft.cache_type_v": kv_type(spec),
        }
    return {}


def check_options(options: Mapping[str, Any]) -> None:
    """Each is a field that a server uses and that a user may set, and has its type. Raises Refused."""
    for name, value in options.items():
        field = f"options.{name}"
        if name in OWNED:
            raise Refused(field, value, f"the spec's {OWNED[name]} decides it", f"set {OWNED[name]} instead")
        if name not in PASSED:
            near = difflib.get_close_matches(name, [*PASSED, *OWNED], n=1)
            known = "is not for an engine to set" if _exists(name) else "is no field of llama.cpp's CommonParams"
            hint = f"did you mean {near[0]}? " if near else ""
            raise Refused(field, value, f"{name} {known}", f"{hint}docs/engines.md lists the options of llama.cpp")
        try:
            apply({name: value}, _scratch())
        except (AttributeError, TypeError, ValueError, OverflowError, AssertionError) as bad:
            raise Refused(field, value, str(bad).split(".")[0], "give a value of that type") from bad


def _exists(name: str) -> bool:
    target: Any = _scratch()
    for part in name.split("."):
        target = None if part.startswith("_") else getattr(target, part, None)
        if target is None:
            return False
    return True


@cache
def _scratch() -> Any:
    """One CommonParams to try options on; nothing is ever served from it."""
    import xllamacpp

    return xllamacpp.CommonParams()


def apply(values: Mapping[str, Any], params: Any) -> None:
    """Set fields by dotted name. Raises AttributeError, TypeError, ValueError with what would be right."""
    for name, value in values.items():
        *path, last = name.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        setattr(target, last, _converted(last, value, getattr(target, last)))


def _converted(name: str, value: Any, present: Any) -> Any:
    """``value`` in the type of what is there."""
    if isinstance(present, list) and present and isinstance(present[0], Enum):
        return [_converted(name, one, present[0]) for one in value]
    if isinstance(present, Enum):
        return _member(name, value, type(present))
    wanted = type(present)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise TypeError(f"{name} is of type {wanted.__name__}, not {type(value).__name__}")
    return value


def _member(name: str, value: Any, enumeration: type[Enum]) -> Enum:
    members = {m.lower(): m for m in enumeration.__members__}
    words = [full.split("_") for full in members]
    shared = next(n for n, parts in enumerate(zip(*words, strict=False)) if len(set(parts)) > 1)
    short = {
        "_".join(full.split("_")[shared:]): member for full, member in members.items() if not full.endswith(_COUNTS)
    }
    if not isinstance(value, str) or value.lower() not in short:
        raise ValueError(f"{name} is one of {', '.join(short)}")
    return enumeration[short[value.lower()]]
