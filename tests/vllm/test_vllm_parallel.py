"""Ranks, guesses and memory: the answers stay the same, and keys and values have the room that was reckoned."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from running_vllm import FIRST, RunningVllm, serving

from engines.hardware import read_hardware
from engines.port import EngineSpec, Speculative
from engines.sizing.config_file import shape_at
from engines.sizing.memory import VLLM_CPU_BLOCK, kv_token_bytes
from engines.vllm.engine import Vllm
from engines.vllm.serve import METRICS
from rollout.nouns import Engine, ModelVersion

THREE = replace(FIRST, tensor_parallel=3)
GUESSING = replace(
    FIRST,
    speculative=Speculative("ngram", tokens=3, ngram=3),
    context=384,
    slots=3,
    options={"kv_cache_memory_bytes": 100_000_000},
)
DRAFTED = replace(FIRST, speculative=Speculative("draft", "the model itself", 3), context=640)


@pytest.fixture(scope="module")
def three_ranks(
    kind: Vllm, engine: Engine, greedy: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningVllm]:
    with serving(kind, engine, THREE, tmp_path_factory.mktemp("three") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def guessing(
    kind: Vllm, engine: Engine, greedy: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningVllm]:
    with serving(kind, engine, GUESSING, tmp_path_factory.mktemp("guess") / "log") as running:
        yield running


def _reckoned(kind: Vllm, engine: Engine, spec: EngineSpec) -> int:
    """Tokens that sizing expects of the bytes in the command."""
    argv = kind.serve_command(engine, spec, "127.0.0.1", 18123).argv
    given = int(argv[argv.index("--kv-cache-memory-bytes") + 1])
    shape = shape_at(Path(engine.directory) / "model")
    each = kv_token_bytes(shape, spec.kv_cache_dtype, spec.tensor_parallel, 1, spec.dtype)
    return given // (each * VLLM_CPU_BLOCK) * VLLM_CPU_BLOCK


def test_one_rank_has_the_room_that_was_reckoned(kind: Vllm, engine: Engine, one_rank: RunningVllm) -> None:
    """All slots at the whole context in float32, and the block that vLLM keeps for itself."""
    expected = _reckoned(kind, engine, FIRST)
    assert one_rank.kv_tokens() == (expected, expected)
    assert expected == FIRST.slots * FIRST.context + VLLM_CPU_BLOCK


def test_three_ranks_give_the_same_tokens_as_one(three_ranks: RunningVllm, greedy: list[str]) -> None:
    """Nine heads and three KV heads, dealt to three processes."""
    assert three_ranks.greedy() == greedy
    assert len(set(greedy)) == len(greedy)


def test_three_ranks_have_the_room_that_was_reckoned(kind: Vllm, engine: Engine, three_ranks: RunningVllm) -> None:
    """A third of a token's keys and values on each rank."""
    expected = _reckoned(kind, engine, THREE)
    assert three_ranks.kv_tokens() == (expected, expected)


def test_guessing_by_ngrams_changes_no_token(guessing: RunningVllm, greedy: list[str]) -> None:
    """Guesses were made, some were right, and the answers are what they were without."""
    assert guessing.greedy() == greedy
    numbers = guessing.samples()
    assert 0 < numbers[METRICS["spec_accepted_total"]][0][1] <= numbers[METRICS["spec_drafted_total"]][0][1]


def test_bytes_that_fill_no_whole_block_are_rounded_down(kind: Vllm, engine: Engine, guessing: RunningVllm) -> None:
    """A size of the user's own, 100 MB."""
    expected = _reckoned(kind, engine, GUESSING)
    assert guessing.kv_tokens() == (expected, expected) == (2048, 2048)


def test_a_draft_model_changes_no_token(kind: Vllm, model: ModelVersion, greedy: list[str], tmp_path: Path) -> None:
    """The model guesses for itself: every guess is right, and the answers are what they were. Its own keys and values
    are reckoned with the model's."""
    built = kind.build(kind.plan(model, DRAFTED, read_hardware("/tmp"), model), lambda what, share: None)
    with serving(kind, built, DRAFTED, tmp_path / "log") as running:
        assert running.greedy() == greedy
        numbers = running.samples()
        assert 0 < numbers[METRICS["spec_accepted_total"]][0][1] == numbers[METRICS["spec_drafted_total"]][0][1]
        assert running.kv_tokens() == (DRAFTED.slots * DRAFTED.context + VLLM_CPU_BLOCK,) * 2
