"""Every test of this folder runs once per engine."""

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_cases import CASES, Case

from engines.port import EngineKind
from rollout.nouns import Engine, ModelVersion


def quiet(what: str, share: float) -> None:
    """Progress that nobody reads."""


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def kind(case: Case, tmp_path: Path) -> EngineKind:
    return case.open(tmp_path / "engines")


@pytest.fixture
def model(case: Case, tmp_path: Path) -> ModelVersion:
    return case.model(tmp_path / "model" / "tiny")


@pytest.fixture
def built(case: Case, kind: EngineKind, model: ModelVersion) -> Engine:
    """An engine of its own for a test that may damage it."""
    return kind.build(kind.plan(model, case.spec, case.hardware), quiet)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[EngineKind, Engine]]:
    """Engines that tests only look at, built once each."""

    made_of: dict[str, tuple[EngineKind, Engine]] = {}

    def made(case: Case) -> tuple[EngineKind, Engine]:
        if case.name in made_of:
            return made_of[case.name]
        place = tmp_path_factory.mktemp(case.name)
        kind = case.open(place / "engines")
        plan = kind.plan(case.model(place / "model" / "tiny"), case.spec, case.hardware)
        return made_of.setdefault(case.name, (kind, kind.build(plan, quiet)))

    return made
