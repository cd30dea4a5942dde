"""Building: once per digest, whole or not at all, and verified by its bytes."""

from dataclasses import replace
from pathlib import Path

import pytest
from engine_cases import CASES, Case

from engines.port import EngineKind
from engines.warm_up import read_requests
from rollout.errors import Corrupt, Refused, RoundhouseError
from rollout.nouns import Engine, ModelVersion

READS = [case for case in CASES if case.weights]

reads_files = pytest.mark.parametrize("case", READS, ids=lambda case: case.name)


def quiet(what: str, share: float) -> None:
    """Progress that nobody reads."""


def test_a_second_build_is_found(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """Same digest and directory; the second says that it was found and took no time."""
    seen: list[float] = []
    plan = kind.plan(model, case.spec, case.hardware)
    first = kind.build(plan, lambda what, share: seen.append(share))
    second = kind.build(kind.plan(model, case.spec, case.hardware), quiet)
    assert (first.cached, second.cached, second.build_s) == (False, True, 0.0)
    assert (first.kind, first.digest, first.directory, first.size) == (
        second.kind,
        second.digest,
        second.directory,
        second.size,
    )
    assert (first.digest, first.directory, first.served_name) == (plan.digest, plan.directory, "tiny")
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_an_engine_that_was_built_here_is_verified(case: Case, kind: EngineKind, built: Engine) -> None:
    """Its own build is accepted, one that is not there is not."""
    kind.verify(built, case.hardware)
    with pytest.raises(RoundhouseError):
        kind.verify(replace(built, digest="0" * 64, directory=built.directory + "x"), case.hardware)


@reads_files
def test_an_engine_has_requests_to_warm_up_with(built: Engine) -> None:
    """Written by the build."""
    requests = read_requests(built.directory)
    assert requests and all(r.prompt or r.messages for r in requests)


@reads_files
@pytest.mark.parametrize("damage", ["truncated", "swapped", "missing"])
def test_a_damaged_engine_is_not_verified_and_is_built_again(
    case: Case, kind: EngineKind, model: ModelVersion, built: Engine, damage: str
) -> None:
    """Verifying says what is wrong; where its sizes are wrong too, the next build makes it anew."""
    file = Path(built.directory) / case.weights
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:-16] if damage == "truncated" else content[:-16] + b"\1" * 16)
    with pytest.raises((Corrupt, Refused), match=Path(case.weights).name + "|safetensors"):
        kind.verify(built, case.hardware)
    if damage != "swapped":
        assert kind.build(kind.plan(model, case.spec, case.hardware), quiet).cached is False
        kind.verify(built, case.hardware)


@reads_files
@pytest.mark.parametrize("damage", ["truncated", "swapped", "missing"])
def test_model_files_that_changed_after_the_plan_are_corrupt(
    case: Case, kind: EngineKind, model: ModelVersion, tmp_path: Path, damage: str
) -> None:
    """The build names the file and leaves no half engine."""
    plan = kind.plan(model, case.spec, case.hardware)
    file = Path(model.directory) / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:-16] if damage == "truncated" else content[:-16] + b"\1" * 16)
    with pytest.raises((Corrupt, Refused), match=r"model\.safetensors"):
        kind.build(plan, quiet)
    assert [p.name for p in (tmp_path / "engines").glob("[!.]*")] == []


@reads_files
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "no JSON"])
def test_files_that_cannot_be_read_are_refused_at_plan_time(
    case: Case, kind: EngineKind, model: ModelVersion, tmp_path: Path, name: str, damage: str
) -> None:
    """Configuration, tokenizer, weights: absent or nonsense, named before anything is written."""
    file = Path(model.directory) / name
    file.unlink()
    if damage == "no JSON":
        file.write_bytes(b"\xff{")
    with pytest.raises((Corrupt, Refused), match=f"{name.split('.')[0]}|safetensors|tokenizer"):
        kind.plan(model, case.spec, case.hardware)
    assert not (tmp_path / "engines").exists()
