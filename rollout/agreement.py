"""Whether two engines say the same: comparisons of answers in, evidence that may be looked at forever out.

Each comparison gives every test an outcome in [0, 1], larger being worse, and the test bets on its mean
(``rollout.evidence.betting``): against "at most the limit of harm", and against "at least what is allowed". The mean is
that over prompts like the ones that were asked, so tokens of one answer, which hang together, count as one outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rollout.agreement_limits import OutputLimits
from rollout.answers import DEFECTS, Comparison, Question, Reply, compare
from rollout.evidence.betting import Bet, with_outcomes
from rollout.evidence.means import Moments, with_values

EXAMPLES = 5  #: of the answers that differ most
_MOST_GAIN = math.log(1e6)  # of one answer, in means for people: an engine may call one impossible
BEST = {"same tokens": 0.0}  #: a test's outcome for equal answers; 1/2 for any other


@dataclass(frozen=True)
class Test:
    """One thing that is compared, with what was wagered on it. Bounds are means of outcomes, not the policy's units."""

    name: str
    harm: Bet
    allow: Bet


@dataclass(frozen=True)
class Tally:
    """How many answers have one defect, of so many that could have it."""

    name: str
    of: int = 0
    stable: int = 0
    candidate: int = 0


@dataclass(frozen=True)
class Totals:
    """Sums over the prompts, for people."""

    prompts: int = 0
    compared: int = 0  # word by word
    identical: int = 0
    same_share: float = 0.0
    same_until: float = 0.0
    scored: int = 0
    tokens: int = 0  # of the right answers
    likelihoods: tuple[float, float] = (0.0, 0.0)  # stable's and the candidate's
    lengths: int = 0
    log_length: float = 0.0
    spoilt: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Example:
    """Two answers that differ. Of a user's request only its ``id``: its words stay in the call records."""

    difference: float  # mean of the tests' outcomes, 0..1
    prompt: str
    stable: str
    candidate: str
    diverged_at: int | None
    gain: float | None
    id: str = ""


@dataclass(frozen=True)
class Agreement:
    """All that is known of how two engines' answers agree; bounded, whatever the number of prompts."""

    limits: OutputLimits
    tests: tuple[Test, ...]
    totals: Totals = Totals()
    tallies: tuple[Tally, ...] = tuple(Tally(name) for name in DEFECTS)
    gains: Moments = Moments()
    peak: float = 0.0  # logarithm of the highest mean of the tests' capital
    examples: tuple[Example, ...] = ()
    missing: tuple[str, ...] = field(default=())  # what could not be compared, and why


def fresh(limits: OutputLimits) -> Agreement:
    """Before the first answer."""
    return Agreement(limits, tuple(_tests(limits)))


def _tests(limits: OutputLimits) -> Iterable[Test]:
    """Outcomes of logarithms of ratios: 1/2 where nothing changes, 3/4 at what is allowed, clipped at twice that."""
    for name, of in (("perplexity", "perplexity"), ("longer", "length"), ("shorter", "length")):
        harm, allow = getattr(limits, f"{of}_harm"), getattr(limits, f"{of}_allow")
        if allow:
            yield _test(name, 0.5 + math.log(harm) / (4 * math.log(allow)), 0.75)
    if limits.defects_allow:
        yield _test("defects", 0.5 + limits.defects_harm / 2, 0.5 + limits.defects_allow / 2)
    if limits.same_allow:
        yield _test("same tokens", 1 - limits.same_harm, 1 - limits.same_allow)


def _test(name: str, harm: float, allow: float) -> Test:
    return Test(name, Bet(harm, above=True), Bet(allow, above=False))


def outcome(name: str, seen: Comparison, limits: OutputLimits) -> float | None:
    """What one comparison says to the test of that name, 0 (better) to 1 (worse); None: nothing."""
    if name == "perplexity":
        return None if (gain := _gain(seen)) is None else _scaled(-gain, limits.perplexity_allow)
    if name in ("longer", "shorter"):
        sign = 1 if name == "longer" else -1
        return None if not seen.length_ratio else _scaled(sign * math.log(seen.length_ratio), limits.length_allow)
    if name == "defects":
        return (1 + bool(seen.candidate) - bool(seen.stable)) / 2
    return None if seen.same_share is None else 1 - seen.same_share


def _gain(seen: Comparison) -> float | None:
    """None too where both engines call the right answer impossible: that compares nothing."""
    return None if seen.gain is None or math.isnan(seen.gain) else seen.gain


def _scaled(log_ratio: float, allow: float) -> float:
    return min(max(0.5 + log_ratio / (4 * math.log(allow)), 0.0), 1.0)


def with_comparisons(agreement: Agreement, seen: Iterable[tuple[Question, Reply, Reply, bool]]) -> Agreement:
    """The evidence with more answers: question, stable's reply, the candidate's, and whether both were greedy."""
    for question, stable, candidate, greedy in seen:
        comparison = compare(question, stable, candidate, greedy)
        example = _example(agreement, question, stable, candidate, comparison)
        agreement = _kept(with_measured(agreement, [comparison]), example)
    return agreement


def with_measured(agreement: Agreement, comparisons: Iterable[Comparison]) -> Agreement:
    """The evidence with comparisons whose answers are known no more; all but the examples is the same."""
    for comparison in comparisons:
        agreement = _counted(_bet(agreement, comparison), comparison)
    return agreement


def _bet(agreement: Agreement, seen: Comparison) -> Agreement:
    tests = tuple(
        test
        if (x := outcome(test.name, seen, agreement.limits)) is None
        else replace(test, harm=with_outcomes(test.harm, [x]), allow=with_outcomes(test.allow, [x]))
        for test in agreement.tests
    )
    return replace(agreement, tests=tests, peak=max(agreement.peak, log_harm(tests)))


def log_harm(tests: tuple[Test, ...]) -> float:
    """Logarithm of the mean of the tests' capital: one test of "no limit of harm is passed" (a mean of e-values)."""
    if not tests:
        return 0.0
    top = max(test.harm.log_capital for test in tests)
    return top + math.log(sum(math.exp(test.harm.log_capital - top) for test in tests) / len(tests))


def _counted(agreement: Agreement, seen: Comparison) -> Agreement:
    t = agreement.totals
    gain = _gain(seen)
    scored = (0.0, 0.0, 0) if gain is None or not seen.scored else seen.scored
    gains = [] if gain is None else [min(max(gain, -_MOST_GAIN), _MOST_GAIN)]
    totals = Totals(
        prompts=t.prompts + 1,
        compared=t.compared + (seen.same_share is not None),
        identical=t.identical + (seen.same_share == 1.0),
        same_share=t.same_share + (seen.same_share or 0.0),
        same_until=t.same_until + (seen.same_until or 0.0),
        scored=t.scored + len(gains),
        tokens=t.tokens + scored[2],
        likelihoods=(t.likelihoods[0] + scored[0], t.likelihoods[1] + scored[1]),
        lengths=t.lengths + (seen.length_ratio is not None),
        log_length=t.log_length + (math.log(seen.length_ratio) if seen.length_ratio else 0.0),
        spoilt=(t.spoilt[0] + bool(seen.stable), t.spoilt[1] + bool(seen.candidate)),
    )
    tallies = tuple(_tallied(tally, seen) for tally in agreement.tallies)
    return replace(agreement, totals=totals, tallies=tallies, gains=with_values(agreement.gains, gains))


def _tallied(tally: Tally, seen: Comparison) -> Tally:
    could = seen.json if tally.name == "not JSON" else True
    stable, candidate = tally.stable + (tally.name in seen.stable), tally.candidate + (tally.name in seen.candidate)
    return Tally(tally.name, tally.of + could, stable, candidate)


def _example(
    agreement: Agreement, question: Question, stable: Reply, candidate: Reply, seen: Comparison
) -> Example | None:
    if (stable.text, stable.error) == (candidate.text, candidate.error):
        return None
    outcomes = [x for test in agreement.tests if (x := outcome(test.name, seen, agreement.limits)) is not None]
    difference = sum(outcomes) / len(outcomes) if outcomes else 0.0
    texts = ("", "", "") if question.id else (question.prompt, stable.text, candidate.text)
    return Example(difference, *texts, seen.diverged_at, seen.gain, question.id)


def _kept(agreement: Agreement, example: Example | None) -> Agreement:
    if example is None:
        return agreement
    most = sorted((*agreement.examples, example), key=lambda e: -e.difference)[:EXAMPLES]
    return replace(agreement, examples=tuple(most))


def without(agreement: Agreement, what: str) -> Agreement:
    """The evidence, telling that something could not be compared, and why; told once."""
    return agreement if what in agreement.missing else replace(agreement, missing=(*agreement.missing, what))


def plain(agreement: Agreement) -> dict[str, Any]:
    """The evidence as JSON-ready values; ``agreement_of`` reads them back to the last bit."""
    return asdict(agreement)


def agreement_of(doc: dict[str, Any]) -> Agreement:
    """The evidence in a document. Raises KeyError, TypeError where it is none.

    JSON has no infinity: where a likelihood is none, an engine called an answer impossible.
    """
    tests = tuple(Test(t["name"], Bet(**t["harm"]), Bet(**t["allow"])) for t in doc["tests"])
    totals = {
        name: tuple(map(_likelihood, v)) if isinstance(v, list | tuple) else v for name, v in doc["totals"].items()
    }
    return Agreement(
        limits=OutputLimits(**doc["limits"]),
        tests=tests,
        totals=Totals(**totals),
        tallies=tuple(Tally(**t) for t in doc["tallies"]),
        gains=Moments(**{name: _likelihood(value) for name, value in doc["gains"].items()}),
        peak=doc["peak"],
        examples=tuple(Example(**e) for e in doc["examples"]),
        missing=tuple(doc["missing"]),
    )


def _likelihood(value: float | None) -> float:
    return -math.inf if value is None else value
