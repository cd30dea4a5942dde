"""Engines that are built once for all of these tests."""

from pathlib import Path

import pytest
from tiny_models import write_tiny

from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings
from rollout.nouns import Engine

BUILD = EngineSpec(quantization="Q4_0", context=512)

HARDWARE = read_hardware("/tmp")


@pytest.fixture(scope="session")
def kind(tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    return LlamaCpp(LocalSettings(str(tmp_path_factory.mktemp("engines"))))


@pytest.fixture(scope="session")
def sample(kind: LlamaCpp, sample_gguf: Path) -> Engine:
    return kind.build(kind.plan(read_local_model(sample_gguf, "smollm"), BUILD, HARDWARE), lambda what, share: None)


@pytest.fixture(scope="session")
def tiny(kind: LlamaCpp, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = write_tiny(tmp_path_factory.mktemp("tiny") / "hf").version
    return kind.build(kind.plan(model, BUILD, HARDWARE), lambda what, share: None)
