"""The agent's warm-up of a real engine, with the requests that its build wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_engine import running_engine

from agent.probes import WarmUp, run_warm_up
from engines.llama_cpp import LlamaCpp
from engines.port import EngineSpec
from engines.warm_up import read_requests
from rollout.errors import Unavailable
from rollout.nouns import Engine

SPEC = EngineSpec(quantization="Q4_0", context=512)


def test_each_length_is_warmed_up_and_measured(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """Its own requests that fit the context; times to the first and between tokens, as the engine counts prompts."""
    lengths = {request.tokens for request in read_requests(sample.directory, SPEC.context)}
    with running_engine(kind, sample, SPEC, tmp_path / "log") as engine:
        numbers = run_warm_up(engine.base, WarmUp(sample.directory, sample.served_name, 4, SPEC.context))
    told = {int(name[1 : -len("_ttft_s")]) for name in numbers if name.endswith("_ttft_s")}
    assert len(told) == len(lengths) >= 3
    assert all(any(abs(tokens - wanted) <= wanted // 2 for wanted in lengths) for tokens in told)
    assert numbers["requests"] >= 4 * len(lengths)
    longest = max(told)
    assert numbers[f"p{longest}_ttft_first_s"] > numbers[f"p{longest}_ttft_s"] > 0  # its prompt is in the cache now


def test_an_engine_that_dies_while_it_is_warmed_up_is_told(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """A reason, not a hang."""
    with running_engine(kind, sample, SPEC, tmp_path / "log") as engine:
        engine.process.kill()
        engine.process.wait()
        with pytest.raises(Unavailable, match="/v1/completions"):
            run_warm_up(engine.base, WarmUp(sample.directory, sample.served_name, 4))
