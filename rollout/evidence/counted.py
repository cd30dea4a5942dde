"""What is known of one kind of counted event of both arms: errors, refusals, missed objectives, clients that left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import difference
from rollout.evidence.difference import Tally
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.latency import log_mean
from rollout.evidence.wagers import Floats
from rollout.policy import ErrorMargin

_ALL, _STRATA, _CLASSES = 0.6, 0.2, 0.2  # of the capital; the parts of each kind share theirs as they appear
_PAIR = 0.5  # the chance of either arm, where one answered a request well and the other did not


@dataclass(frozen=True)
class PartOf:
    """The events of one stratum or one class of error."""

    test: RatioTest
    n_stable: int = 0
    n_candidate: int = 0


@dataclass(frozen=True)
class Counted:
    """The evidence of one kind of event. ``allow`` 0: it is judged for harm alone."""

    name: str
    margin: ErrorMargin
    test: RatioTest
    tally: Tally = Tally()
    strata: dict[int, PartOf] = field(default_factory=dict)  # in order of appearance
    classes: dict[int, PartOf] = field(default_factory=dict)
    n_stable: int = 0
    n_candidate: int = 0
    stable: int = 0  # events
    candidate: int = 0
    harm: float = 0.0  # logarithm of the largest e-value so far against "at most ``harm_ratio`` times as often"

    @property
    def harm_now(self) -> float:
        """Logarithm of that e-value now: the mean over kinds of events."""
        told = [(_ALL, self.test.worse.now)]
        for whole, parts in ((_STRATA, self.strata), (_CLASSES, self.classes)):
            shares = [whole / ((k + 1) * (k + 2)) for k in range(len(parts))]
            told += zip(shares, (part.test.worse.now for part in parts.values()), strict=True)
            told.append((whole - sum(shares), 0.0))
        return log_mean(told)

    @property
    def allow(self) -> float:
        """Logarithm of the e-value against "as often as ``harm_ratio`` times and ``allow`` more than stable"."""
        fewer = float(np.log(max(self.tally.e_value(self.margin.allow), 1e-300)))
        return log_mean([(0.5, self.test.better.now), (0.5, fewer)])


def counted(name: str, margin: ErrorMargin) -> Counted:
    """The evidence before the first request."""
    return Counted(name, margin, RatioTest(margin.harm_ratio, margin.harm_ratio))


def with_requests(
    evidence: Counted,
    event: NDArray[np.bool_],
    kind: NDArray[np.int8],
    strata: NDArray[np.int64],
    candidate: NDArray[np.bool_],
    weight: Floats,
) -> Counted:
    """With live requests: whether each was an event, of which class (0: none), its stratum, arm and weight."""
    if not len(event):
        return evidence
    seen = replace(
        evidence,
        test=with_events(evidence.test, candidate[event], weight[event]),
        tally=difference.with_requests(evidence.tally, event, candidate, weight),
        strata=_parts(evidence, evidence.strata, strata, event, candidate, weight),
        classes=_parts(evidence, evidence.classes, kind.astype(np.int64), event, candidate, weight),
    )
    return _with_counts(seen, event, candidate)


def with_pairs(
    evidence: Counted,
    stable: NDArray[np.bool_],
    candidate: NDArray[np.bool_],
    kinds: tuple[NDArray[np.int8], NDArray[np.int8]],
    strata: NDArray[np.int64],
) -> Counted:
    """With requests that both arms answered: what only one of them did wrong tells them apart."""
    if not len(stable):
        return evidence
    odd = stable != candidate
    hit, weight = candidate[odd], np.full(int(odd.sum()), _PAIR)
    every, kind = np.ones(len(hit), bool), np.where(candidate, kinds[1], kinds[0])[odd]
    seen = replace(
        evidence,
        test=with_events(evidence.test, hit, weight),
        tally=difference.with_pairs(evidence.tally, candidate, stable),
        strata=_parts(evidence, evidence.strata, strata[odd], every, hit, weight),
        classes=_parts(evidence, evidence.classes, kind.astype(np.int64), every, hit, weight),
    )
    both, arm = np.concatenate([stable, candidate]), np.repeat([False, True], len(stable))
    return _with_counts(seen, both, arm)


def _with_counts(evidence: Counted, event: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> Counted:
    return replace(
        evidence,
        n_stable=evidence.n_stable + int((~candidate).sum()),
        n_candidate=evidence.n_candidate + int(candidate.sum()),
        stable=evidence.stable + int((event & ~candidate).sum()),
        candidate=evidence.candidate + int((event & candidate).sum()),
        harm=max(evidence.harm, evidence.harm_now),
    )


def _parts(
    evidence: Counted,
    before: dict[int, PartOf],
    numbers: NDArray[np.int64],
    event: NDArray[np.bool_],
    candidate: NDArray[np.bool_],
    weight: Floats,
) -> dict[int, PartOf]:
    """Each part with its events; a class of error has no requests of its own, so 0 (none) is left out there."""
    parts = dict(before)
    is_class = before is evidence.classes
    for number in np.unique(numbers[event] if is_class else numbers).tolist():
        if is_class and number == 0:
            continue
        of = numbers == number
        part = parts.get(number, PartOf(RatioTest(evidence.margin.harm_ratio, 0.0)))
        parts[number] = PartOf(
            with_events(part.test, candidate[of & event], weight[of & event], False),
            part.n_stable + int((of & ~candidate).sum()),
            part.n_candidate + int((of & candidate).sum()),
        )
    return parts
