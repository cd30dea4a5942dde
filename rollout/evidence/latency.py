"""What is known of one latency of both arms: tests of the margins, effect, distributions, strata."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import difference, means, ranks, sketch
from rollout.evidence.difference import Tally
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.means import Moments
from rollout.evidence.ranks import RankTest, with_scores
from rollout.evidence.sketch import Sketch
from rollout.evidence.wagers import Floats
from rollout.policy import Margin

REFERENCE = 50  # of stable's requests of a stratum, before any of it is tested
_KEPT = 100  # of them, the newest ones, so that the reference follows the load
TAIL_MORE = 0.05  #: of the requests that may be in the candidate's tail beyond the tenth that is in stable's
_TAIL = 0.9  # of stable's reference: what is slower is an event
_RANKS, _TAILS, _PARTS = 0.6, 0.25, 0.15  # of the capital; the parts of strata share theirs as they appear


@dataclass(frozen=True)
class Cell:
    """Logarithms of the latencies of both arms in one stage and stratum."""

    stable: Moments = Moments()
    candidate: Moments = Moments()


@dataclass(frozen=True)
class Latency:
    """The evidence of one latency. A stratum's reference is stable's last latencies in it, before those tested."""

    name: str
    margin: Margin
    by_answer: bool = False  # strata by the length of the answer as well
    slower: RankTest = RankTest(above=True)
    slower_tail: RatioTest = RatioTest(1.0, 0.0)
    faster: RankTest = RankTest(above=False)  # than what is allowed
    faster_tail: RatioTest = RatioTest(0.0, 1.0)
    faster_tally: Tally = Tally()  # of the same: in the tail or not
    parts: dict[int, RankTest] = field(default_factory=dict)  # ``slower`` of each stratum, in order of appearance
    references: dict[int, tuple[float, ...]] = field(default_factory=dict)
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
        """Logarithm of the e-value against "at least ``allow`` times as slow", typically or in the tail.

        In the tail that is: as many requests beyond it as stable's, and ``TAIL_MORE`` of all more than that. A heavy
        tail looks alike at any scale, so that by the first alone nothing would ever be proven of it.
        """
        more = self.faster_tally.e_value(TAIL_MORE)
        tail = log_mean([(0.5, self.faster_tail.better.now), (0.5, math.log(max(more, 1e-300)))])
        return min(self.faster.wagers.now, tail)


def log_mean(told: list[tuple[float, float]]) -> float:
    """Logarithm of the mean of e-values, from (share, logarithm) of each."""
    top = max(value for _, value in told)
    return top + math.log(sum(share * math.exp(value - top) for share, value in told))


def with_reference(evidence: Latency, seconds: Floats, strata: NDArray[np.int64]) -> Latency:
    """With latencies of stable that are only compared with, such as those from before the release."""
    references = dict(evidence.references)
    for stratum in np.unique(strata[~np.isnan(seconds)]).tolist():
        new = seconds[(strata == stratum) & ~np.isnan(seconds)][-_KEPT:]
        references[stratum] = (*references.get(stratum, ()), *new.tolist())[-_KEPT:]
    return replace(evidence, references=references)


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
    tested = _with_pair_tests(evidence, s, c, strata)
    both, hit = np.concatenate([s, c]), np.repeat([False, True], len(s))
    highest = replace(tested, harm=max(evidence.harm, tested.harm_now))
    seen = _with_sizes(highest, both, np.concatenate([strata, strata]), hit, stage)
    return with_reference(seen, s, strata)


def _with_tests(evidence: Latency, x: Floats, strata: NDArray[np.int64], hit: NDArray[np.bool_], w: Floats) -> Latency:
    known = np.isin(strata, [number for number, values in evidence.references.items() if len(values) >= REFERENCE])
    if not known.any():
        return evidence
    x, strata, hit, w = x[known], strata[known], hit[known], w[known]
    harm_x = np.where(hit, x / evidence.margin.harm, x)
    allow_x = np.where(hit, x / evidence.margin.allow, x)
    tables = _tables(evidence, strata)
    harm_score, harm_over = _scored(tables, harm_x, strata)
    allow_score, allow_over = _scored(tables, allow_x, strata)
    parts, centre = dict(evidence.parts), np.empty(len(x))
    for stratum in np.unique(strata).tolist():
        of = strata == stratum
        centre[of] = parts.get(stratum, RankTest(above=True)).centre  # its own: else another mix would look like harm
        parts[stratum] = with_scores(parts.get(stratum, RankTest(above=True)), harm_score[of], hit[of], w[of])
    return replace(
        evidence,
        slower=with_scores(evidence.slower, harm_score, hit, w, centre),
        slower_tail=with_events(evidence.slower_tail, hit[harm_over], w[harm_over], False),
        faster=with_scores(evidence.faster, allow_score, hit, w, centre),
        faster_tail=with_events(evidence.faster_tail, hit[allow_over], w[allow_over], False),
        faster_tally=difference.with_requests(evidence.faster_tally, allow_over, hit, w),
        parts=parts,
    )


def _with_pair_tests(evidence: Latency, s: Floats, c: Floats, strata: NDArray[np.int64]) -> Latency:
    known = np.isin(strata, [number for number, values in evidence.references.items() if len(values) >= REFERENCE])
    if not known.any():
        return evidence
    s, c, strata = s[known], c[known], strata[known]
    tables = _tables(evidence, strata)
    own, own_over = _scored(tables, s, strata)
    harm, harm_over = _scored(tables, c / evidence.margin.harm, strata)
    allow, allow_over = _scored(tables, c / evidence.margin.allow, strata)
    parts = dict(evidence.parts)
    for stratum in np.unique(strata).tolist():
        of = strata == stratum
        parts[stratum] = ranks.with_pairs(parts.get(stratum, RankTest(above=True)), harm[of], own[of])
    return replace(
        evidence,
        slower=ranks.with_pairs(evidence.slower, harm, own),
        slower_tail=_with_odd(evidence.slower_tail, harm_over, own_over),
        faster=ranks.with_pairs(evidence.faster, allow, own),
        faster_tail=_with_odd(evidence.faster_tail, allow_over, own_over),
        faster_tally=difference.with_pairs(evidence.faster_tally, allow_over, own_over),
        parts=parts,
    )


def _with_odd(test: RatioTest, candidate: NDArray[np.bool_], stable: NDArray[np.bool_]) -> RatioTest:
    """Pairs of which one half lies in the tail: either half as likely, where both arms are alike."""
    odd = candidate != stable
    return with_events(test, candidate[odd], np.full(int(odd.sum()), 0.5), False)


def _tables(evidence: Latency, strata: NDArray[np.int64]) -> dict[int, Floats]:
    return {number: np.sort(evidence.references[number]) for number in np.unique(strata).tolist()}


def _scored(tables: dict[int, Floats], x: Floats, strata: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores, and whether each lies in stable's tail; all strata have a reference."""
    score, over = np.empty(len(x)), np.empty(len(x), bool)
    for stratum, table in tables.items():
        of = strata == stratum
        score[of], over[of] = _score(table, x[of]), x[of] > table[int(_TAIL * (len(table) - 1))]
    return score, over


def _score(table: Floats, x: Floats) -> Floats:
    """The share of the sorted reference that was faster; ties count half."""
    below, upto = np.searchsorted(table, x, "left"), np.searchsorted(table, x, "right")
    return np.asarray((below + upto) / (2 * len(table)))


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
