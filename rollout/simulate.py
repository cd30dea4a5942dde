"""What a policy would do with a service's traffic: releases played through with the real judge, seeded.

Each run draws requests and gives them to the same tests, judge and decisions as a release. It looks less often: the
further from any decision, the longer it waits. Evidence of harm between two looks is kept by the tests, so what is lost
is some of the time, not of the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rollout.decide import Times, decide, part_of_proof
from rollout.evidence import Columns, Evidence, fresh, next_stage, with_columns, with_pairs, with_reference
from rollout.growth import slow_share
from rollout.judge import judge
from rollout.levels import allow_needs, harm_levels
from rollout.nouns import FULL, Hold, Outcome, Sample
from rollout.policy import Policy, Stage, stages
from rollout.schedule import TURN_BACK_S
from rollout.traffic_model import Effect, Kind, TrafficModel, answers, kinds_of, times

#: What is played through unless told otherwise.
EFFECTS = (
    Effect(),
    *(Effect(f"latency x{x:g}", ttft=x, tpot=x) for x in (1.1, 1.25, 1.5, 2.0)),
    *(Effect(f"errors x{x:g}", errors=x) for x in (2.0, 3.0, 10.0)),
)
_SOONEST, _LATEST = 0.08, 0.4  # of the candidate's answers so far, until the next look
_FIRST_LOOK = 2  # of them
_REFERENCE = 100  # of stable's requests of each kind from before the release
_STABLE = 19  # of stable's requests for each of the candidate's are judged at most: a twentieth of the evidence is lost
_LIVE_BATCH = 50_000  # requests between two looks at most


@dataclass(frozen=True)
class Run:
    """One release played through. ``ended``: "promoted", "rolled back" or "undecided"."""

    ended: str
    seconds: float
    exposed: int  # users' requests that the candidate answered


@dataclass(frozen=True)
class Result:
    """What became of all runs with one effect: shares of the runs, seconds until they were decided, requests.

    ``right``: what should have become of it; "either" where it lies between what is harmful and what is allowed.
    ``harmed``: of the exposed requests those that failed or were slow and would not have been on stable, on average.
    """

    effect: str
    right: str
    runs: int
    promoted: float
    rolled_back: float
    undecided: float
    median_s: float | None
    p90_s: float | None
    exposed: float
    harmed: float

    @property
    def wrong(self) -> float:
        """Share of wrong answers: a rollback of what is good, or a promotion of what is not."""
        return {"promoted": self.rolled_back, "rolled back": self.promoted}.get(self.right, 0.0)


@dataclass(frozen=True)
class Simulated:
    """A policy's results, one for each effect."""

    steps: tuple[int, ...]  # permille
    results: tuple[Result, ...]

    def of(self, effect: str) -> Result:
        """The result with an effect of that name."""
        return next(result for result in self.results if result.effect == effect)

    @property
    def wrong_rollbacks(self) -> float:
        """The largest share of good candidates that were rolled back."""
        return max((r.wrong for r in self.results if r.right == "promoted"), default=0.0)

    @property
    def missed(self) -> float:
        """The largest share of harmful candidates that were promoted."""
        return max((r.wrong for r in self.results if r.right == "rolled back"), default=0.0)


def simulate(
    policy: Policy,
    traffic: TrafficModel,
    runs: int = 100,
    seed: int = 0,
    effects: Sequence[Effect] = EFFECTS,
    told: Callable[[str, float], None] = lambda effect, share: None,
) -> Simulated:
    """Play ``runs`` releases with each effect; equal arguments give equal results.

    ``told`` hears of progress: the effect, and the share of its runs that are done.
    """
    results = []
    for effect in effects:
        done = []
        for number in range(runs):
            done.append(play(policy, traffic, effect, np.random.default_rng((seed, number))))
            told(effect.name, (number + 1) / runs)
        results.append(_result(policy, traffic, effect, done))
    return Simulated(policy.steps, tuple(results))


def play(policy: Policy, traffic: TrafficModel, effect: Effect, rng: np.random.Generator) -> Run:
    """One release from its first stage to its end, or to the end of its time. Approvals are given at once."""
    policy = replace(policy, approvals=())
    evidence, seen, exposed, clock = with_reference(fresh(policy), _before(traffic, rng)), 0, 0, 0.0
    for number, stage in enumerate(stages(policy)):
        evidence, began, step = next_stage(evidence, number), clock, Hold("")
        last = min(began + policy.step_timeout_s, policy.max_s)
        while isinstance(step, Hold):
            if clock >= last:
                return Run("undecided", clock, exposed)
            wait = _wait(traffic, policy, stage, seen, _near(evidence, policy, number))
            begin, clock = clock, min(clock + wait, last)
            evidence, answered = _seen(evidence, policy, traffic, effect, stage, (begin, clock), rng)
            seen, exposed = seen + answered, exposed + (answered if stage.canary else 0)
            if _near(evidence, policy, number) >= 1.0 or clock >= last:
                verdict = judge(evidence, policy, part_of_proof(policy, number))
                step = decide(policy, number, verdict, Times(clock - began, clock))
        clock += policy.settle_s
        if verdict.outcome is Outcome.ROLL_BACK:
            return Run("rolled back", clock, exposed + _late(policy, traffic, stage))
        if verdict.outcome is Outcome.UNDECIDED:
            return Run("undecided", clock, exposed)
    return Run("promoted", clock, exposed)


def _wait(traffic: TrafficModel, policy: Policy, stage: Stage, seen: int, near: float) -> float:
    """Seconds until the next look, when ``near`` of the way to a decision with so many of the candidate's answers."""
    requests = max(_FIRST_LOOK, max(_SOONEST, _LATEST * (1 - near)) * seen)
    wait = requests / ((stage.canary or stage.mirror) / FULL * traffic.per_s)
    return max(min(wait, _LIVE_BATCH / traffic.per_s), policy.look_s)


def _near(evidence: Evidence, policy: Policy, stage: int) -> float:
    """How near the judge is to a decision, 0..1: 1 where some harm, or all of this stage's proof, may be found."""
    tests, levels = (*evidence.latencies, *evidence.counts), harm_levels(policy)
    needs = math.log(allow_needs(policy, part_of_proof(policy, stage)))
    harm = max(test.harm / -math.log(levels[test.name]) for test in tests)
    proof = min(test.allow / needs for test in tests if test.margin.allow)
    return 1.0 if evidence.split_broken else min(max(harm, proof, 0.0), 1.0)


def _seen(
    evidence: Evidence,
    policy: Policy,
    traffic: TrafficModel,
    effect: Effect,
    stage: Stage,
    span: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Evidence, int]:
    """The evidence with the requests of a stretch of time, and how many the candidate answered, copies included."""
    at = times(traffic, *span, rng)
    if not stage.canary:
        at = at[rng.random(len(at)) < stage.mirror / FULL]
        return _mirrored(evidence, traffic, effect, at, rng), len(at)
    share = stage.canary / FULL
    compared = min(share * (1 + (1 if policy.baseline else _STABLE)), 1.0)
    at, weight = at[rng.random(len(at)) < compared], share / compared
    candidate = rng.random(len(at)) < weight
    rows = answers(traffic, at, kinds_of(traffic, len(at), rng), candidate, weight, effect, rng)
    return with_columns(evidence, rows), int(candidate.sum())


def _mirrored(
    evidence: Evidence, traffic: TrafficModel, effect: Effect, at: NDArray[np.float64], rng: np.random.Generator
) -> Evidence:
    kinds, n = kinds_of(traffic, len(at), rng), len(at)
    stable = answers(traffic, at, kinds, np.zeros(n, bool), 0.0, effect, rng)
    return with_pairs(evidence, stable, answers(traffic, at, kinds, np.ones(n, bool), 0.0, effect, rng))


def _before(traffic: TrafficModel, rng: np.random.Generator) -> list[Sample]:
    """Stable's requests from before the release: some of each kind."""
    n = _REFERENCE * len(traffic.kinds)
    kinds = np.repeat(np.arange(len(traffic.kinds)), _REFERENCE)
    rows = answers(traffic, np.zeros(n), kinds, np.zeros(n, bool), 0.0, Effect(), rng)
    return _samples(rows)


def _samples(rows: Columns) -> list[Sample]:
    cached = {0: None, 1: True, 2: False}
    numbers = zip(
        *(column.tolist() for column in (rows.ttft, rows.e2e, rows.tokens_out, rows.bytes_in, rows.cached)), strict=True
    )
    return [
        Sample(0.0, 0, False, False, ttft, e2e, int(out), bytes_in=int(size), cached=cached[cache])
        for ttft, e2e, out, size, cache in numbers
        if not math.isnan(ttft)
    ]


def _late(policy: Policy, traffic: TrafficModel, stage: Stage) -> int:
    """Requests that reach the candidate while it is judged and until all traffic is back on stable."""
    return round(stage.canary / FULL * traffic.per_s * (policy.settle_s + TURN_BACK_S))


def right_answer(policy: Policy, traffic: TrafficModel, effect: Effect) -> str:
    """What should become of a candidate: "promoted", "rolled back", or "either" between both margins."""
    harmful, good = [], []
    for margin, ratio in ((policy.ttft, effect.ttft), (policy.tpot, effect.tpot)):
        if margin:
            harmful.append(ratio >= margin.allow)
            good.append(ratio <= margin.harm)
    more = traffic.errors * (effect.errors - 1)
    harmful.append(effect.errors > policy.errors.harm_ratio and more >= policy.errors.allow)
    good.append(effect.errors <= policy.errors.harm_ratio)
    return "rolled back" if any(harmful) else "promoted" if all(good) else "either"


def suffering(kinds: tuple[Kind, ...], traffic: TrafficModel, effect: Effect) -> float:
    """Share of the candidate's requests that fail, or are slower than stable's slowest tenth, and would not have."""
    slower = [
        slow_share(kinds, field, ratio) - slow_share(kinds, field, 1.0)
        for field, ratio in (("ttft_s", effect.ttft), ("tpot_s", effect.tpot))
    ]
    return max(*slower, traffic.errors * (effect.errors - 1), 0.0)


def _result(policy: Policy, traffic: TrafficModel, effect: Effect, done: Sequence[Run]) -> Result:
    ended = [run.ended for run in done]
    promoted, back, undecided = (ended.count(e) / len(done) for e in ("promoted", "rolled back", "undecided"))
    took = [run.seconds for run in done if run.ended != "undecided"]
    median, p90 = (float(x) for x in np.quantile(took, (0.5, 0.9))) if took else (None, None)
    exposed = float(np.mean([run.exposed for run in done]))
    harmed = exposed * suffering(traffic.kinds, traffic, effect)
    right = right_answer(policy, traffic, effect)
    return Result(effect.name, right, len(done), promoted, back, undecided, median, p90, exposed, harmed)
