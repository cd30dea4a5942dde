"""Flags and options that are passed through are vLLM's own, and none that we derive."""

from typing import Any

import pytest

from engines.port import EngineSpec
from engines.vllm import flags
from rollout.errors import Refused


def _words(options: dict[str, Any] | None = None, *passed: str) -> tuple[str, ...]:
    return flags.words(EngineSpec(kind="vllm", options=options or {}, flags=passed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 7}, ("--seed", "7")),
        ({"enforce_eager": True}, ("--enforce-eager",)),
        ({"enforce-eager": False}, ("--no-enforce-eager",)),
        ({"middleware": "a.b"}, ("--middleware", "a.b")),
        ({"lora_modules": ["a=x", "b=y"], "enable_lora": True}, ("--lora-modules", "a=x", "b=y", "--enable-lora")),
        ({"override_generation_config": {"temperature": 0}}, ("--override-generation-config", '{"temperature": 0}')),
        ({"compilation_config.mode": 3}, ("--compilation-config.mode", "3")),
        ({"scheduling_policy": "priority"}, ("--scheduling-policy", "priority")),
    ],
)
def test_options_become_flags(options: dict[str, Any], words: tuple[str, ...]) -> None:
    """Keys with _ or -, true and false, lists, mappings as JSON, keys of a mapping with dots."""
    assert _words(options) == words


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (("--seed", "7"), ("--seed", "7")),
        (("--seed=7",), ("--seed", "7")),
        (("--block_size", "32"), ("--block-size", "32")),
        (("--seed", "-1", "--enforce-eager"), ("--seed", "-1", "--enforce-eager")),
        (("-cc", '{"mode": 0}'), ("-cc", '{"mode": 0}')),
        (("--hf-token", "--seed", "1"), ("--hf-token", "--seed", "1")),
    ],
)
def test_flags_are_passed_as_they_are(passed: tuple[str, ...], words: tuple[str, ...]) -> None:
    """With = or without, negative numbers, short names, a value that may be left out."""
    assert _words(None, *passed) == words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_num_sequences": 4}, r"options.max_num_sequences.*no such flag.*did you mean --max-num-seqs"),
        ({"max_num_seqs": 4}, "options.max_num_seqs.*derived from the rest.*set slots"),
        ({"enable_chunked_prefill": False}, "set chunked_prefill"),
        ({"no_enable_prefix_caching": True}, "set prefix_reuse"),
        ({"seed": True}, "--seed wants a value"),
        ({"seed": None}, "--seed wants a value"),
        ({"enforce_eager": 1}, "wants true or false"),
        ({"headless": False}, "nothing: the server would not answer"),
        ({"enable_server_load_tracking_": True}, "did you mean --enable-server-load-tracking"),
        ({"seed": [1, 2]}, "takes one"),
        ({"scheduling_policy": "lifo"}, "use one of: fcfs, priority"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], said: str) -> None:
    """With the option's name, the rule, and what is near or right."""
    with pytest.raises(Refused, match=said):
        _words(options)


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (("--max-num-sequence", "4"), "did you mean --max-num-seqs"),
        (("-tp", "2"), "set tensor_parallel"),
        (("--port", "1"), "leave it out"),
        (("--api-key", "secret"), "the gateway's own keys"),
        (("--speculative-config.method", "ngram"), "set speculative"),
        (("--enforce-eager", "yes"), "takes no value"),
        (("--enforce-eager=yes",), "takes no value"),
        (("--seed",), "takes one"),
        (("7",), "it is no flag"),
    ],
)
def test_a_wrong_flag_is_refused(passed: tuple[str, ...], said: str) -> None:
    """Unknown, ours, or with the wrong number of values."""
    with pytest.raises(Refused, match=said):
        _words(None, *passed)


def test_the_list_is_whole() -> None:
    """Everything that we send or derive is on it."""
    assert {flag for flag in flags.OURS if flag not in flags.known()} == set()
    assert len(flags.known()) > 300 and "fp8" in flags.quantizations()
