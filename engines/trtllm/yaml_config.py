"""An engine spec as the YAML of TensorRT-LLM's LLM API: each value with its reason, and the user's own keys.

Settings are in the YAML alone. Who wins where a flag says otherwise was reversed in 1.3, so a key has one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from engines.port import EngineSpec
from engines.trtllm.contract import Contract
from engines.trtllm.options import check_keys, check_once, check_together, leaves, needs_no_overlap, read_flags
from engines.trtllm.recipe_spec import recipe_of, step_tokens
from engines.trtllm.verify import engine_limits
from rollout.errors import Refused

BUILD = "build"  # options for the build alone: recipe_spec.Calibration
_REUSE = "prefix_reuse: blocks of equal beginnings are kept"
_DIFFERS = "stated, because versions have different defaults"


@dataclass(frozen=True)
class Choice:
    """One value that is derived. ``field`` of the engine file decides it; empty: options may say otherwise."""

    key: str
    value: Any
    why: str
    field: str = ""


@dataclass(frozen=True)
class Served:
    """What is sent: the YAML's content, the user's flags, why each value is what it is, what is not proven."""

    values: dict[str, Any]
    flags: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The YAML file."""
        return yaml.safe_dump(self.values, sort_keys=False, default_flow_style=False)


def served(spec: EngineSpec, contract: Contract, draft_dir: str = "") -> Served:
    """The whole configuration of one instance, checked. ``draft_dir``: where the server finds the draft model.

    Raises Refused for whatever this version would not take.
    """
    backend = recipe_of(spec)
    derived = {choice.key: choice for choice in choices(spec, contract, draft_dir)}
    given = {name: value for name, value in spec.options.items() if name != BUILD}
    unsure = check_keys(contract, backend, given)
    _check_fields(derived, given)
    values = _merged(derived, given)
    reasons = {c.key: c.why for c in derived.values() if _at(values, c.key) == c.value}
    reasons |= {path: "options of the engine file" for path, _ in leaves(given)}
    _switch_overlap_off(contract, values, reasons)
    check_keys(contract, backend, values)
    check_together(contract, backend, values)
    flags = read_flags(contract, spec.flags)
    check_once(contract, values, flags, {c.key: c.field for c in derived.values()})
    unsure += tuple(f"flags {flag.given}" for flag in flags if flag.entry.name in contract.unsure)
    reasons |= {flag.given: "flags of the engine file" for flag in flags}
    return Served(values, spec.flags, reasons, unsure)


def choices(spec: EngineSpec, contract: Contract, draft_dir: str = "") -> Iterator[Choice]:
    """What follows from the fields of the engine file, in the order of the YAML."""
    engine = recipe_of(spec) == "tensorrt"
    why = "field of the engine file" + ", and of the built engine" * engine
    yield Choice("tensor_parallel_size", spec.tensor_parallel, f"tensor_parallel: {why}", "tensor_parallel")
    yield Choice("pipeline_parallel_size", spec.pipeline_parallel, f"pipeline_parallel: {why}", "pipeline_parallel")
    if spec.expert_parallel > 1:
        why = "expert_parallel; the rest of tensor_parallel splits each expert"
        yield Choice("moe_expert_parallel_size", spec.expert_parallel, why, "expert_parallel")
    yield Choice("dtype", spec.dtype, "dtype of the activations; auto is the checkpoint's", "dtype")
    yield from _sizes(spec, engine)
    yield from _cache(spec, engine)
    if not engine:
        yield from _pytorch(spec)
        yield from _guesses(spec, draft_dir)
    yield Choice("max_beam_width", 1, f"one beam; {_DIFFERS}")
    why = f"true: a cache too small for one request ends the start, not the requests; {_DIFFERS}"
    yield Choice("fail_fast_on_attention_window_too_large", True, why)
    yield Choice("return_perf_metrics", True, "else GET /prometheus/metrics is not there")


def _sizes(spec: EngineSpec, engine: bool) -> Iterator[Choice]:
    built = engine_limits(spec) if engine else {}
    limits = {"max_batch_size": spec.slots, "max_num_tokens": step_tokens(spec), "max_seq_len": spec.context, **built}
    yield Choice(
        "max_batch_size",
        limits["max_batch_size"],
        "slots; unsaid it is 2048 in every version",
        "slots",
    )
    yield Choice("max_num_tokens", limits["max_num_tokens"], _why_tokens(spec), "max_tokens")
    yield Choice("max_seq_len", limits["max_seq_len"], "context, prompt and answer together", "context")
    chunks = "chunked_prefill: prompts are split into steps of at most max_num_tokens"
    why = chunks if spec.chunked_prefill else "chunked_prefill 0: a prompt is never split"
    yield Choice("enable_chunked_prefill", spec.chunked_prefill > 0, why, "chunked_prefill")


def _why_tokens(spec: EngineSpec) -> str:
    if spec.max_tokens:
        return "max_tokens of the engine file"
    if not spec.chunked_prefill:
        return "a whole prompt of `context` tokens, since prompts are never split; at least a token of each slot"
    return "one chunk of a prompt (chunked_prefill), and at least a token of each slot with its guesses"


def _cache(spec: EngineSpec, engine: bool) -> Iterator[Choice]:
    why = "memory_fraction, of what is free after weights and activations; unsaid it would be 0.9"
    yield Choice("kv_cache_config.free_gpu_memory_fraction", spec.memory_fraction, why, "memory_fraction")
    yield Choice("kv_cache_config.enable_block_reuse", spec.prefix_reuse, _REUSE, "prefix_reuse")
    if engine:
        yield Choice("kv_cache_config.dtype", "auto", "a TensorRT engine has it built in", "kv_cache_dtype")
    else:
        yield Choice(
            "kv_cache_config.dtype", spec.kv_cache_dtype, "kv_cache_dtype; auto is the checkpoint's", "kv_cache_dtype"
        )


def _pytorch(spec: EngineSpec) -> Iterator[Choice]:
    graphs = {"enable_padding": True, "max_batch_size": spec.slots}
    yield Choice("cuda_graph_config", graphs, "graphs up to all slots; batches between two sizes are padded")
    yield Choice("enable_iter_perf_stats", True, "else GET /metrics is empty: the queue and the cache's use are there")


def _guesses(spec: EngineSpec, draft_dir: str) -> Iterator[Choice]:
    guess = spec.speculative
    if guess.method == "none":
        return
    config: dict[str, Any] = {"decoding_type": "NGram", "max_draft_len": guess.tokens}
    if guess.method == "draft":
        config |= {"decoding_type": "DraftTarget", "speculative_model_dir": draft_dir}
        why = "speculative: a draft model; speculative_model_dir is the key that all versions take"
    else:
        config |= {"max_matching_ngram_size": guess.ngram}
        why = "speculative: runs of the prompt; the longest run must be said, its default 0 is refused"
    yield Choice("speculative_config", config, why, "speculative")


def _check_fields(derived: Mapping[str, Choice], given: Mapping[str, Any]) -> None:
    """What a field of the engine file decides is not decided again in its options. Raises Refused."""
    for path, value in leaves(given):
        parts = path.split(".")
        above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        choice = next((derived[p] for p in above if p in derived and derived[p].field), None)
        if choice:
            rule = f"the field {choice.field} decides it, and says {choice.value}"
            raise Refused(f"options.{path}", value, rule, f"set {choice.field}, and leave it out of options")
    for path in {c.key.split(".")[0] for c in derived.values() if "." in c.key and c.field}:
        if path in given and not isinstance(given[path], Mapping):
            raise Refused(
                f"options.{path}", given[path], "fields of the engine file decide parts of it", "leave it out"
            )


def _merged(derived: Mapping[str, Choice], given: Mapping[str, Any]) -> dict[str, Any]:
    """The derived values, and the user's over them; a map that no field decides is replaced whole."""
    values: dict[str, Any] = {}
    for choice in derived.values():
        place, *rest = choice.key.split(".")
        if rest:
            values.setdefault(place, {})[rest[0]] = choice.value
        elif choice.key not in given:
            values[place] = choice.value
    for name, value in given.items():
        nested = isinstance(values.get(name), dict) and isinstance(value, Mapping)
        values[name] = {**values[name], **value} if nested else value
    return values


def _switch_overlap_off(contract: Contract, values: dict[str, Any], reasons: dict[str, str]) -> None:
    config = values.get("speculative_config") or {}
    guessing = contract.speculative.get(str(config.get("decoding_type")))
    if guessing and needs_no_overlap(guessing, config) and "disable_overlap_scheduler" not in values:
        values["disable_overlap_scheduler"] = True
        reasons["disable_overlap_scheduler"] = f"{guessing.name} does not work with the overlap scheduler"


def _at(values: Mapping[str, Any], path: str) -> Any:
    place, _, rest = path.partition(".")
    value = values.get(place)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value
