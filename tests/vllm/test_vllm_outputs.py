"""A real vLLM tells answers and likelihoods as llama.cpp does, from the same weights."""

import json
from pathlib import Path

import pytest
from running_engine import running_engine
from running_vllm import RunningVllm

from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.outputs import BUNDLED, Asked, Asking
from engines.port import EngineSpec, LocalSettings
from rollout.answers import Question
from rollout.nouns import ModelVersion


def test_right_answers_are_as_likely_under_both_engines(
    one_rank: RunningVllm, model: ModelVersion, tmp_path: Path
) -> None:
    """Token by token, for three prompts: what is left is rounding."""
    kind, spec = LlamaCpp(LocalSettings(str(tmp_path))), EngineSpec(quantization="F16", slots=1, context=512)
    engine = kind.build(kind.plan(model, spec, read_hardware("/tmp")), lambda what, share: None)
    lines = [json.loads(line) for line in BUNDLED.read_text().splitlines()[:3]]
    with running_engine(kind, engine, spec, tmp_path / "log") as running:
        running.await_health(200)
        with Asked(running.base, Asking()) as llama, Asked(one_rank.base, Asking()) as vllm:
            for line in lines:
                question = Question(line["prompt"], line["answer"])
                ours, theirs = llama.reply(question), vllm.reply(question)
                assert ours.scored and theirs.scored
                assert theirs.scored == pytest.approx(ours.scored, abs=0.3)
                assert theirs.tokens[:1] and "".join(theirs.tokens) == theirs.text
