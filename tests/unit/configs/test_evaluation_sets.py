"""Evaluation sets as people write them."""

from pathlib import Path

import pytest

from configs.evaluation import (
    MOST_LINES,
    check_evaluation,
    load_evaluation,
    named_by,
    questions_of,
    with_models_own,
)
from configs.stack import Stack
from model_registry.port import Registered
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question, parses
from rollout.errors import Refused
from rollout.policy import Policy

OWN = Policy(outputs=OutputLimits(), evaluation=("bundled", "model"))


def registered(uri: str, evaluation: str = "") -> Registered:
    return Registered("tiny", "3", uri, "", "gguf", "llama", 0, 0, evaluation=evaluation)


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


def test_several_sets_are_asked_in_their_order(tmp_path: Path) -> None:
    """The first set's prompts first."""
    stack = Stack(project=tmp_path, home=tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}1"}}\n{{"prompt": "{name}2"}}\n')
    found = load_evaluation(["b.jsonl", "a.jsonl"], stack)
    assert [question.prompt for question in found] == ["b1", "b2", "a1", "a2"]
    assert load_evaluation(["a.jsonl", "bundled"], stack)[2:] == load_evaluation("bundled", stack)


def test_a_prompt_that_occurs_again_is_asked_once(tmp_path: Path) -> None:
    """At its first place, with the first right answer that is given; in JSON mode it is another question."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n{"prompt": "y", "answer": "1"}\n{"prompt": "x"}\n')
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "y", "answer": "2"}\n{"prompt": "x", "answer": "3"}\n{"prompt": "x", "json": true}\n'
    )
    found = load_evaluation(["a.jsonl", "b.jsonl"], Stack(project=tmp_path, home=tmp_path))
    assert found == (Question("x", "3"), Question("y", "1"), Question("x", json=True))


def test_the_limit_holds_for_all_sets_together(tmp_path: Path) -> None:
    """The set that passes it is named, with what came before; the same line counts each time."""
    stack = Stack(project=tmp_path, home=tmp_path)
    (tmp_path / "full.jsonl").write_text('{"prompt": "a"}\n' * MOST_LINES)
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    assert load_evaluation("full.jsonl", stack) == (Question("a"),)
    with pytest.raises(Refused, match=rf"^evaluation: 'one\.jsonl' .* 1 lines, after {MOST_LINES} of the sets before"):
        load_evaluation(["full.jsonl", "one.jsonl"], stack)


def test_a_wrong_line_of_the_second_set_is_refused_with_its_set(tmp_path: Path) -> None:
    """Its number counts from that set's begin."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "b.jsonl").write_text('{"prompt": "c"}\n[]\n')
    with pytest.raises(Refused, match=r"^evaluation b\.jsonl, line 2: "):
        load_evaluation(["a.jsonl", "b.jsonl"], Stack(project=tmp_path, home=tmp_path))


def test_the_models_own_set_is_not_looked_for_without_a_model(tmp_path: Path) -> None:
    """A policy is checked by its other sets; elsewhere `model` says nothing."""
    stack = Stack(project=tmp_path, home=tmp_path)
    check_evaluation(OWN, stack)
    with pytest.raises(Refused, match=r"nope\.jsonl"):
        check_evaluation(Policy(outputs=OutputLimits(), evaluation=("model", "nope.jsonl")), stack)
    with pytest.raises(Refused, match=r"^evaluation: 'model' is refused: no model is known here"):
        load_evaluation("model", stack)


def test_who_does_not_ask_for_the_models_own_set_needs_no_registry(tmp_path: Path) -> None:
    """Policy and address stay as they are, an alias too."""
    stack, plain = Stack(project=tmp_path, home=tmp_path), Policy(outputs=OutputLimits())
    assert with_models_own(plain, "models:/tiny@candidate", stack) == (plain, "models:/tiny@candidate")
    silent = Policy(evaluation=("model",))
    assert with_models_own(silent, "models:/tiny@candidate", stack) == (silent, "models:/tiny@candidate")


def test_a_model_of_the_hub_names_no_set(tmp_path: Path) -> None:
    """Refused with the ways out."""
    with pytest.raises(Refused, match=r"^evaluation: 'model' .*Fix: register it .*, or write evaluation: bundled"):
        with_models_own(OWN, "hf:org/tiny", Stack(project=tmp_path, home=tmp_path))


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (registered("models:/tiny/3"), "names no evaluation set. Fix: run: roundhouse model evaluation tiny dvc:"),
        (registered("models:/tiny/3", "model"), "names itself. Fix: run: roundhouse model evaluation tiny dvc:"),
        (registered("dvc:m.gguf@1a"), "names no evaluation set. Fix: give it `meta: {evaluation: PATH}` among the art"),
    ],
)
def test_a_version_that_names_no_set_is_refused_with_the_command_that_does(version: Registered, told: str) -> None:
    """Field, version, rule and fix; a set that is named is told as it is."""
    with pytest.raises(Refused) as refused:
        named_by(version)
    assert str(refused.value).startswith(f"evaluation: 'model' is refused: {version.uri} {told}")
    assert named_by(registered("models:/tiny/3", "dvc:set.jsonl@v3")) == "dvc:set.jsonl@v3"
