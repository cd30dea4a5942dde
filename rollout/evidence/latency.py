"""What is known of one latency of both arms: tests of the margins, effect, distributions, strata."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import means, ranks, sketch
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.means import Moments
from rollout.evidence.ranks import RankTest, with_scores
from rollout.evidence.sketch import Sketch
from rollout.evidence.wagers import Floats
from rollout.policy import Margin

REFERENCE = 50  # of stable's requests of a stratum, before any of it is tested
_TAIL = 0.9  # of stable's reference: what is slower is an event
_RANKS, _TAILS, _PARTS = 0.6, 0.25, 0.15  # of the capital; the parts of strata share theirs as they appear
_TABLE = 256


@dataclass(frozen=True)
class Cell:
    """Logarithms of the latencies of both arms in one stage and stratum."""

    stable: Moments = Moments()
    candidate: Moments = Moments()


@dataclass(frozen=True)
class Latency:
    """The evidence of one latency. A stratum's reference is stable's sorted latencies in it, frozen once it is full."""

    name: str
    margin: Margin
    by_answer: bool = False  # strata by the length of the answer as well
    slower: RankTest = RankTest(above=True)
    slower_tail: RatioTest = RatioTest(1.0, 0.0)
    faster: RankTest = RankTest(above=False)  # than what is allowed
    faster_tail: RatioTest = RatioTest(0.0, 1.0)
    parts: dict[int, RankTest] = field(default_factory=dict)  # ``slower`` of each stratum, in order of appearance
    references: dict[int, tuple[float, ...]] = field(default_factory=dict)
    waiting: dict[int, tuple[float, ...]] = field(default_factory=dict)  # of references that are not full yet
    cells: dict[str, Cell] = field(default_factory=dict)
    stable: Sketch = Sketch()
    candidate: Sketch = Sketch()
    harm: float = 0.0  # logarithm of the largest e-value so far against "at most ``harm`` times as slow"

    @property
    def harm_now(self) -> float:
        """Logarithm of that e-value now: the mean over ways of being slower."""
        shares = [_PARTS / ((k + 1) * (k + 2)) for k in range(len(self.parts))]
        told = list(zip(shares, (part.wagers.now for part in self.parts.values()), strict=True))
        told += [(_RANKS, self.slower.wagers.now), (_TAILS, self.slower_tail.worse.now)]
        return log_mean([*told, (_PARTS - sum(shares), 0.0)])

    @property
    def allow(self) -> float:
        """Logarithm of the e-value against "at least ``allow`` times as slow", typically or in the tail."""
        return min(self.faster.wagers.now, self.faster_tail.better.now)


def log_mean(told: list[tuple[float, float]]) -> float:
    """Logarithm of the mean of e-values, from (share, logarithm) of each."""
    top = max(value for _, value in told)
    return top + math.log(sum(share * math.exp(value - top) for share, value in told))


def with_reference(evidence: Latency, seconds: Floats, strata: NDArray[np.int64]) -> Latency:
    """With latencies of stable that are only compared with, such as those from before the release."""
    references, waiting = dict(evidence.references), dict(evidence.waiting)
    for stratum in np.unique(strata[~np.isnan(seconds)]).tolist():
        if stratum in references:
            continue
        values = (*waiting.pop(stratum, ()), *_values(seconds, strata == stratum))
        if len(values) < REFERENCE:
            waiting[stratum] = values
        else:
            references[stratum] = tuple(np.quantile(values, np.linspace(0, 1, min(len(values), _TABLE))).tolist())
    return replace(evidence, references=references, waiting=waiting)


def with_requests(
    evidence: Latency,
    seconds: Floats,
    strata: NDArray[np.int64],
    candidate: NDArray[np.bool_],
    weight: Floats,
    stage: int,
) -> Latency:
    """With live requests of both arms, in the order in which they began."""
    known = ~np.isnan(seconds)
    x, strata, hit, w = seconds[known], strata[known], candidate[known], weight[known]
    if not len(x):
        return evidence
    tested = _with_tests(evidence, x, strata, hit, w)
    seen = _with_sizes(replace(tested, harm=max(evidence.harm, tested.harm_now)), x, strata, hit, stage)
    return with_reference(seen, np.where(hit, np.nan, x), strata)


def with_pairs(evidence: Latency, stable: Floats, candidate: Floats, strata: NDArray[np.int64], stage: int) -> Latency:
    """With requests that both arms answered, row by row."""
    known = ~np.isnan(stable) & ~np.isnan(candidate)
    s, c, strata = stable[known], candidate[known], strata[known]
    if not len(s):
        return evidence
    own, ranked = _ranked(evidence, s, strata), {}
    tails = np.array([_tail(evidence, n) for n in strata.tolist()])
    usable = ~np.isnan(own)
    for bound in (evidence.margin.harm, evidence.margin.allow):
        scores = _ranked(evidence, c / bound, strata)
        odd = usable & ((c / bound > tails) != (s > tails))
        ranked[bound] = (scores, (c / bound > tails)[odd])
    harm, harm_events = ranked[evidence.margin.harm]
    allow, allow_events = ranked[evidence.margin.allow]
    tested = replace(
        evidence,
        slower=ranks.with_pairs(evidence.slower, harm[usable], own[usable]),
        slower_tail=with_events(evidence.slower_tail, harm_events, np.full(len(harm_events), 0.5), False),
        faster=ranks.with_pairs(evidence.faster, allow[usable], own[usable]),
        faster_tail=with_events(evidence.faster_tail, allow_events, np.full(len(allow_events), 0.5), False),
        parts=_pair_parts(evidence, harm, own, strata, usable),
    )
    both, hit = np.concatenate([s, c]), np.repeat([False, True], len(s))
    highest = replace(tested, harm=max(evidence.harm, tested.harm_now))
    seen = _with_sizes(highest, both, np.concatenate([strata, strata]), hit, stage)
    return with_reference(seen, s, strata)


def _with_tests(evidence: Latency, x: Floats, strata: NDArray[np.int64], hit: NDArray[np.bool_], w: Floats) -> Latency:
    known = np.isin(strata, list(evidence.references))
    if not known.any():
        return evidence
    x, strata, hit, w = x[known], strata[known], hit[known], w[known]
    harm_x = np.where(hit, x / evidence.margin.harm, x)
    allow_x = np.where(hit, x / evidence.margin.allow, x)
    harm_score, harm_over = _scored(evidence, harm_x, strata)
    allow_score, allow_over = _scored(evidence, allow_x, strata)
    parts = dict(evidence.parts)
    for stratum in np.unique(strata).tolist():
        of = strata == stratum
        parts[stratum] = with_scores(parts.get(stratum, RankTest(above=True)), harm_score[of], hit[of], w[of])
    return replace(
        evidence,
        slower=with_scores(evidence.slower, harm_score, hit, w),
        slower_tail=with_events(evidence.slower_tail, hit[harm_over], w[harm_over], False),
        faster=with_scores(evidence.faster, allow_score, hit, w),
        faster_tail=with_events(evidence.faster_tail, hit[allow_over], w[allow_over], False),
        parts=parts,
    )


def _scored(evidence: Latency, x: Floats, strata: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores, and whether each lies in stable's tail; all strata have a reference."""
    score, over = np.empty(len(x)), np.empty(len(x), bool)
    for stratum in np.unique(strata).tolist():
        of = strata == stratum
        score[of] = _score(evidence.references[stratum], x[of])
        over[of] = x[of] > _tail(evidence, stratum)
    return score, over


def _score(reference: tuple[float, ...], x: Floats) -> Floats:
    """The share of the reference that was faster; ties count half."""
    table = np.array(reference)
    below, upto = np.searchsorted(table, x, "left"), np.searchsorted(table, x, "right")
    return np.asarray((below + upto) / (2 * len(table)))


def _ranked(evidence: Latency, x: Floats, strata: NDArray[np.int64]) -> Floats:
    """Scores; NaN where a stratum has no reference."""
    score = np.full(len(x), np.nan)
    for stratum in np.unique(strata).tolist():
        if stratum in evidence.references:
            score[strata == stratum] = _score(evidence.references[stratum], x[strata == stratum])
    return score


def _tail(evidence: Latency, stratum: int) -> float:
    reference = evidence.references.get(stratum)
    return math.nan if reference is None else reference[int(_TAIL * (len(reference) - 1))]


def _pair_parts(
    evidence: Latency, harm: Floats, own: Floats, strata: NDArray[np.int64], usable: NDArray[np.bool_]
) -> dict[int, RankTest]:
    parts = dict(evidence.parts)
    for stratum in np.unique(strata[usable]).tolist():
        of = usable & (strata == stratum)
        parts[stratum] = ranks.with_pairs(parts.get(stratum, RankTest(above=True)), harm[of], own[of])
    return parts


def _with_sizes(evidence: Latency, x: Floats, strata: NDArray[np.int64], hit: NDArray[np.bool_], stage: int) -> Latency:
    cells, logs = dict(evidence.cells), np.log(x)
    for stratum in np.unique(strata).tolist():
        of, key = strata == stratum, f"{stage}/{stratum}"
        cell = cells.get(key, Cell())
        cells[key] = Cell(
            means.with_values(cell.stable, logs[of & ~hit]), means.with_values(cell.candidate, logs[of & hit])
        )
    return replace(
        evidence,
        cells=cells,
        stable=sketch.with_values(evidence.stable, x[~hit]),
        candidate=sketch.with_values(evidence.candidate, x[hit]),
    )


def _values(seconds: Floats, of: NDArray[np.bool_]) -> list[float]:
    chosen = seconds[of]
    return [float(v) for v in chosen[~np.isnan(chosen)]]
