"""A real vLLM on this machine's processors, from .venv-vllm (`make setup-vllm`). Opt-in: `make test-vllm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_vllm import FIRST, RunningVllm, serving

from engines.hardware import read_hardware
from engines.local_model import read_local_model
from engines.port import LocalSettings
from engines.vllm.engine import Vllm
from engines.vllm.interpreter import interpreter_of
from rollout.nouns import Engine, ModelVersion


@pytest.fixture(scope="session")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Vllm:
    return Vllm(LocalSettings(str(tmp_path_factory.mktemp("engines"))))


@pytest.fixture(scope="session")
def vllm_python() -> str:
    return interpreter_of(LocalSettings(""))


@pytest.fixture(scope="session")
def model(sample_gguf: Path) -> ModelVersion:
    return read_local_model(sample_gguf, "smollm2")


@pytest.fixture(scope="session")
def engine(kind: Vllm, model: ModelVersion) -> Engine:
    """The sample model, converted once for all tests."""
    return kind.build(kind.plan(model, FIRST, read_hardware("/tmp")), lambda what, share: None)


@pytest.fixture(scope="session")
def one_rank(kind: Vllm, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVllm]:
    """The sample model on one rank; shared by the tests that leave it running."""
    with serving(kind, engine, FIRST, tmp_path_factory.mktemp("one") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def greedy(one_rank: RunningVllm) -> list[str]:
    """What one rank answers."""
    return one_rank.greedy()
