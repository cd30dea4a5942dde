"""All that is known of a candidate: one small value that grows with each request and is saved at each look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import counted, latency
from rollout.evidence.columns import LEFT, REFUSED, Columns, columns
from rollout.evidence.counted import Counted
from rollout.evidence.events import RatioTest, with_events
from rollout.evidence.latency import Latency
from rollout.evidence.wagers import Floats
from rollout.nouns import Sample, Samples
from rollout.policy import ErrorMargin, Margin, Objectives, Policy

SPLIT_ALPHA = 0.0005  # on each side: probability that a split that works is ever called wrong
_MORE_LEFT = 0.05  # of the requests whose clients may leave beyond stable's share
_OPEN = 8192  # answers that wait for their other half; more are given up, the oldest first


@dataclass(frozen=True)
class Evidence:
    """Tests and sizes of each metric, whatever the number of requests; of this stage how many of each arm."""

    latencies: tuple[Latency, ...]
    counts: tuple[Counted, ...]
    objectives: Objectives | None = None
    split: RatioTest = RatioTest(1.0, 1.0)  # every routed request is an event: does the gateway deliver the split?
    stage: int = 0
    n_stable: int = 0  # in this stage, of what is compared
    n_candidate: int = 0
    streamed: int = 0  # in this stage
    last_at: float = 0.0  # when the candidate's newest request began
    open_stable: tuple[Sample, ...] = field(default=())  # not yet paired
    open_candidate: tuple[Sample, ...] = field(default=())

    @property
    def split_broken(self) -> bool:
        """Whether it is proven that the candidate gets more or less than it was given."""
        return self.split.harmful(SPLIT_ALPHA) or self.split.allowed(SPLIT_ALPHA)


def fresh(policy: Policy) -> Evidence:
    """The evidence before the first request."""
    margins = (("TTFT", policy.ttft), ("TPOT", policy.tpot), ("E2E", policy.e2e))
    kept: list[tuple[str, ErrorMargin | None]] = [("errors", policy.errors), ("refusals", policy.refusals)]
    kept.append(("goodput", policy.goodput if policy.objectives else None))
    kept.append(("abandoned", ErrorMargin(policy.abandoned, _MORE_LEFT) if policy.abandoned else None))
    return Evidence(
        latencies=tuple(Latency(name, m, by_answer=name == "E2E") for name, m in margins if isinstance(m, Margin)),
        counts=tuple(counted.counted(name, m) for name, m in kept if m),
        objectives=policy.objectives,
    )


def with_reference(evidence: Evidence, samples: Sequence[Sample]) -> Evidence:
    """With requests of stable from before the release: its latencies become what both arms are ranked by."""
    seen = columns(samples, ())
    return replace(
        evidence,
        latencies=tuple(
            latency.with_reference(test, seconds, strata)
            for test in evidence.latencies
            for seconds, strata in [_of(test, seen)]
        ),
    )


def next_stage(evidence: Evidence, number: int) -> Evidence:
    """At the beginning of a stage: its counts begin anew, and the tests go on."""
    return replace(evidence, stage=number, n_stable=0, n_candidate=0, streamed=0, open_stable=(), open_candidate=())


def with_routed(evidence: Evidence, weight: Sequence[float], candidate: Sequence[bool]) -> Evidence:
    """With requests as they were routed, in any order, whatever became of them: the share in force, who got each."""
    return replace(evidence, split=with_events(evidence.split, candidate, weight, interval=False, ordered=False))


def with_samples(evidence: Evidence, samples: Samples) -> Evidence:
    """With live requests of both arms, or with copies beside what they are copies of."""
    live = [s for s in samples.candidate if not s.mirrored]
    copies = [s for s in samples.candidate if s.mirrored]
    if not copies and not evidence.open_candidate and any(s.weight for s in samples.stable):
        return with_columns(evidence, columns(samples.stable, live))
    paired, both = _matched(evidence, samples.stable, copies)
    seen = with_columns(paired, columns([s for s in samples.stable if s.weight], live))
    copied = [c._replace(at=s.at) for s, c in both]  # of one age, so that rows stay beside each other
    return with_pairs(seen, columns([s for s, _ in both], ()), columns((), copied))


def with_columns(evidence: Evidence, seen: Columns) -> Evidence:
    """With live requests as columns, in the order in which they began."""
    routed = seen.rows((seen.weight > 0) & (seen.weight < 1))
    if not len(routed):
        return evidence
    hit, w = routed.candidate, routed.weight
    return replace(
        evidence,
        latencies=tuple(
            latency.with_requests(test, *_of(test, routed), hit, w, evidence.stage) for test in evidence.latencies
        ),
        counts=tuple(
            counted.with_requests(test, _events(test, seen, evidence.objectives), seen.error, seen.strata, *arms)
            for test in evidence.counts
            for seen in [_judged(test, routed)]
            for arms in [(seen.candidate, seen.weight)]
        ),
        **_seen(evidence, routed, int((~hit).sum()), int(hit.sum())),
    )


def with_pairs(evidence: Evidence, stable: Columns, candidate: Columns) -> Evidence:
    """With requests that both arms answered, row by row the same."""
    if not len(stable):
        return evidence
    kinds, objectives = (stable.error, candidate.error), evidence.objectives
    return replace(
        evidence,
        latencies=tuple(
            latency.with_pairs(test, *_alike(test, stable, candidate), evidence.stage) for test in evidence.latencies
        ),
        counts=tuple(
            counted.with_pairs(
                test, _events(test, stable, objectives), _events(test, candidate, objectives), kinds, stable.strata
            )
            for test in evidence.counts
        ),
        **_seen(evidence, candidate, len(stable), len(candidate))
        | {"streamed": evidence.streamed + _streams(stable) + _streams(candidate)},
    )


def _seen(evidence: Evidence, seen: Columns, stable: int, candidate: int) -> dict[str, float]:
    newest = seen.at[seen.candidate]
    return {
        "n_stable": evidence.n_stable + stable,
        "n_candidate": evidence.n_candidate + candidate,
        "streamed": evidence.streamed + _streams(seen),
        "last_at": max(evidence.last_at, float(newest.max()) if len(newest) else 0.0),
    }


def _streams(seen: Columns) -> int:
    return int((seen.streamed & (seen.error == 0)).sum())


def _of(test: Latency, seen: Columns) -> tuple[Floats, NDArray[np.int64]]:
    seconds: Floats = {"TTFT": seen.ttft, "TPOT": seen.tpot, "E2E": seen.e2e}[test.name]
    return seconds, seen.answer_strata if test.by_answer else seen.strata


def _alike(test: Latency, stable: Columns, candidate: Columns) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Latencies of both arms where both answers are of one stratum: what only one had in its cache compares nothing.

    Of the two strata neither may be preferred: "stable had it in its cache" picks answers of stable that were fast.
    """
    (slow, strata), (other, others) = _of(test, stable), _of(test, candidate)
    return np.where(strata == others, slow, np.nan), other, strata


def _judged(test: Counted, seen: Columns) -> Columns:
    """A client that left is no answer, neither a good one nor a bad one."""
    return seen.rows(seen.error != LEFT) if test.name in ("errors", "refusals") else seen


def _events(test: Counted, seen: Columns, objectives: Objectives | None) -> NDArray[np.bool_]:
    if test.name == "refusals":
        return seen.error == REFUSED
    if test.name == "abandoned":
        return seen.error == LEFT
    if test.name == "goodput" and objectives:
        return (seen.error > 0) | _missed(seen, objectives)
    return seen.failed


def _missed(seen: Columns, objectives: Objectives) -> NDArray[np.bool_]:
    bounds = ((seen.ttft, objectives.ttft_s), (seen.tpot, objectives.tpot_s), (seen.e2e, objectives.e2e_s))
    with np.errstate(invalid="ignore"):
        late = [seconds > (math.inf if bound is None else bound) for seconds, bound in bounds]
    return np.logical_or.reduce(late)


def _matched(
    evidence: Evidence, stable: Sequence[Sample], copies: Sequence[Sample]
) -> tuple[Evidence, list[tuple[Sample, Sample]]]:
    """Answers to the same request, and the evidence with those whose other half is not there yet."""
    live = {s.request_id: s for s in (*evidence.open_stable, *stable) if not s.weight and s.request_id}
    copied = {s.request_id: s for s in (*evidence.open_candidate, *copies) if s.request_id}
    both = sorted(((live.pop(i), copied.pop(i)) for i in list(copied) if i in live), key=lambda pair: pair[0].at)
    waiting = {"open_stable": tuple(live.values())[-_OPEN:], "open_candidate": tuple(copied.values())[-_OPEN:]}
    return replace(evidence, **waiting), both
