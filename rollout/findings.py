"""What a metric's evidence says, in numbers and in one sentence that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from rollout.evidence import difference, means
from rollout.evidence.columns import stratum_name
from rollout.evidence.counted import Counted, PartOf
from rollout.evidence.events import RatioTest
from rollout.evidence.latency import Cell, Latency
from rollout.evidence.means import Moments
from rollout.nouns import ERRORS, Finding, Outcome, Part

SURE = 0.05  # one minus the confidence of what is shown
_MOST = 700.0  # the largest exponent that is a number
_TUNED_TO = 300  # requests at which the interval of a latency is narrowest
_FEWEST = 20  # of each arm, before an asymptotic interval is shown
_WORST = 3
_STANDS_OUT = 10.0  # e-value of a stratum that is worth naming


def latency_finding(test: Latency, alpha: float, needs: float) -> Finding:
    """A latency: its ratio candidate/stable (geometric means among like requests), and what is proven of it."""
    effect, low, high = _ratio(test)
    told = _decided(test.harm, alpha, test.allow, needs)
    stable, candidate = _typical(test, False), _typical(test, True)
    finding = Finding(
        metric=test.name,
        outcome=told,
        stable=stable,
        candidate=candidate,
        low=low,
        high=high,
        margin=test.margin.harm,
        n_stable=test.stable.n,
        n_candidate=test.candidate.n,
        sentence="",
        effect=effect,
        kind="ratio",
        harm_e=_e(test.harm),
        harm_needs=1 / alpha,
        allow_e=_e(test.allow),
        allow_needs=needs,
        worst=_worst_strata(test),
    )
    return replace(finding, sentence=_latency_sentence(test, finding))


def counted_finding(test: Counted, alpha: float, needs: float) -> Finding:
    """Counted events: the difference of the rates, and what is proven of it."""
    low, high = difference.interval(test.tally, SURE)
    told = _decided(test.harm, alpha, test.allow if test.margin.allow else math.inf, needs)
    rate_s, rate_c = _rate(test.stable, test.n_stable), _rate(test.candidate, test.n_candidate)
    finding = Finding(
        metric=test.name,
        outcome=told,
        stable=rate_s,
        candidate=rate_c,
        low=low,
        high=high,
        margin=test.margin.allow if test.margin.allow else test.margin.harm_ratio,
        n_stable=test.n_stable,
        n_candidate=test.n_candidate,
        sentence="",
        effect=None if rate_s is None or rate_c is None else rate_c - rate_s,
        kind="difference",
        harm_e=_e(test.harm),
        harm_needs=1 / alpha,
        allow_e=_e(test.allow) if test.margin.allow else 1.0,
        allow_needs=needs if test.margin.allow else 0.0,
        worst=_worst_parts(test),
    )
    return replace(finding, sentence=_counted_sentence(test, finding))


def split_finding(split: RatioTest) -> Finding:
    """The gateway does not deliver the split that was asked for: nothing that was compared can be trusted."""
    way = "more" if split.worse.peak > split.better.peak else "fewer"
    n = split.candidate + split.stable
    sentence = (
        f"sample ratio: the candidate got {split.candidate} of {n} requests, proven {way} than its share "
        f"(e-value {_shown_e(_e(max(split.worse.peak, split.better.peak)))}): the split is not what was asked for, "
        "so nothing is judged"
    )
    e = _e(max(split.worse.peak, split.better.peak))
    return Finding(
        "sample ratio",
        Outcome.UNDECIDED,
        None,
        None,
        None,
        None,
        1.0,
        split.stable,
        split.candidate,
        sentence,
        kind="rate",
        harm_e=e,
    )


def _decided(harm: float, alpha: float, allow: float, needs: float) -> Outcome:
    if harm >= -math.log(alpha):
        return Outcome.ROLL_BACK
    return Outcome.PROMOTE if allow >= math.log(needs) else Outcome.UNDECIDED


def _latency_sentence(test: Latency, found: Finding) -> str:
    n = f"{found.n_candidate} and {found.n_stable} requests"
    if found.effect is None or found.low is None or found.high is None:
        return f"{test.name}: {n}, too few to compare"
    p95 = f"p95 {shown(test.candidate.quantile(0.95))} against {shown(test.stable.quantile(0.95))}"
    between = f"95 % sure between {found.low:.2f}x and {found.high:.2f}x"
    seen = f"{test.name} of the candidate is {found.effect:.2f}x stable's, {between} ({p95}; {n})"
    margin = test.margin
    if found.outcome is Outcome.ROLL_BACK:
        return f"{seen}: proven above the margin {margin.harm:g}x (e-value {_shown_e(found.harm_e)}){_where(found)}"
    if found.outcome is Outcome.PROMOTE:
        return f"{seen}; margin {margin.allow:g}x: within"
    told = f"neither above {margin.harm:g}x nor within {margin.allow:g}x is proven yet"
    return f"{seen}; {told} (e-values {_shown_e(found.harm_e)} and {_shown_e(found.allow_e)})"


def _counted_sentence(test: Counted, found: Finding) -> str:
    kinds = _kinds(test)
    seen = (
        f"{test.name}: candidate {test.candidate} of {test.n_candidate}{kinds}, stable {test.stable} of {test.n_stable}"
    )
    if found.outcome is Outcome.ROLL_BACK:
        proven = f"proven more than {test.margin.harm_ratio:g} times stable's rate (e-value {_shown_e(found.harm_e)})"
        return f"{seen}: {proven}{_where(found)}"
    if not test.margin.allow:
        return f"{seen}: not proven more than {test.margin.harm_ratio:g} times stable's rate"
    most = "" if found.high is None else f"at most {found.high:+.1%} over stable, 95 % sure; "
    bound = f"margin {test.margin.allow:+.1%}"
    if found.outcome is Outcome.PROMOTE:
        return f"{seen}; {most}{bound}: within"
    return f"{seen}; {most}{bound}: not proven yet (e-value {_shown_e(found.allow_e)} of {found.allow_needs:.3g})"


def _kinds(test: Counted) -> str:
    """Which errors the candidate's were, most frequent first."""
    if test.name != "errors":
        return ""
    counts = sorted(((part.test.candidate, number) for number, part in test.classes.items()), reverse=True)
    told = ", ".join(f"{count} {ERRORS[number - 1]}" for count, number in counts if count)
    return f" ({told})" if told else ""


def _where(found: Finding) -> str:
    """The part that it shows in most, where there is more than one."""
    stands_out = len(found.worst) > 1 and found.worst[0].harm_e > max(_STANDS_OUT, found.worst[1].harm_e)
    return f"; most of all in {found.worst[0].name}" if stands_out else ""


def _ratio(test: Latency) -> tuple[float | None, float | None, float | None]:
    """Effect with its confidence sequence, as ratios; None before both arms have two requests in a stratum."""
    if min(test.candidate.n, test.stable.n) < _FEWEST:
        return None, None, None
    pairs = [(cell.candidate, cell.stable) for cell in test.cells.values()]
    effect, low, high = means.stratified(pairs, SURE, _TUNED_TO)
    if math.isinf(low):
        return None, None, None
    return math.exp(effect), math.exp(low), math.exp(min(high, _MOST))


def _typical(test: Latency, candidate: bool) -> float | None:
    """Geometric mean over all requests, seconds."""
    total = _total(test.cells.values(), candidate)
    return math.exp(total.mean) if total.n else None


def _total(cells: Iterable[Cell], candidate: bool) -> Moments:
    total = Moments()
    for cell in cells:
        total = means.joined(total, cell.candidate if candidate else cell.stable)
    return total


def _worst_strata(test: Latency) -> tuple[Part, ...]:
    found = []
    for number, part in test.parts.items():
        cells = [cell for key, cell in test.cells.items() if key.endswith(f"/{number}")]
        found.append(_stratum(stratum_name(number, test.by_answer), cells, _e(part.wagers.now)))
    return tuple(sorted(found, key=lambda part: -part.harm_e)[:_WORST])


def _stratum(name: str, cells: list[Cell], e: float) -> Part:
    stable, candidate = _total(cells, False), _total(cells, True)
    sizes = [math.exp(m.mean) if m.n else None for m in (stable, candidate)]
    return Part(name, stable.n, candidate.n, sizes[0], sizes[1], e)


def _worst_parts(test: Counted) -> tuple[Part, ...]:
    strata = [_part(stratum_name(number), part, test) for number, part in test.strata.items()]
    return tuple(sorted(strata, key=lambda part: -part.harm_e)[:_WORST])


def _part(name: str, part: PartOf, test: Counted) -> Part:
    rates = (_rate(part.test.stable, part.n_stable), _rate(part.test.candidate, part.n_candidate))
    return Part(name, part.n_stable, part.n_candidate, rates[0], rates[1], _e(part.test.worse.now))


def _rate(events: int, n: int) -> float | None:
    return events / n if n else None


def _e(log_e: float) -> float:
    return math.exp(min(log_e, _MOST))


def _shown_e(e: float) -> str:
    return f"{e:.3g}" if e < 1e6 else "above a million"


def shown(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "unknown"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
