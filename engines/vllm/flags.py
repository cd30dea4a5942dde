"""The server's own flags and options that a spec passes through, checked against the list of the pinned version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from engines.port import EngineSpec
from rollout.errors import Refused

LIST = Path(__file__).with_name("flags.yaml")
OURS = {  # flag -> the field of an engine file that says it; "": the agent decides
    "--model": "",
    "--host": "",
    "--port": "",
    "--uds": "",
    "--served-model-name": "",
    "--config": "options and flags",
    "--tensor-parallel-size": "tensor_parallel",
    "--pipeline-parallel-size": "pipeline_parallel",
    "--enable-expert-parallel": "expert_parallel",
    "--dtype": "dtype",
    "--quantization": "quantization",
    "--max-num-seqs": "slots",
    "--max-model-len": "context",
    "--max-num-batched-tokens": "max_tokens",
    "--enable-chunked-prefill": "chunked_prefill",
    "--long-prefill-token-threshold": "chunked_prefill",
    "--enable-prefix-caching": "prefix_reuse",
    "--kv-cache-dtype": "kv_cache_dtype",
    "--gpu-memory-utilization": "memory_fraction",
    "--speculative-config": "speculative",
    "--spec-method": "speculative",
    "--spec-model": "speculative",
    "--spec-tokens": "speculative",
    "--max-num-queued-reqs": "max_queue",
    "--shutdown-timeout": "drain_s",
    "--help": "nothing: it ends the server",
    "--headless": "nothing: the server would not answer",
    "--grpc": "nothing: the gateway speaks HTTP",
    "--root-path": "nothing: the gateway knows no other paths",
    "--ssl-keyfile": "the gateway's certificate",
    "--ssl-certfile": "the gateway's certificate",
    "--api-key": "the gateway's own keys",
    "--disable-log-stats": "nothing: releases are judged by the numbers",
}


@cache
def known() -> Mapping[str, Mapping[str, Any]]:
    """Every spelling of every flag: what it takes, which values where they are few, what it is short for."""
    return dict(_list()["flags"])


def listed_version() -> str:
    """The version of vLLM that the list is of."""
    return str(_list()["version"])


def quantizations() -> tuple[str, ...]:
    """Methods that vLLM knows, of checkpoints and online."""
    return tuple(_list()["quantizations"])


@cache
def _list() -> dict[str, Any]:
    return dict(yaml.safe_load(LIST.read_text(encoding="utf-8")))


def words(spec: EngineSpec) -> tuple[str, ...]:
    """The arguments that ``options`` and ``flags`` stand for. Raises Refused: unknown (with what is near), a value
    missing, too many or not allowed, or what another field says."""
    return (*(word for item in spec.options.items() for word in _of_option(*item)), *_of_flags(spec.flags))


def _of_option(key: str, value: Any) -> Iterator[str]:
    """``{"max_num_seqs": 4}`` is ``--max-num-seqs 4``; true and false choose between a flag and its ``--no-`` form."""
    field, flag = f"options.{key}", "--" + key.replace("_", "-").lstrip("-")
    takes = _described(field, flag)["takes"]
    if isinstance(value, bool) and takes == "none":
        yield flag if value else _negated(field, flag)
    elif isinstance(value, bool) or value is None or takes == "none":
        wanted = "true or false" if takes == "none" else "a value"
        raise Refused(field, value, f"{flag} wants {wanted}", "see vLLM's page on its server's arguments")
    else:
        yield flag
        yield from _values(field, flag, value if isinstance(value, list) else [value])


def _negated(field: str, flag: str) -> str:
    other = "--no-" + flag[2:]
    if other not in known():
        raise Refused(field, False, f"there is no {other}", "leave the option out")
    return other


def _values(field: str, flag: str, values: Sequence[Any]) -> list[str]:
    described = known()[base_of(flag)]
    if not values or (len(values) > 1 and described["takes"] != "many"):
        raise Refused(field, list(values), f"{flag} takes {described['takes']}", "give that many values")
    texts = [json.dumps(value) if isinstance(value, dict) else str(value) for value in values]
    choices = described.get("choices", [])
    wrong = [text for text in texts if choices and "." not in flag and text not in choices]
    if wrong:
        raise Refused(field, wrong[0], f"{flag} does not take it", f"use one of: {', '.join(choices)}")
    return texts


def _of_flags(flags: Sequence[str]) -> Iterator[str]:
    waiting: list[str] = []
    for word in (*flags, ""):
        if waiting and (word.startswith("-") or not word) and not _is_number(word):
            yield from _flag(waiting)
            waiting = []
        if word and not waiting and not word.startswith("-"):
            raise Refused("flags", word, "it is no flag and follows none that takes it", "write flags as --name value")
        waiting += [word] if word else []


def _flag(said: Sequence[str]) -> Iterator[str]:
    flag, equals, value = said[0].partition("=")
    name = flag if flag in known() else flag.replace("_", "-")  # vLLM's parser takes both
    values = [*([value] if equals else []), *said[1:]]
    takes = _described("flags", name)["takes"]
    if takes == "none" and values:
        raise Refused("flags", " ".join(said), f"{name} takes no value", "give the flag alone")
    if takes in ("one", "many") or values:
        values = _values("flags", name, values)
    yield from (name, *values)


def _is_number(word: str) -> bool:
    return word[:1] == "-" and word[1:].replace(".", "", 1).isdigit()


def base_of(flag: str) -> str:
    """The flag that ``--compilation-config.mode`` sets a key of."""
    return flag.partition(".")[0] if flag.startswith("--") else flag


def _described(field: str, flag: str) -> Mapping[str, Any]:
    """What the list says of a flag that may be passed through. Raises Refused."""
    described = known().get(base_of(flag))
    if described is None:
        near = get_close_matches(base_of(flag), known(), n=3, cutoff=0.6)
        fix = f"did you mean {' or '.join(near)}" if near else "see vLLM's page on its server's arguments"
        raise Refused(field, flag, f"vLLM {listed_version()} has no such flag", fix)
    full = described.get("same_as", base_of(flag))
    ours = OURS.get(full, OURS.get("--" + full[5:] if full.startswith("--no-") else full))
    if ours is not None:
        raise Refused(field, flag, "it is derived from the rest", f"set {ours}" if ours else "leave it out")
    return described
