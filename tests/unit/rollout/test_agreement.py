"""Evidence from compared answers: exact levels, exact resumption, sentences with counts."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.agreement import EXAMPLES, Agreement, agreement_of, fresh, plain, with_comparisons, without
from rollout.agreement_finding import Needs, decided, finding, least_prompts, perplexity, ratio
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question, Reply
from rollout.errors import Refused
from rollout.nouns import Outcome

Seen = tuple[Question, Reply, Reply, bool]
NEEDS = Needs()


def reply(text: str, score: float) -> Reply:
    return Reply(text, tuple(text.split()), "stop", (score,) * 10)


def seen(loss: float = 0.0, stable: str = "it is so", candidate: str = "it is so") -> Seen:
    return Question("what?", "that"), reply(stable, -1.0), reply(candidate, -1.0 - loss), True


def after(*pairs: Seen, limits: OutputLimits = OutputLimits()) -> Agreement:
    return with_comparisons(fresh(limits), pairs)


REPLIES = st.builds(
    reply, st.sampled_from(["", "a", "a b", "a b c d " * 3, "I'm sorry", "{}"]), st.floats(-20, 0, allow_nan=False)
)
PAIRS = st.lists(st.tuples(st.builds(Question, st.just("p"), json=st.booleans()), REPLIES, REPLIES, st.booleans()))


@given(PAIRS, st.integers(0, 20))
@settings(max_examples=60)
def test_evidence_that_was_saved_goes_on_exactly(pairs: list[Seen], cut: int) -> None:
    """Saved as JSON in between, or in one go: the same to the last bit."""
    whole = after(*pairs)
    half = agreement_of(json.loads(json.dumps(plain(after(*pairs[:cut])))))
    assert plain(with_comparisons(half, pairs[cut:])) == plain(whole)


@given(PAIRS)
@settings(max_examples=60)
def test_an_engine_agrees_with_itself(pairs: list[Seen]) -> None:
    """Whatever stable says: when the candidate says the same, it is never rolled back."""
    result = finding(after(*[(q, stable, stable, greedy) for q, stable, _, greedy in pairs]), NEEDS)
    assert result.outcome is not Outcome.ROLL_BACK and result.harm_e == 1.0


def test_equal_answers_are_proven_good() -> None:
    """Forty prompts suffice, and the finding counts them."""
    result = finding(after(*[seen()] * 40), NEEDS)
    assert (result.outcome, result.effect, result.n_candidate) == (Outcome.PROMOTE, 1.0, 40)
    assert "40 of 40 answers are identical" in result.sentence


@pytest.mark.parametrize(
    "limits", [OutputLimits(), OutputLimits(perplexity_harm=1.2, perplexity_allow=1.5, same_harm=0.6, same_allow=0.5)]
)
def test_the_least_number_of_prompts_is_exact(limits: OutputLimits) -> None:
    """With so many equal answers it is proven, with one less it is not; the bundled set suffices."""
    least = least_prompts(limits, NEEDS)
    assert least is not None and least <= 40
    assert decided(after(*[seen()] * least, limits=limits), NEEDS)[0] is Outcome.PROMOTE
    assert decided(after(*[seen()] * (least - 1), limits=limits), NEEDS)[0] is Outcome.UNDECIDED


def test_narrow_limits_need_many_prompts() -> None:
    """More than are allowed for is None."""
    assert least_prompts(OutputLimits(defects_harm=0.005, defects_allow=0.01), NEEDS, most=100) is None


def test_no_answers_prove_nothing() -> None:
    """Without evidence it is undecided, and what is missing is told."""
    result = finding(without(fresh(OutputLimits()), "the engine does not answer"), NEEDS)
    assert result.outcome is Outcome.UNDECIDED and "the engine does not answer" in result.sentence


def test_unlikely_answers_are_found() -> None:
    """Twice the perplexity limit on every prompt is proven, named, and shown with numbers."""
    result = finding(after(*[seen(loss=1.1)] * 40), NEEDS)
    assert result.outcome is Outcome.ROLL_BACK and "limit of perplexity" in result.sentence
    assert result.effect == pytest.approx(3.004, abs=0.001) and result.effect > result.margin
    assert result.candidate == pytest.approx(8.166, abs=0.001)


def test_answers_that_only_the_candidate_spoils_are_found() -> None:
    """Loops on every second prompt are proven though their likelihood is fine."""
    loop = "no no no no " * 3
    result = finding(after(*[seen(candidate=loop), seen()] * 40), NEEDS)
    assert result.outcome is Outcome.ROLL_BACK and "looped 40 and 0 of 80" in result.sentence
    assert next(part for part in result.worst if part.name == "looped").candidate == 0.5


def test_answers_that_both_spoil_are_no_harm() -> None:
    """What stable cannot do either is not held against the candidate."""
    assert finding(after(*[seen(stable="", candidate="")] * 40), NEEDS).outcome is Outcome.PROMOTE


@pytest.mark.parametrize("longer", ["it is so, " * 4, ""])
def test_answers_of_another_length_are_found(longer: str) -> None:
    """Four times as long, or a quarter, on every prompt."""
    texts = ("it is so", "it is so and so and so it is and was") if longer else ("it is so, and so it was", "it")
    assert decided(after(*[seen(0.0, *texts)] * 60), NEEDS)[0] is Outcome.ROLL_BACK


def test_equal_tokens_are_judged_where_asked_for() -> None:
    """By default other words are told only; with a limit they roll back."""
    pairs = [seen(stable="a b c", candidate="x y z")] * 40
    assert finding(after(*pairs), NEEDS).outcome is Outcome.PROMOTE
    strict = OutputLimits(same_harm=0.5, same_allow=0.4)
    assert "same tokens" in finding(after(*pairs, limits=strict), NEEDS).sentence
    assert decided(after(*pairs, limits=strict), NEEDS)[0] is Outcome.ROLL_BACK


def test_an_engine_without_likelihoods_is_judged_by_the_rest() -> None:
    """The metric is left out, and its absence is told."""
    pairs = [(q, replace(a, scored=None), b, g) for q, a, b, g in [seen()] * 40]
    agreement = without(after(*pairs), "perplexity: not available")
    assert perplexity(agreement) == (None, None) and ratio(agreement) == (None, None, None)
    result = finding(agreement, NEEDS)
    assert result.outcome is Outcome.PROMOTE and result.sentence.endswith("perplexity: not available")


def test_users_words_stay_in_the_call_records() -> None:
    """An example from a user's request names it and repeats nothing of it."""
    pair = (Question("", id="r1"), Reply("my secret"), Reply("another secret"), False)
    (example,) = after(pair).examples
    assert example.id == "r1" and "secret" not in json.dumps(plain(after(pair)))


def test_the_examples_are_those_that_differ_most() -> None:
    """A bounded number, the worst first."""
    losses = [0.05 * n for n in range(20)]
    examples = after(*[seen(loss, candidate=f"it is {loss}") for loss in losses]).examples
    assert len(examples) == EXAMPLES and examples[0].gain == pytest.approx(-0.95)


def test_wrong_rollbacks_stay_below_the_level() -> None:
    """At the limit of harm itself, with a look after every prompt, at most 5 % of 200 candidates are rolled back."""
    chance, wrong = random.Random(7), 0
    limit = OutputLimits(defects_harm=0.0, defects_allow=0.0, length_harm=0.0, length_allow=0.0)
    for _ in range(200):
        agreement = fresh(limit)
        for _ in range(60):
            agreement = with_comparisons(agreement, [seen(chance.choice((0.0, 0.81093)))])
        wrong += decided(agreement, NEEDS)[0] is Outcome.ROLL_BACK
    assert wrong <= 10 + 7  # the level, and three deviations of the count


@pytest.mark.parametrize(
    "wrong",
    [
        {"perplexity_harm": 0.9},
        {"perplexity_harm": 3.0},
        {"defects_allow": 0.05},
        {"length_allow": 0.0},
        {"same_harm": 0.5, "same_allow": 0.0},
    ],
)
def test_limits_that_contradict_themselves_are_refused(wrong: dict[str, float]) -> None:
    """Field, value, rule and a way out."""
    with pytest.raises(Refused, match=r"outputs\..* is refused"):
        OutputLimits(**wrong)


def test_an_answer_that_an_engine_calls_impossible_is_told_in_few_digits() -> None:
    """It counts as a million times less likely in the ratio, and no figure of the sentence is a wall of digits."""
    found = finding(after(*[seen()] * 9, seen(loss=float("inf"))), NEEDS)
    assert found.effect == pytest.approx(1e6 ** (1 / 10))
    assert "3.98x stable's (more than 1e6 and 2.72" in found.sentence and len(found.sentence) < 500
