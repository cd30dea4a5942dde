"""Evaluation sets: prompts with right answers, one JSON object a line, that stable and candidate are compared by.

``bundled`` is the small set that comes with the engines, any other a file: a path from the project, or
``dvc:PATH@REVISION`` of a file that DVC tracks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from configs.load import Config, check
from configs.stack import Stack
from engines.outputs import BUNDLED
from model_registry.dvc_registry import DvcRegistry
from rollout.answers import Question
from rollout.errors import NotFound, Refused
from rollout.policy import Policy

MOST_LINES = 10_000
_FIX = 'write lines like {"prompt": "What is the capital of France?", "answer": "Paris is the capital of France."}'


class EvaluationLine(Config):
    """One line of an evaluation set."""

    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    answer: Annotated[str, Field(max_length=100_000)] = ""
    as_json: Annotated[bool, Field(alias="json")] = False  # asked for in JSON mode


def load_evaluation(source: str, stack: Stack) -> tuple[Question, ...]:
    """The questions of an evaluation set. Raises Refused with the line, Unavailable, Corrupt."""
    return questions_of(_file(source, stack), source)


def check_evaluation(policy: Policy, stack: Stack) -> None:
    """Read the set that a policy compares answers by, where it does. Raises as ``load_evaluation``."""
    if policy.outputs is not None:
        load_evaluation(policy.evaluation, stack)


def questions_of(path: Path, source: str) -> tuple[Question, ...]:
    """The questions in a file that the user calls ``source``. Raises Refused."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        rule = "there is no such file" if isinstance(bad, FileNotFoundError) else f"it cannot be read: {bad}"
        raise Refused("evaluation", source, rule, "name bundled, a .jsonl file, or dvc:PATH@REVISION") from bad
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 1 <= len(lines) <= MOST_LINES:
        raise Refused("evaluation", source, f"it has {len(lines)} lines; 1 to {MOST_LINES} are read", _FIX)
    return tuple(_question(f"evaluation {source}, line {number}", line) for number, line in lines)


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
