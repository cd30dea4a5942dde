"""Evaluation sets as people write them."""

from pathlib import Path

import pytest

from configs.evaluation import load_evaluation, questions_of
from configs.stack import Stack
from rollout.answers import Question, parses
from rollout.errors import Refused


def test_the_bundled_set_is_complete() -> None:
    """About forty prompts, all different, each with a right answer; those in JSON mode parse."""
    stack = Stack(project=Path("/nowhere"), home=Path("/nowhere"))
    questions = load_evaluation("bundled", stack)
    assert len(questions) == len({q.prompt for q in questions}) == 40
    assert all(q.answer for q in questions)
    assert [parses(q.answer) for q in questions if q.json] == [True] * 5


def test_a_file_of_the_project_is_read(tmp_path: Path) -> None:
    """Empty lines are skipped, answer and json may be left out."""
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b", "answer": "c", "json": true}\n')
    found = load_evaluation("mine.jsonl", Stack(project=tmp_path, home=tmp_path))
    assert found == (Question("a"), Question("b", "c", True))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "0 lines"),
        ('{"prompt": "a"}\n{"prompt"', "line 2"),
        ('{"prompt": ""}', "prompt"),
        ('{"promt": "a"}', "promt"),
        ("[1]", "a JSON object"),
    ],
)
def test_a_wrong_line_is_refused_by_number_and_rule(tmp_path: Path, text: str, told: str) -> None:
    """Whoever wrote it finds it again."""
    (tmp_path / "set.jsonl").write_text(text)
    with pytest.raises(Refused, match=told):
        questions_of(tmp_path / "set.jsonl", "set.jsonl")


def test_a_source_that_is_no_path_is_refused_as_the_field_it_stands_in(tmp_path: Path) -> None:
    """Not as a model's source, which the user did not write."""
    with pytest.raises(Refused, match=r"^evaluation: 'dvc:' is refused: .*Fix: write dvc:PATH"):
        load_evaluation("dvc:", Stack(project=tmp_path, home=tmp_path))


def test_a_wrong_line_is_refused_with_the_field_that_names_its_file(tmp_path: Path) -> None:
    """The field, the file and the line."""
    (tmp_path / "set.jsonl").write_text('{"prompt": "a"}\nnone\n')
    with pytest.raises(Refused, match=r"^evaluation set\.jsonl, line 2: 'none' is refused"):
        load_evaluation("set.jsonl", Stack(project=tmp_path, home=tmp_path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the forms that a source has."""
    with pytest.raises(Refused, match="dvc:PATH@REVISION"):
        questions_of(tmp_path / "none.jsonl", "none.jsonl")
