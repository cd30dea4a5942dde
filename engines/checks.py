"""The rules that a spec, a port and a machine must meet, as pure functions. Each raises Refused with the numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from engines.port import KINDS, EngineSpec, Faults, Speculative
from rollout.errors import Refused
from rollout.limits import RESERVED_PORTS
from rollout.nouns import ModelVersion

_GIB = 1024**3
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_spec(spec: EngineSpec, quantizations: Sequence[str]) -> None:
    """Everything that can be said of a spec without the model."""
    if spec.kind not in KINDS:
        raise Refused("kind", spec.kind, "there is no such engine", f"use one of: {', '.join(KINDS)}")
    if spec.quantization not in quantizations:
        raise Refused("quantization", spec.quantization, "it is not known", f"use one of: {', '.join(quantizations)}")
    for field, value, low, high in (
        ("tensor_parallel", spec.tensor_parallel, 1, 1024),
        ("pipeline_parallel", spec.pipeline_parallel, 1, 1024),
        ("expert_parallel", spec.expert_parallel, 1, 1024),
        ("slots", spec.slots, 1, 4096),
        ("context", spec.context, 16, 1 << 21),
        ("max_tokens", spec.max_tokens, 0, 1 << 20),
        ("chunked_prefill", spec.chunked_prefill, 0, 1 << 20),
        ("memory_fraction", spec.memory_fraction, 0.01, 0.99),
        ("speculative.tokens", spec.speculative.tokens, 1, 64),
        ("speculative.ngram", spec.speculative.ngram, 1, 64),
        ("threads", spec.threads, 1, 1024),
        ("max_queue", spec.max_queue, 0, 100_000),
        ("drain_s", spec.drain_s, 0, 3600),
    ):
        if not low <= value <= high:
            raise Refused(field, value, f"it must lie between {low} and {high}", f"choose {field} in that range")
    _check_speculative(spec.speculative)
    _check_environment(spec.environment)
    _check_faults(spec.faults)


def _check_speculative(guess: Speculative) -> None:
    """A draft model is named where one is used, and only there."""
    methods = ("none", "draft", "ngram")
    if guess.method not in methods:
        rule = "it is not known"
        raise Refused("speculative.method", guess.method, rule, f"use one of: {', '.join(methods)}")
    if guess.method == "draft" and not guess.draft_model:
        raise Refused("speculative.draft_model", "", "method draft needs a model", "name one, or use method ngram")
    if guess.method != "draft" and guess.draft_model:
        rule = f"method {guess.method} uses no draft model"
        raise Refused("speculative.draft_model", guess.draft_model, rule, "set speculative.method to draft")


def check_draft_given(spec: EngineSpec, draft: ModelVersion | None) -> None:
    """A plan gets the files of the draft model exactly where its spec names one."""
    if (draft is not None) != (spec.speculative.method == "draft"):
        given = draft.name if draft else "none"
        rule = f"speculative.method is {spec.speculative.method}"
        raise Refused("draft", given, rule, "resolve speculative.draft_model and plan with it, or name none")


def _check_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            rule = "it is no name of an environment variable"
            raise Refused("environment", name, rule, "use letters, digits and _, not beginning with a digit")
        if not isinstance(value, str) or "\0" in value:
            raise Refused(f"environment.{name}", "(hidden)", "it is no text without NUL bytes", "give it in quotes")


def _check_faults(faults: Faults) -> None:
    high = {"ttft_delay_s": 3600, "token_delay_s": 3600, "ttft_stretch": 100, "token_stretch": 100}
    high["longest_prompt_bytes"] = 1 << 30
    for name, value in vars(faults).items():
        most = high.get(name, 1)  # all others are shares of requests
        if not 0 <= value <= most:
            raise Refused(f"faults.{name}", value, f"it must lie between 0 and {most}", "choose a value in that range")


def check_port(port: int) -> None:
    """An instance's port."""
    if port in RESERVED_PORTS:
        raise Refused("port", port, "8080 and 9090 are reserved", "choose another port, for example 18100")
    if not 1 <= port <= 65535:
        raise Refused("port", port, "a port lies between 1 and 65535", "choose another port, for example 18100")


def check_context(context: int, trained: int) -> None:
    """Tokens per slot against what the model was trained for."""
    if trained and context > trained:
        raise Refused("context", context, f"the model was trained for {trained} tokens", f"choose at most {trained}")


def check_threads(threads: int, cores: int) -> None:
    """Threads of an instance against the cores that it may use."""
    if threads > cores:
        raise Refused("threads", threads, f"this machine gives {cores} cores", f"choose at most {cores}")


def check_disk(needed: int, free: int, directory: str) -> None:
    """Bytes that a build writes against what is free where it writes."""
    if needed > free:
        raise Refused(
            "disk",
            f"{free / _GIB:.2f} GiB free",
            f"the build needs {needed / _GIB:.2f} GiB in {directory}",
            f"free {(needed - free) / _GIB:.2f} GiB or choose a smaller quantization",
        )


def check_memory(needed: int, total: int) -> None:
    """Bytes of one instance against the machine's memory."""
    if needed > total:
        raise Refused(
            "memory",
            f"{total / _GIB:.2f} GiB",
            f"one instance needs {needed / _GIB:.2f} GiB",
            "choose a smaller quantization, fewer slots or a shorter context",
        )
