"""Evaluation sets: prompts with right answers, one JSON object a line, that stable and candidate are compared by.

``bundled`` is the small set that comes with the engines, any other a file: a path from the project, or
``dvc:PATH@REVISION`` of a file that DVC tracks. In a policy ``model`` stands for the set that the model version names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from configs.load import Config, check
from configs.stack import Stack
from engines.outputs import BUNDLED
from model_registry.dvc_registry import DvcRegistry
from model_registry.port import Registered
from model_registry.sources import resolve_any
from rollout.answers import Question
from rollout.errors import NotFound, Refused
from rollout.policy import Policy

MODEL = "model"  #: in a policy: the set that the model version names
MOST_LINES = 10_000  # of all sets together
_FIX = 'write lines like {"prompt": "What is the capital of France?", "answer": "Paris is the capital of France."}'


class EvaluationLine(Config):
    """One line of an evaluation set."""

    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    answer: Annotated[str, Field(max_length=100_000)] = ""
    as_json: Annotated[bool, Field(alias="json")] = False  # asked for in JSON mode


def load_evaluation(sources: str | Sequence[str], stack: Stack) -> tuple[Question, ...]:
    """The questions of one evaluation set or of several, in that order; a prompt that occurs again is asked once.

    Raises Refused with source and line (and for ``model``, which stands in policies alone), Unavailable, Corrupt.
    """
    found: list[Question] = []
    for source in (sources,) if isinstance(sources, str) else sources:
        found += questions_of(_file(source, stack), source, len(found))
    return tuple(_once(found))


def check_evaluation(policy: Policy, stack: Stack) -> None:
    """Read the sets that a policy compares answers by, where it does; not ``model``, of which no model is known here.

    Raises as ``load_evaluation``.
    """
    if policy.outputs is not None:
        load_evaluation([source for source in policy.evaluation if source != MODEL], stack)


def with_models_own(policy: Policy, model: str, stack: Stack) -> tuple[Policy, str]:
    """The policy with the name of the model's own set in place of ``model``, and the version that names it (an alias
    may move on); both as they are where the policy does not ask for it. The set has been read, with the others.

    Raises Refused where the version names none or one that cannot be read, NotFound, Unavailable, Corrupt.
    """
    if policy.outputs is None or MODEL not in policy.evaluation:
        return policy, model
    if model.startswith("hf:"):
        fix = f"register it (roundhouse model register NAME {model}), or write evaluation: bundled"
        raise Refused("evaluation", MODEL, f"{model} is in no registry, so it names no evaluation set", fix)
    version = resolve_any(model, stack.registry(), str(stack.project))
    own = named_by(version)
    try:
        load_evaluation(own, stack)
    except Refused as refused:
        field = f"{refused.field} (named by {version.uri})"
        raise Refused(field, refused.value, refused.rule, refused.fix) from None
    named = replace(policy, evaluation=tuple(own if source == MODEL else source for source in policy.evaluation))
    check_evaluation(named, stack)
    return named, version.uri


def named_by(version: Registered) -> str:
    """The evaluation set that a model version names. Raises Refused where it names none, or itself."""
    if version.evaluation and version.evaluation != MODEL:
        return version.evaluation
    rule = f"{version.uri} names {'itself' if version.evaluation else 'no evaluation set'}"
    way = (
        f"run: roundhouse model evaluation {version.name} dvc:PATH@REVISION (--version {version.version}: for it alone)"
    )
    if version.uri.startswith("dvc:"):
        way = "give it `meta: {evaluation: PATH}` among the artifacts of dvc.yaml, and commit that"
    raise Refused("evaluation", MODEL, rule, f"{way}, or leave model out of the policy")


def questions_of(path: Path, source: str, before: int = 0) -> tuple[Question, ...]:
    """The questions in a file that the user calls ``source``, after so many of other sets. Raises Refused."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        rule = "there is no such file" if isinstance(bad, FileNotFoundError) else f"it cannot be read: {bad}"
        raise Refused("evaluation", source, rule, "name bundled, a .jsonl file, or dvc:PATH@REVISION") from bad
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 1 <= len(lines) <= MOST_LINES - before:
        others = f", after {before} of the sets before it" if before else ""
        rule = f"it has {len(lines)} lines{others}; 1 to {MOST_LINES} are read"
        raise Refused("evaluation", source, rule, "leave some out" if lines else _FIX)
    return tuple(_question(f"evaluation {source}, line {number}", line) for number, line in lines)


def _once(questions: Iterable[Question]) -> Iterable[Question]:
    """Each prompt at its first place; its right answer is the first that is given."""
    first: dict[tuple[str, bool], Question] = {}
    for question in questions:
        known = first.setdefault((question.prompt, question.json), question)
        if question.answer and not known.answer:
            first[question.prompt, question.json] = question
    return first.values()


def _question(where: str, line: str) -> Question:
    try:
        values = json.loads(line)
    except ValueError as bad:
        raise Refused(where, line[:80], f"it is no JSON: {bad}", _FIX) from bad
    if not isinstance(values, dict):
        raise Refused(where, line[:80], "a line is a JSON object", _FIX)
    read = check(EvaluationLine, values, where)
    return Question(read.prompt, read.answer, read.as_json)


def _file(source: str, stack: Stack) -> Path:
    if source == "bundled":
        return BUNDLED
    if source == MODEL:
        raise Refused(
            "evaluation", source, "no model is known here", "name bundled, a .jsonl file, or dvc:PATH@REVISION"
        )
    if source.startswith("dvc:"):
        return _tracked(source, stack)
    return stack.project / source


def _tracked(source: str, stack: Stack) -> Path:
    """A copy of the file that DVC tracks; refused as the field that names it."""
    try:
        return DvcRegistry(str(stack.cache), str(stack.project)).fetch_data(source, lambda what, share: None)
    except Refused as refused:
        raise Refused("evaluation", source, refused.rule, refused.fix) from None
    except NotFound as missing:
        rule = str(missing).removeprefix(f"{source}: ")
        raise Refused("evaluation", source, rule, "name a file that DVC tracks at that revision") from missing
