"""Planning: decided from the inputs alone, nothing written, and no with a reason before anything is begun."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_cases import CASES, UNIVERSAL, Case

from engines.port import EngineKind, LocalSettings, Speculative, open_engine
from rollout.errors import Refused
from rollout.nouns import ModelVersion

DRAFTED = Speculative("draft", "the draft")
REFUSALS = [
    pytest.param(case, changes, field, id=f"{case.name}-{field}-{number}")
    for case in CASES
    for number, (changes, field) in enumerate((*UNIVERSAL, *case.refuses))
]


def test_a_plan_is_the_same_twice_and_writes_nothing(
    case: Case, kind: EngineKind, model: ModelVersion, tmp_path: Path
) -> None:
    """Planning decides from its inputs alone."""
    assert kind.plan(model, case.spec, case.hardware) == kind.plan(model, case.spec, case.hardware)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_plan_says_what_it_decided_and_why(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """A digest, a directory that bears it, steps in words, bytes, and reasons."""
    plan = kind.plan(model, case.spec, case.hardware)
    assert len(plan.digest) == 64 and plan.digest[:16] in plan.directory and case.spec.kind in plan.directory
    assert plan.steps and all(plan.steps) and plan.reasons and all(plan.reasons.values())
    assert plan.disk_bytes >= 0 and plan.memory_bytes >= 0 and (plan.model, plan.spec.kind) == (model, case.spec.kind)


def test_what_changes_the_files_changes_the_digest(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """Another model, or each setting that goes into the build."""
    digests = [kind.plan(model, replace(case.spec, **c), case.hardware).digest for c in ({}, *case.rebuilds)]
    digests.append(kind.plan(replace(model, digest="0" * 64), case.spec, case.hardware).digest)
    assert len(set(digests)) == len(case.rebuilds) + 2


def test_what_only_serves_does_not_change_the_digest(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """One engine is served in many ways."""
    plans = [kind.plan(model, replace(case.spec, **c), case.hardware) for c in ({}, *case.serves)]
    assert len(plans) > 1 and len({plan.digest for plan in plans}) == 1


@pytest.mark.parametrize(("case", "changes", "field"), REFUSALS)
def test_a_spec_that_cannot_work_is_refused(
    case: Case, changes: dict[str, Any], field: str, kind: EngineKind, model: ModelVersion, tmp_path: Path
) -> None:
    """The refusal names the field, the rule and what to do; nothing was written."""
    with pytest.raises(Refused) as refusal:
        kind.plan(model, replace(case.spec, **changes), case.hardware)
    assert refusal.value.field.startswith(field) and refusal.value.rule and refusal.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_draft_is_given_exactly_where_it_is_used(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """A draft model that is missing, or that nobody asked for, is refused."""
    with pytest.raises(Refused):
        kind.plan(model, replace(case.spec, speculative=DRAFTED), case.hardware)
    with pytest.raises(Refused):
        kind.plan(model, case.spec, case.hardware, model)


def test_a_machine_that_is_too_small_is_refused(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """Full disk, and memory below what one instance needs, with numbers."""
    if case.name == "memory":
        assert kind.plan(model, case.spec, replace(case.hardware, disk_free_bytes=0)).disk_bytes == 0
        return
    small_gpus = tuple(replace(g, memory_bytes=1 << 20, free_bytes=1 << 20) for g in case.hardware.gpus)
    for small in (
        replace(case.hardware, disk_free_bytes=1),
        replace(case.hardware, memory_bytes=1 << 20, gpus=small_gpus),
    ):
        with pytest.raises(Refused, match=r"\d") as refusal:
            kind.plan(model, case.spec, small)
        assert refusal.value.fix


def test_a_model_of_another_format_is_refused(case: Case, kind: EngineKind, model: ModelVersion) -> None:
    """The engines that read files say which formats they take."""
    odd = replace(model, format="onnx")
    if case.name == "memory":
        assert kind.plan(odd, case.spec, case.hardware).model == odd
        return
    with pytest.raises(Refused, match=r"onnx|safetensors"):
        kind.plan(odd, case.spec, case.hardware)


def test_an_unknown_kind_fails_loudly(tmp_path: Path) -> None:
    """It never falls back to another engine."""
    with pytest.raises(Refused, match="no such engine"):
        open_engine("tensorflow", LocalSettings(str(tmp_path)))
