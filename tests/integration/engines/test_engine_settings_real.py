"""Settings of a spec, seen in what a real llama.cpp process does."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running_engine import CLIENT, RunningEngine, running_engine

from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.llama_params import KV_TYPES
from engines.local_model import read_local_model
from engines.port import EngineSpec, Placement, Speculative
from engines.warm_up import read_requests
from rollout.nouns import Engine

SPEC = EngineSpec(quantization="Q4_0", slots=2, context=512)
PROMPT = "The cat sat on the mat. The cat sat on the mat. The cat sat on"
HARDWARE = read_hardware("/tmp")


def _answer(running: RunningEngine, **options: Any) -> dict[str, Any]:
    answer = running.complete(PROMPT, max_tokens=24, ignore_eos=True, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def plain(kind: LlamaCpp, sample: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text without speculation."""
    with running_engine(kind, sample, SPEC, tmp_path_factory.mktemp("plain") / "log") as running:
        return _answer(running)["choices"][0]["text"]


def test_guesses_from_the_prompt_change_no_text(kind: LlamaCpp, sample: Engine, tmp_path: Path, plain: str) -> None:
    """Tokens are guessed and accepted, and the greedy answer is the same."""
    spec = replace(SPEC, speculative=Speculative("ngram", tokens=4, ngram=2))
    with running_engine(kind, sample, spec, tmp_path / "log") as running:
        answer = _answer(running)
    assert answer["choices"][0]["text"] == plain
    assert answer["timings"]["draft_n_accepted"] > 0


def test_a_draft_model_changes_no_text(kind: LlamaCpp, sample_gguf: Path, tmp_path: Path, plain: str) -> None:
    """The model as its own draft: built beside it, and its guesses are accepted."""
    model = read_local_model(sample_gguf, "smollm")
    spec = replace(SPEC, speculative=Speculative("draft", "the same", tokens=4))
    engine = kind.build(kind.plan(model, spec, HARDWARE, model), lambda what, share: None)
    with running_engine(kind, engine, spec, tmp_path / "log") as running:
        answer = _answer(running)
    assert answer["choices"][0]["text"] == plain
    timings = answer["timings"]
    assert timings["draft_n_accepted"] > timings["draft_n"] / 2 > 0


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_each_type_of_keys_and_values_answers(kind: LlamaCpp, tiny: Engine, tmp_path: Path, kv_type: str) -> None:
    """What the plan accepts, the process loads with."""
    with running_engine(kind, tiny, replace(SPEC, kv_cache_dtype=kv_type), tmp_path / "log") as running:
        assert _answer(running)["timings"]["predicted_n"] == 24


@pytest.mark.parametrize("reuse", [True, False])
def test_prefixes_are_reused_as_asked(kind: LlamaCpp, tiny: Engine, tmp_path: Path, reuse: bool) -> None:
    """The second request finds its prompt in the cache, or works on all of it again."""
    with running_engine(kind, tiny, replace(SPEC, prefix_reuse=reuse, slots=1), tmp_path / "log") as running:
        first, second = _answer(running)["timings"], _answer(running)["timings"]
    assert first["cache_n"] == 0
    assert (second["cache_n"] > 0) is reuse


def test_slots_and_context_are_those_of_the_spec(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """As many slots, each with the whole context; options reach the server."""
    spec = replace(SPEC, slots=3, context=512, max_tokens=64, options={"n_ubatch": 32, "sampling.top_k": 7})
    with running_engine(kind, tiny, spec, tmp_path / "log") as running:
        slots = CLIENT.get(f"{running.base}/slots").json()
        told = CLIENT.get(f"{running.base}/props").json()["default_generation_settings"]["params"]
    assert [slot["n_ctx"] for slot in slots] == [512] * 3
    assert told["top_k"] == 7


def test_every_request_of_a_warm_up_is_answered(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """Those that fit the context; made prompts have about the length that they were made for."""
    requests = read_requests(sample.directory, SPEC.context)
    with running_engine(kind, sample, SPEC, tmp_path / "log") as running:
        for request in requests:
            path, body = request.sent_as("smollm")
            answer = CLIENT.post(running.base + path, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["prompt_tokens"] == pytest.approx(request.tokens, rel=0.1, abs=2)
    assert len(requests) >= 4


def test_the_process_with_the_model_keeps_to_its_processors(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """All of its threads; the front is free."""
    core = max(os.sched_getaffinity(0))
    placement = Placement(cores=(core,))
    with running_engine(kind, tiny, SPEC, tmp_path / "log", placement=placement) as running:
        (child,) = running.children()
        threads = [int(task.name) for task in Path(f"/proc/{child}/task").iterdir()]
        assert len(threads) > 1 and {frozenset(os.sched_getaffinity(t)) for t in threads} == {frozenset({core})}
        assert os.sched_getaffinity(running.process.pid) == os.sched_getaffinity(0)


def test_processors_that_are_not_there_keep_nobody_from_serving(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """The log warns, and requests are answered."""
    placement = Placement(cores=(100_000,))
    with running_engine(kind, tiny, SPEC, tmp_path / "log", placement=placement) as running:
        assert _answer(running)["timings"]["predicted_n"] == 24
        assert "not kept on processors 100000" in running.log.read_text()
