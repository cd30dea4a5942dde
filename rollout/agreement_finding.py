"""What the agreement of two engines' answers says: a ``Finding`` for the verdict, and a sentence for a person."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rollout.agreement import BEST, Agreement, Tally, Test, fresh
from rollout.agreement_limits import OutputLimits
from rollout.evidence.betting import with_outcomes
from rollout.evidence.means import half_width
from rollout.nouns import Finding, Outcome, Part

_TUNED_TO = 100  # prompts at which the confidence sequence is narrowest
_LARGEST = 700.0  # logarithm of the largest e-value that is written down


@dataclass(frozen=True)
class Needs:
    """What decides. Levels as ``rollout.levels`` shares them; ``least`` prompts before anything is called good."""

    harm_level: float = 0.05
    allow_e: float = 20.0
    least: int = 10


def finding(agreement: Agreement, needs: Needs) -> Finding:
    """The metric "outputs". Its effect is the ratio of perplexities of the right answers; its harm all tests' mean."""
    perplexities, (effect, low, high) = perplexity(agreement), ratio(agreement)
    result, told = decided(agreement, needs)
    return Finding(
        metric="outputs",
        outcome=result,
        stable=perplexities[0],
        candidate=perplexities[1],
        low=low,
        high=high,
        margin=agreement.limits.perplexity_harm,
        n_stable=agreement.totals.prompts,
        n_candidate=agreement.totals.prompts,
        sentence=f"outputs: {told}; {sentence(agreement)}",
        effect=effect,
        harm_e=_e(agreement.peak),
        harm_needs=1 / needs.harm_level,
        allow_e=_e(min((test.allow.peak for test in heard(agreement)), default=0.0)),
        allow_needs=needs.allow_e,
        worst=tuple(_part(tally) for tally in agreement.tallies if tally.stable or tally.candidate),
    )


def heard(agreement: Agreement) -> tuple[Test, ...]:
    """The tests that any answer said something to; an engine that cannot score an answer leaves one out."""
    return tuple(test for test in agreement.tests if test.harm.n)


def decided(agreement: Agreement, needs: Needs) -> tuple[Outcome, str]:
    """The answer, and in words what decided it."""
    tests = heard(agreement)
    if agreement.peak >= -math.log(needs.harm_level):
        worst = max(tests, key=lambda test: test.harm.log_capital)
        return Outcome.ROLL_BACK, f"answers differ beyond the limit of {worst.name}"
    open_ones = _open(agreement, needs)
    if tests and not open_ones and agreement.totals.prompts >= needs.least:
        return Outcome.PROMOTE, "answers agree within what is allowed"
    return Outcome.UNDECIDED, f"not yet proven: {', '.join(open_ones) or 'too few prompts'}"


def undecidable(agreement: Agreement, needs: Needs, pairs: bool) -> str:
    """What stays unproven although all prompts were asked; empty where all is decided, or ``pairs`` may still tell.

    Pairs are answers to users' requests, whose right answers nobody knows: they say nothing of perplexity.
    """
    outcome, told = decided(agreement, needs)
    if outcome is not Outcome.UNDECIDED or (pairs and "perplexity" not in _open(agreement, needs)):
        return ""
    return told


def _open(agreement: Agreement, needs: Needs) -> list[str]:
    return [test.name for test in heard(agreement) if test.allow.peak < math.log(needs.allow_e)]


def least_prompts(limits: OutputLimits, needs: Needs, most: int = 10_000) -> int | None:
    """How many prompts it takes to call answers good that agree in everything; None: more than ``most``.

    So an evaluation set can be too small for its limits, however good the candidate is.
    """
    proofs = [(test.allow, BEST.get(test.name, 0.5)) for test in fresh(limits).tests]
    for number in range(1, most + 1):
        proofs = [(with_outcomes(bet, [best]), best) for bet, best in proofs]
        if number >= needs.least and all(bet.peak >= math.log(needs.allow_e) for bet, _ in proofs):
            return number
    return None


def perplexity(agreement: Agreement) -> tuple[float | None, float | None]:
    """Of the right answers, per token, under stable and under the candidate."""
    totals = agreement.totals
    if not totals.tokens:
        return None, None
    stable, candidate = (_e(-sum_ / totals.tokens) for sum_ in totals.likelihoods)
    return stable, candidate


def ratio(agreement: Agreement, alpha: float = 0.05) -> tuple[float | None, float | None, float | None]:
    """Perplexity ratio (candidate over stable), every prompt counting alike, with its confidence sequence.

    Asymptotic (``rollout.evidence.means``), for people; the tests are exact and do not use it.
    """
    gains = agreement.gains
    if not gains.n:
        return None, None, None
    if gains.n < 2:
        return _e(-gains.mean), None, None
    width = half_width(gains.n, gains.variance, alpha, _TUNED_TO)
    return _e(-gains.mean), _e(-gains.mean - width), _e(width - gains.mean)


def sentence(agreement: Agreement) -> str:
    """Every figure with its count, what is missing at the end."""
    parts = [_perplexity_told(agreement), _words_told(agreement), _length_told(agreement), _defects_told(agreement)]
    return "; ".join([part for part in parts if part] + list(agreement.missing))


def _perplexity_told(agreement: Agreement) -> str:
    (stable, candidate), (effect, low, high) = perplexity(agreement), ratio(agreement)
    if stable is None or candidate is None or effect is None:
        return ""
    sure = "" if low is None or high is None else f", 95 % sure between {_short(low)}x and {_short(high)}x"
    t, limits = agreement.totals, agreement.limits
    told = f"limit {limits.perplexity_harm:g}x, allowed {limits.perplexity_allow:g}x" if limits.perplexity_harm else ""
    return (
        f"perplexity of right answers is {_short(effect)}x stable's ({_short(candidate)} and {_short(stable)}, "
        f"{t.tokens} tokens of {t.scored} answers{sure}; {told or 'no limit'})"
    )


def _short(value: float) -> str:
    """Two places; of more than a million, which one answer called impossible makes of all, no digits."""
    return f"{value:.2f}" if value < 1e6 else "more than 1e6"


def _words_told(agreement: Agreement) -> str:
    t = agreement.totals
    if not t.compared:
        return ""
    return (
        f"{t.same_share / t.compared:.0%} of the tokens are the same, {t.same_until / t.compared:.0%} come before the "
        f"first difference, {t.identical} of {t.compared} answers are identical"
    )


def _length_told(agreement: Agreement) -> str:
    t = agreement.totals
    return f"length {math.exp(t.log_length / t.lengths):.2f}x over {t.lengths} answers" if t.lengths else ""


def _defects_told(agreement: Agreement) -> str:
    t = agreement.totals
    kinds = [f"{x.name} {x.candidate} and {x.stable} of {x.of}" for x in agreement.tallies if x.stable or x.candidate]
    return f"{t.spoilt[1]} and {t.spoilt[0]} of {t.prompts} answers are spoilt" + (
        f" ({', '.join(kinds)})" if kinds else ""
    )


def _part(tally: Tally) -> Part:
    n = tally.of or 1
    return Part(tally.name, tally.of, tally.of, tally.stable / n, tally.candidate / n, 1.0)


def _e(logarithm: float) -> float:
    return math.exp(min(logarithm, _LARGEST))
