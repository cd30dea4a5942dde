"""How answers are scored."""

import json

from engines.evaluate import PROMPTS, Answer, is_clean, is_expected, summary


def test_an_answer_in_a_loop_is_not_clean() -> None:
    """Empty answers and the same four words three times are caught; a normal sentence is not."""
    assert is_clean("Paris is the capital of France.")
    assert not is_clean("  ")
    assert not is_clean("the cat sat down " * 3)


def test_an_expected_word_is_looked_for_as_a_word() -> None:
    """Case does not matter, alternatives count, parts inside another word do not."""
    assert is_expected("It is PARIS.", "Paris")
    assert is_expected("Seven days", "7|seven")
    assert not is_expected("comparison", "Paris")


def test_the_summary_is_means_and_shares() -> None:
    """Two answers, one right and one stuck."""
    answers = [Answer("Paris", "Paris", 0.1, 2, 10.0), Answer("no no no no no no no", "Rome", 0.3, 4, 30.0)]
    assert summary(answers) == {
        "prompts": 2,
        "expected_share": 0.5,
        "clean_share": 0.5,
        "ttft_s_mean": 0.2,
        "tokens_per_s": 20.0,
        "tokens": 6,
    }


def test_the_bundled_prompts_are_readable() -> None:
    """Twelve lines, each with a prompt and what to expect."""
    lines = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    assert len(lines) == 12 and all(line["prompt"] and line["expect"] for line in lines)
