"""What a build of llama.cpp writes: the model, the draft model, the requests of the warm-up; each checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines import artifacts
from engines.gguf_file import read_gguf
from engines.port import BuildPlan, Progress
from engines.recorded import check_digests, told
from engines.sources import Facts, open_source
from engines.warm_up import SAMPLES_FILE, WARM_UP_FILE, write_requests
from rollout.errors import Corrupt, Refused
from rollout.nouns import ModelVersion

MODEL_FILE = "model.gguf"
DRAFT_FILE = "draft.gguf"


def make(plan: BuildPlan, directory: Path, progress: Progress) -> artifacts.Manifest:
    """Fill the directory; what its manifest says of the sources. Raises Corrupt, Refused, Unavailable,
    OSError."""
    progress("check digests", 0.0)
    models = [(plan.model, MODEL_FILE), *([(plan.draft, DRAFT_FILE)] if plan.draft else [])]
    for model, _ in models:
        check_digests(model)
    for number, (model, name) in enumerate(models):
        _convert(model, plan.spec.quantization, directory / name, _part(progress, number, len(models)))
    progress("verify", 0.95)
    source = open_source(plan.model)
    tokens, samples = source.vocabulary().tokens, has_samples(plan.model)
    write_requests(plan.model.directory, tokens, directory / WARM_UP_FILE, source.facts.context, samples)
    facts = {
        "architecture": source.facts.architecture,
        "parameters": source.facts.parameters,
        "derived_from": source.derived_from(plan.spec.quantization),
        "model": told(plan.model),
    }
    return {**facts, "draft": told(plan.draft)} if plan.draft else facts


def has_samples(model: ModelVersion) -> bool:
    """Whether request samples are among its recorded files, and so part of its digest."""
    return any(file.path == SAMPLES_FILE for file in model.files)


def _part(progress: Progress, number: int, count: int) -> Callable[[str, float], None]:
    return lambda what, share: progress(what, 0.95 * (number + share) / count)


def _convert(model: ModelVersion, quantization: str, out: Path, progress: Progress) -> None:
    source = open_source(model)
    source.write(model.name, quantization, out, progress)
    check_output(out, source.facts)


def check_output(out: Path, facts: Facts) -> None:
    """What was written is a whole GGUF with as many parameters as went in. Raises Corrupt."""
    try:
        written = read_gguf(out)
    except Refused as bad:
        raise Corrupt(f"the build wrote a file that cannot be read: {bad}") from bad
    if written.parameters != facts.parameters:
        raise Corrupt(f"the build wrote {written.parameters} parameters and the model has {facts.parameters}")
