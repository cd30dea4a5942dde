"""Checks every flag and YAML key that will be sent against the contract of the version, ours and the user's alike.

TensorRT-LLM itself ends at an unknown key (pydantic, extra=forbid) or flag (click), minutes after its container has
started; and its own classes cannot be made without a GPU. So the check is here, at plan time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from engines.trtllm.contract import Contract, Entry, Guessing, closest, elsewhere
from rollout.errors import Refused

OURS = ("--host", "--port", "--backend", "--tokenizer", "--extra_llm_api_options", "--served_model_name")
_OUR_KEYS = {
    "model": "it is the model that is released",
    "backend": "`recipe` says it",
    "tokenizer": "it comes with the model",
}
_GUESSING = "speculative_config"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "map": "a mapping",
    "ints": "a list of whole numbers",
    "lists": "a list of lists",
}


@dataclass(frozen=True)
class Flag:
    """One flag as it was given; ``value`` None: a switch."""

    entry: Entry
    given: str
    value: Any = None


def check_keys(contract: Contract, backend: str, values: Mapping[str, Any], where: str = "options.") -> tuple[str, ...]:
    """Every key is known to the version and the backend, with a value of its type. Returns what is not proven.

    Raises Refused naming key, value, rule and the near match.
    """
    unsure = []
    for name, value in values.items():
        if name in _OUR_KEYS:
            raise Refused(where + name, value, f"it is not for options: {_OUR_KEYS[name]}", "remove it")
        entry = _known(contract, contract.keys, str(name), where, str(name), value)
        unsure += _check_entry(contract, backend, entry, value, where, entry.name)
    return tuple(unsure)


def read_flags(contract: Contract, words: Sequence[str]) -> tuple[Flag, ...]:
    """The user's flags, ``--name value`` or ``--name=value``. Raises Refused."""
    found: list[Flag] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if not name.startswith("--"):
            raise Refused("flags", word, "it is no flag", "write --name value, or --name=value")
        entry = _known(contract, contract.flags, name, "flags ", name, None)
        if entry.name in OURS:
            raise Refused("flags", name, "Roundhouse gives it itself", "remove it")
        if entry.switch:
            if given:
                raise Refused(f"flags {name}", value, "it is a switch and takes no value", f"write {name} alone")
            found.append(Flag(entry, name))
            continue
        if not given:
            if not rest:
                raise Refused(f"flags {name}", "", f"it needs {_WORDS[entry.type]}", f"write {name} VALUE")
            value = rest.pop(0)
        found.append(Flag(entry, name, _check_value(entry, _parsed(entry, value), f"flags {name}")))
    _check_flags(contract, found)
    return tuple(found)


def check_once(contract: Contract, values: Mapping[str, Any], flags: Sequence[Flag], fields: Mapping[str, str]) -> None:
    """No setting is given twice: by a flag and in the YAML. ``fields``: the engine file's own field for a YAML key.

    Raises Refused: which of the two would win differs between versions.
    """
    for flag in flags:
        path = flag.entry.key
        if path and _value_at(values, path) is not None:
            fix = f"set {fields[path]} of the engine file" if fields.get(path) else f"set options.{path} alone"
            shown = flag.given if flag.value is None else f"{flag.given} {flag.value}"
            rule = f"it is set twice, since the YAML says {path}: {_value_at(values, path)}"
            won = "the YAML" if contract.precedence == "yaml" else "the flag"
            raise Refused("flags", shown, f"{rule}; in {contract.version} {won} would win, in others not", fix)


def check_together(contract: Contract, backend: str, values: Mapping[str, Any]) -> None:
    """What the keys of the whole YAML must be to each other. Raises Refused."""
    graphs = values.get("cuda_graph_config") or {}
    if graphs.get("batch_sizes") and graphs.get("max_batch_size"):
        rule = "batch_sizes and max_batch_size exclude each other"
        raise Refused("options.cuda_graph_config", graphs, rule, "give one of them")
    cache = values.get("kv_cache_config") or {}
    if backend == "tensorrt" and cache.get("dtype", "auto") != "auto":
        rule = "a TensorRT engine has it built in, and takes auto only"
        raise Refused("kv_cache_config.dtype", cache["dtype"], rule, "set kv_cache_dtype of the engine file")
    _check_ranks(values)
    config = values.get(_GUESSING)
    if config is not None:
        _check_overlap(contract, values, config)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its dotted key; an empty map is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _known(
    contract: Contract, known: Mapping[str, Entry], name: str, where: str, path: str, value: object, mention: str = ""
) -> Entry:
    entry = known.get(name)
    if entry is not None:
        return entry
    kind = "flags" if where.startswith("flags") else "keys"
    what = mention or ("trtllm-serve" if kind == "flags" else "the LLM API")
    since, name_there = elsewhere(kind, path)
    fixes = [contract.hints.get(name, "")]
    if since:
        fixes += [f"use version {since} or later", f"{name_there} is its older name" * (name_there in known)]
    known_ones = f"remove it; known are for example {', '.join(sorted(known)[:6])}"
    fix = "; or ".join(filter(None, fixes)) or closest(name, known) or known_ones
    shown = name if value is None else value
    raise Refused(f"{where}{name}".strip(), shown, f"{what} {contract.version} does not have it", fix)


def _check_entry(contract: Contract, backend: str, entry: Entry, value: Any, where: str, path: str) -> Iterator[str]:
    """Checks one value and what is in it; yields the keys that are not proven for the version."""
    if entry.only and entry.only != backend:
        fix = f"use recipe {entry.only}" if entry.only in contract.backends else "remove it"
        raise Refused(where + path, value, f"only the {entry.only} backend has it, and this is {backend}", fix)
    if path in contract.unsure:
        yield f"options.{path}"
    if entry.type == "speculative":
        if value is not None:
            yield from _check_guessing(contract, backend, value, where, path)
        return
    _check_value(entry, value, where + path)
    if entry.keys is None or value is None:
        return
    for name, inner in value.items():
        deeper = f"{path}.{name}"
        found = _known(contract, entry.keys, str(name), f"{where}{path}.", deeper, inner, f"{path} of")
        yield from _check_entry(contract, backend, found, inner, where, deeper)
    _check_needs(entry.needs, value, where + path, entry.keys)


def _check_guessing(contract: Contract, backend: str, config: Any, where: str, path: str) -> Iterator[str]:
    if not isinstance(config, Mapping):
        raise Refused(where + path, config, "it is a mapping with decoding_type", "write decoding_type: NGram, ...")
    kind = config.get("decoding_type")
    able = {name: g for name, g in contract.speculative.items() if backend in g.backends}
    guessing = contract.speculative.get(str(kind))
    if guessing is None:
        fix = closest(str(kind), able) or f"use one of: {', '.join(able)}"
        raise Refused(f"{where}{path}.decoding_type", kind, f"{contract.version} has no such type", fix)
    if backend not in guessing.backends:
        rule = f"{guessing.name} needs backend {' or '.join(guessing.backends)}, and this is {backend}"
        raise Refused(f"{where}{path}.decoding_type", kind, rule, f"use one of: {', '.join(able)}")
    for name, value in config.items():
        if name != "decoding_type":
            deeper = f"{path}.{name}"
            entry = _known(contract, guessing.keys, str(name), f"{where}{path}.", deeper, value, f"{guessing.name} of")
            yield from _check_entry(contract, backend, entry, value, where, deeper)
    _check_needs(guessing.needs, config, where + path, guessing.keys)


def _check_needs(needs: Sequence[str], given: Mapping[str, Any], where: str, known: Mapping[str, Entry]) -> None:
    for name in needs:
        names = [name, *(entry.name for entry in known.values() if entry.same_as == name)]
        found = [each for each in names if given.get(each) is not None]
        if not found:
            raise Refused(f"{where}.{name}", None, "it must be given", f"add {name}")
        if len(found) > 1:
            raise Refused(where, ", ".join(found), "they mean the same", f"give {name} alone")


def _check_overlap(contract: Contract, values: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if needs_no_overlap(contract.speculative[config["decoding_type"]], config) and not values.get(
        "disable_overlap_scheduler"
    ):
        rule = f"{config['decoding_type']} does not work with the overlap scheduler"
        raise Refused("options.disable_overlap_scheduler", False, rule, "set it to true, or leave it out")


def needs_no_overlap(guessing: Guessing, config: Mapping[str, Any]) -> bool:
    """Whether the overlap scheduler must be off: guesses come from a model or a table of their own."""
    return not guessing.overlap or config.get("eagle3_one_model") is False


def _check_ranks(values: Mapping[str, Any]) -> None:
    """``Mapping`` of TensorRT-LLM: the world is TP x PP x CP; MoE TP x EP x cluster is TP; a stage count each."""
    if (values.get("context_parallel_size") or 1) != 1:
        rule = "an instance is planned for tensor_parallel x pipeline_parallel GPUs"
        raise Refused("options.context_parallel_size", values["context_parallel_size"], rule, "use 1")
    tensor = values.get("tensor_parallel_size") or 1
    parts = {name: values.get(f"moe_{name}_parallel_size") for name in ("tensor", "expert", "cluster")}
    product = 1
    for number in parts.values():
        product *= number or 1
    if product == parts["expert"] and tensor % product:
        rule = f"tensor_parallel is {tensor}, which {product} does not divide"
        raise Refused("expert_parallel", product, rule, f"choose a divisor of {tensor}")
    whole = parts["tensor"] is not None and product != tensor
    if whole or tensor % product:
        shown = " x ".join(f"{name} {number}" for name, number in parts.items() if number)
        rule = f"for experts they must multiply to tensor_parallel {tensor}, and are {product}"
        raise Refused("options.moe_*_parallel_size", shown, rule, "set expert_parallel alone")
    stages, pipeline = values.get("pp_partition"), values.get("pipeline_parallel_size") or 1
    if stages is not None and len(stages) != pipeline:
        rule = f"it has {len(stages)} stages and pipeline_parallel is {pipeline}"
        raise Refused("options.pp_partition", stages, rule, f"give {pipeline} numbers")


def _check_value(entry: Entry, value: Any, where: str) -> Any:
    """The value, if it is of the entry's type and within its bounds. Raises Refused."""
    if value is None and entry.null:
        return value
    if not _is_of(entry.type, value):
        raise Refused(where, value, f"it must be {_WORDS[entry.type]}{' or null' if entry.null else ''}", "correct it")
    if entry.choices and value not in entry.choices:
        choices = ", ".join(map(str, entry.choices))
        near = closest(str(value), {str(choice): None for choice in entry.choices})
        raise Refused(where, value, f"it must be one of: {choices}", near or f"use for example {entry.choices[0]}")
    low = entry.min is not None and value < entry.min
    if low or (entry.above is not None and value <= entry.above) or (entry.max is not None and value > entry.max):
        bounds = {"at least": entry.min, "more than": entry.above, "at most": entry.max}
        rule = "it must be " + " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        raise Refused(where, value, rule, "choose such a number")
    return value


def _is_of(kind: str, value: Any) -> bool:
    if kind in _TYPES:
        return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
    if kind == "map":
        return isinstance(value, Mapping)
    if kind in ("ints", "lists"):
        inner = "int" if kind == "ints" else "any"
        return isinstance(value, list) and all(_is_of(inner, each) for each in value)
    return True


def _parsed(entry: Entry, text: str) -> Any:
    """A flag's text as a value of its type; what is none stays text, and is refused as such."""
    if entry.type not in ("int", "float"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _check_flags(contract: Contract, flags: Sequence[Flag]) -> None:
    seen: dict[str, str] = {}
    for flag in flags:
        if flag.entry.name in seen and not flag.entry.multiple:
            raise Refused("flags", flag.given, f"{seen[flag.entry.name]} was given before", "give it once")
        seen[flag.entry.name] = flag.given
        if flag.entry.dropped:
            rule = f"trtllm-serve {contract.version} takes it and forgets it"
            raise Refused("flags", flag.given, rule, f"set options.{flag.entry.key}")


def _value_at(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
