"""Two answers to one prompt, compared."""

from hypothesis import given
from hypothesis import strategies as st

from rollout.answers import Question, Reply, compare, defects, is_loop, is_refusal, overlap, parses

WORDS = st.lists(st.sampled_from("abc"), max_size=8).map(tuple)


@given(WORDS, WORDS)
def test_overlap_is_a_share_and_symmetric(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    """Both are shares, what comes before the first difference is part of what is the same, and order is all one."""
    share, until, place = overlap(a, b)
    assert 0 <= until <= share <= 1
    assert overlap(b, a) == (share, until, place)
    assert (place is None) == (a == b)


@given(WORDS)
def test_an_answer_agrees_with_itself(words: tuple[str, ...]) -> None:
    """Equal replies are the same in everything."""
    reply = Reply("".join(words), words, scored=(-1.0, -2.0))
    seen = compare(Question("?"), reply, reply)
    assert (seen.same_share, seen.diverged_at, seen.gain) == (1.0, None, 0.0)
    assert seen.stable == seen.candidate


def test_the_gain_is_a_log_likelihood_per_token() -> None:
    """The candidate's less stable's, over the tokens of the right answer."""
    seen = compare(Question("?", "a b"), Reply("x", scored=(-1.0, -2.0)), Reply("x", scored=(-2.0, -4.0)))
    assert seen.gain == -1.5


def test_other_tokenizers_are_not_compared_token_by_token() -> None:
    """Scores of different lengths give no gain."""
    assert compare(Question("?"), Reply("x", scored=(-1.0,)), Reply("x", scored=(-1.0, -1.0))).gain is None


def test_answers_drawn_by_chance_are_compared_by_form_alone() -> None:
    """No words, but length and defects."""
    seen = compare(Question("?"), Reply("one two"), Reply("three four five"), greedy=False)
    assert seen.same_share is None and seen.length_ratio == 15 / 7


def test_an_answer_without_tokens_is_compared_by_words() -> None:
    """An engine that tells no tokens is compared by words and signs."""
    assert compare(Question("?"), Reply("It is Rome."), Reply("It is Bonn.")).diverged_at == 4


def test_each_defect_is_named() -> None:
    """Nothing said, no JSON, a refusal, a loop; a good answer has none."""
    asked = Question("?", json=True)
    assert defects(asked, Reply("", error="HTTP 500")) == ("unanswered",)
    assert defects(asked, Reply(" \n")) == ("empty",)
    assert defects(asked, Reply("{")) == ("not JSON",)
    assert defects(Question("?"), Reply("I'm sorry, but no.")) == ("refused",)
    assert defects(Question("?"), Reply("a b c d " * 3)) == ("looped",)
    assert defects(asked, Reply('{"a": 1}')) == ()


def test_a_refusal_is_known_by_how_it_begins() -> None:
    """A word of regret within an answer is none."""
    assert is_refusal("As an AI language model, I") and is_refusal("I can’t help with that")
    assert not is_refusal("He said: I am sorry.") and not is_refusal("I am happy")


def test_a_loop_needs_the_same_four_words_three_times() -> None:
    """Twice is a way of speaking."""
    assert is_loop("to be or not " * 3) and not is_loop("to be or not " * 2)


def test_only_one_whole_json_value_parses() -> None:
    """Trailing text makes it invalid."""
    assert parses('{"a": [1]}') and not parses('{"a": 1} yes') and not parses("")
