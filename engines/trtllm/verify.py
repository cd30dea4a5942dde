"""Checks a built directory before it gets its final name, and again when asked: is it whole, and what was asked for?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.model_folder import (
    CONFIG,
    QUANTISED,
    check_folder,
    check_ranks,
    check_tokenizer,
    read_json,
    read_tensors,
)
from engines.port import EngineSpec
from engines.trtllm.recipe_spec import (
    ALGORITHMS,
    CHECKPOINT,
    DRAFT,
    ENGINE,
    KV_ALGORITHMS,
    TOKENIZER,
    facts,
    lookahead,
    recipe_of,
    step_tokens,
    version_of,
)
from rollout.errors import Corrupt

_AGAIN = "build it again"
_ENGINE_KEYS = {"version", "pretrained_config", "build_config"}  # builder.py: exactly these


def verify_directory(directory: Path, spec: EngineSpec, version: str) -> dict[str, Any]:
    """Check an engine directory; what it says of itself. Raises Corrupt: file, found, expected, what to do."""
    if recipe_of(spec) == "tensorrt":
        told = verify_engine(directory / ENGINE, spec, version)
        check_tokenizer(directory / TOKENIZER, _AGAIN)
        return told
    told = verify_model(directory / CHECKPOINT, spec)
    if spec.speculative.method == "draft":
        told["draft"] = check_folder(directory / DRAFT, _AGAIN)["architectures"][0]
    return told


def verify_checkpoint(directory: Path, expected: Mapping[str, Any]) -> None:
    """A TensorRT-LLM checkpoint: config.json and one whole safetensors file per rank; ``expected`` is ``facts(spec)``.

    Raises Corrupt, before hours go into an engine of the wrong kind.
    """
    config = read_json(directory / CONFIG, _AGAIN)
    _check_pretrained(f"{directory.name}/{CONFIG}", config, expected)
    check_ranks(directory, expected["world_size"], ".safetensors", _AGAIN)
    for rank in range(expected["world_size"]):
        if not read_tensors(directory / f"rank{rank}.safetensors", _AGAIN):
            raise Corrupt(f"{directory.name}/rank{rank}.safetensors holds no tensors; {_AGAIN}")


def verify_engine(directory: Path, spec: EngineSpec, version: str) -> dict[str, Any]:
    """A TensorRT engine directory against what was asked for. Its architecture, sizes and mapping. Raises Corrupt."""
    name, config = f"{directory.name}/{CONFIG}", read_json(directory / CONFIG, _AGAIN)
    if set(config) != _ENGINE_KEYS:
        raise Corrupt(f"{name} has the keys {sorted(config)} and {sorted(_ENGINE_KEYS)} are expected; {_AGAIN}")
    found = config["version"]
    if not isinstance(found, str) or version_of(found) != version_of(version):
        raise Corrupt(f"{name}: it was built by TensorRT-LLM {found} and {version} is expected; {_AGAIN}")
    pretrained, built = config["pretrained_config"], config["build_config"]
    _check_pretrained(name, pretrained, facts(spec))
    for key, wanted in engine_limits(spec).items():
        if built.get(key) != wanted:
            raise Corrupt(f"{name}: build_config.{key} is {built.get(key)} and {wanted} was asked for; {_AGAIN}")
    check_ranks(directory, facts(spec)["world_size"], ".engine", _AGAIN)
    return {
        "version": found,
        "architecture": pretrained.get("architecture"),
        "dtype": pretrained.get("dtype"),
        "mapping": {key: pretrained["mapping"].get(key) for key in ("world_size", "tp_size", "pp_size")},
        "quant_algo": pretrained.get("quantization", {}).get("quant_algo"),
        "kv_cache_quant_algo": pretrained.get("quantization", {}).get("kv_cache_quant_algo"),
        **{key: built.get(key) for key in engine_limits(spec)},
    }


def engine_limits(spec: EngineSpec) -> dict[str, int]:
    """The limits that a built engine says of itself. Lookahead decoding lengthens sequences by its draft, and a step by
    the drafts of all slots (builder.py)."""
    draft = lookahead(spec)
    return {
        "max_batch_size": spec.slots,
        "max_input_len": spec.context - 1,
        "max_seq_len": spec.context + draft,
        "max_num_tokens": max(step_tokens(spec), spec.slots * (draft + 1) if draft else 0),
        "max_draft_len": draft,
    }


def _check_pretrained(name: str, config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    mapping, quantization = config.get("mapping"), config.get("quantization")
    if not isinstance(mapping, dict) or not isinstance(quantization, dict):
        raise Corrupt(f"{name} lacks mapping or quantization; {_AGAIN}")
    for key in ("world_size", "tp_size", "pp_size"):
        if mapping.get(key) != expected[key]:
            raise Corrupt(f"{name}: mapping.{key} is {mapping.get(key)} and {expected[key]} was asked for; {_AGAIN}")
    if expected["dtype"] not in ("auto", config.get("dtype")):
        raise Corrupt(f"{name}: dtype is {config.get('dtype')} and {expected['dtype']} was asked for; {_AGAIN}")
    _check_algorithm(name, quantization, expected["quant_algo"], expected["kv_cache_quant_algo"])


def _check_algorithm(name: str, quantization: Mapping[str, Any], wanted: Any, kv: str | None) -> None:
    found, found_kv = quantization.get("quant_algo"), quantization.get("kv_cache_quant_algo")
    if found not in wanted:
        raise Corrupt(f"{name}: the weights are quantised as {found} and {wanted[0]} was asked for; {_AGAIN}")
    if found_kv != kv:
        fix = f"ask for kv_cache_dtype {found_kv.lower()}" if found_kv and kv is None else _AGAIN
        raise Corrupt(f"{name}: keys and values are quantised as {found_kv} and {kv} was asked for; {fix}")


def verify_model(directory: Path, spec: EngineSpec) -> dict[str, Any]:
    """A Hugging Face folder for the PyTorch backend, quantised or as it came. Raises Corrupt."""
    config = check_folder(directory, _AGAIN)
    told = {"architecture": config["architectures"][0], "dtype": config.get("dtype") or config.get("torch_dtype")}
    if spec.quantization == "none":
        return told
    quantised = read_json(directory / QUANTISED, _AGAIN).get("quantization")
    if not isinstance(quantised, dict):
        raise Corrupt(f"{directory.name}/{QUANTISED} has no quantization; {_AGAIN}")
    name = f"{directory.name}/{QUANTISED}"
    _check_algorithm(name, quantised, ALGORITHMS[spec.quantization], KV_ALGORITHMS[spec.kv_cache_dtype])
    return {**told, "quant_algo": quantised["quant_algo"], "kv_cache_quant_algo": quantised.get("kv_cache_quant_algo")}
