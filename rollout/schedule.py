"""The weights that decide soonest while at most so many requests suffer before harm is found. Computed, not guessed.

A harm of a given size is found after a number of the candidate's requests that hardly depends on the weight; what does
depend on it is how many more arrive until a look has seen it and the traffic is back on stable. So small weights come
first, until harms that hurt every request would have been found, and large ones follow: evidence per second grows with
w (1 - w). Every rising sequence of up to four weights of a ladder is reckoned through; the quickest that keeps the
bound is taken.

For each size of harm, requests that suffer = share of exposed requests that it hurts times the expected number of them:

    sum over steps of   integral of S(x) dx  w / growth(w)   +   w rate reaction (S(x_begin) - S(x_end))

with x the evidence that the requests so far are expected to hold against it, and S(x) the probability that it is not
yet found (``growth.not_found``). A step ends when an identical candidate is expected to have given its part of the
proof that it is good enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from rollout.growth import (
    GRID,
    RARE,
    Floats,
    event_growth,
    evidence_for,
    faster_growth,
    fewer_growth,
    harmful_rate,
    not_found,
    slow_share,
    slower_by,
    slower_growth,
)
from rollout.levels import harm_levels
from rollout.nouns import FULL
from rollout.policy import Margin, Policy
from rollout.traffic_model import TrafficModel

TURN_BACK_S = 0.5  #: from the verdict until the gateway has put all traffic on stable
_LADDER = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700)  # permille
_MOST_STEPS = 4
_SLOWER = (1.5, 2.0, 4.0)  # and the least that is harm
_MORE_ERRORS = (3.0, 10.0)  # times the least that is harm


@dataclass(frozen=True)
class Harm:
    """A way to be worse. ``share``: of the exposed requests, how many suffer that would not have on stable."""

    name: str
    share: float
    metric: str
    ratio: float


@dataclass(frozen=True)
class PlannedStep:
    """One weight, and what it is expected to take with an identical candidate."""

    permille: int
    requests: float  # of the candidate
    minutes: float


@dataclass(frozen=True)
class Schedule:
    """A sequence of weights with what it costs. ``harmed``: expected, of the size of harm that is worst for it."""

    steps: tuple[PlannedStep, ...]
    minutes: float
    requests: float
    harmed: float
    worst: str
    bound: float | None = None  # what was asked for

    @property
    def permille(self) -> tuple[int, ...]:
        """The weights alone."""
        return tuple(step.permille for step in self.steps)

    @property
    def kept(self) -> bool:
        """Whether the bound holds; there are harms that cannot be found within a small one at any weight."""
        return self.bound is None or self.harmed <= self.bound

    @property
    def sentence(self) -> str:
        """For a person."""
        weights = ", ".join(f"{p / 10:g}" for p in self.permille)
        took = f"about {self.minutes:.1f} minutes" if math.isfinite(self.minutes) else "no proof at this traffic"
        text = f"{weights} %: {took}, {self.requests:.0f} requests of the candidate"
        more = "" if self.kept else f", more than the {self.bound:g} asked for: no weights keep that"
        return f"{text}; {self.harmed:.0f} would suffer on average from the worst harm ({self.worst}){more}"


def harms(policy: Policy, traffic: TrafficModel) -> tuple[Harm, ...]:
    """The sizes of harm that are reckoned with: from what is no longer allowed up to a candidate that only fails."""
    found = []
    for metric, margin in _latencies(policy, traffic):
        field, least = f"{metric.lower()}_s", slower_by(margin)
        for ratio in (least, *(s for s in _SLOWER if s > least)):
            share = slow_share(traffic.kinds, field, ratio) - slow_share(traffic.kinds, field, 1.0)
            found.append(Harm(f"{metric} x{ratio:g}", share, metric, ratio))
    stable = max(traffic.errors, RARE)
    least = harmful_rate(stable, policy.errors)
    for rate in (least, *(f * least for f in _MORE_ERRORS if f * least < 1), 1.0):
        found.append(Harm(f"{100 * rate:.3g} % errors", rate - stable, "errors", rate / stable))
    return tuple(found)


def quickest(policy: Policy, traffic: TrafficModel) -> Schedule:
    """The rising weights that prove an identical candidate soonest within ``policy.auto``'s bound.

    Where no weights keep it, those that take at most a tenth more than the fewest possible: ``kept`` is then false.
    """
    auto = policy.auto
    if auto is None:
        return schedule(policy, traffic, policy.steps)
    ladder = sorted({auto.first, auto.largest, *(p for p in _LADDER if auto.first < p < auto.largest)})
    cost = _Cost(policy, traffic, ladder)
    plans = [cost.of(c) for k in range(1, _MOST_STEPS + 1) for c in combinations(ladder, k)]
    bound = max(float(auto.most_harmed), 1.1 * min(plan.harmed for plan in plans))
    best = min((plan for plan in plans if plan.harmed <= bound), key=lambda p: (p.minutes, p.harmed, len(p.steps)))
    return replace(best, bound=float(auto.most_harmed))


def schedule(policy: Policy, traffic: TrafficModel, steps: Sequence[int]) -> Schedule:
    """What these weights (permille) cost, for comparison."""
    found = _Cost(policy, traffic, steps).of(steps)
    return replace(found, bound=float(policy.auto.most_harmed)) if policy.auto else found


def planned(policy: Policy, traffic: TrafficModel | None) -> Policy:
    """The policy with computed steps where it asks for them; where no traffic is known, with the usual ones from the
    first to the largest share that users were promised."""
    auto = policy.auto
    if auto is None:
        return policy
    if traffic is not None:
        return replace(policy, steps=quickest(policy, traffic).permille)
    usual = {step for step in policy.steps if auto.first < step < auto.largest}
    return replace(policy, steps=tuple(sorted({auto.first, *usual, auto.largest})))


class _Cost:
    """Growth of each proof and of the evidence against each harm, by weight; reckoned once for all sequences."""

    def __init__(self, policy: Policy, traffic: TrafficModel, weights: Sequence[int]) -> None:
        self.policy, self.rate = policy, traffic.per_s
        self.harms = harms(policy, traffic)
        self.share = np.array([harm.share for harm in self.harms])
        self.proof: dict[int, Floats] = {}  # per request of the service
        self.found: dict[int, Floats] = {}
        for w in weights:
            judged, weight = (2 * w / FULL, 0.5) if policy.baseline else (1.0, w / FULL)
            self.proof[w] = judged * proof_growth(policy, traffic, weight)
            self.found[w] = judged * np.array([harm_growth(policy, traffic, h, weight) for h in self.harms])
        self.unseen = not_found(evidence_for(1 / min(harm_levels(policy).values())))
        self.area = np.concatenate([[0.0], np.cumsum((self.unseen[1:] + self.unseen[:-1]) / 2 * np.diff(GRID))])
        self.reaction = policy.look_s + policy.settle_s + TURN_BACK_S

    def of(self, steps: Sequence[int]) -> Schedule:
        """A sequence of weights, reckoned through step by step."""
        first = 1 if self.policy.mirror else 0
        parts, metrics = first + len(steps), len(self.proof[steps[0]])
        proof, seen = np.full(metrics, self._proof(first, parts)), np.zeros(len(self.harms))
        until, harmed, plan = np.zeros(len(self.harms)), np.zeros(len(self.harms)), []
        for number, permille in enumerate(steps, first + 1):
            asked = self._proof(number, parts)
            requests = self._requests(asked - proof, permille)
            proof = proof + requests * self.proof[permille] if math.isfinite(requests) else np.full(metrics, asked)
            stays = until + self._harmed(seen, np.full(len(seen), GRID[-1]), permille)
            harmed += self._stuck(number - first, number, parts) * stays
            after = np.minimum(seen + np.nan_to_num(requests * self.found[permille], posinf=GRID[-1]), GRID[-1])
            until, seen = until + self._harmed(seen, after, permille), after
            waiting = self.policy.look_s + self.policy.settle_s
            plan.append(PlannedStep(permille, requests * permille / FULL, (requests / self.rate + waiting) / 60))
        worst = int(harmed.argmax())
        minutes, total = sum(step.minutes for step in plan), sum(step.requests for step in plan)
        return Schedule(tuple(plan), minutes, total, float(harmed[worst]), self.harms[worst].name)

    def _proof(self, number: int, parts: int) -> float:
        """Evidence that so many stages of all ask for."""
        return evidence_for(self.policy.beta ** (-number / parts))

    def _stuck(self, step: int, number: int, parts: int) -> float:
        """Largest probability that a harmful candidate gets as far as this step and no further."""
        enters = 1.0 if step == 1 else self.policy.beta ** ((number - 1) / parts)
        return enters - (0.0 if number == parts else self.policy.beta ** (number / parts))

    def _requests(self, missing: Floats, permille: int) -> float:
        """Of the service, until the step's part of every proof is expected, and the policy's minima are kept."""
        with np.errstate(divide="ignore", invalid="ignore"):
            told = np.where(missing > 0, missing / self.proof[permille], 0.0).max(initial=0.0)
        arm = min(permille, FULL - permille) / FULL
        return float(max(told, self.policy.min_samples / arm, self.policy.min_step_s * self.rate))

    def _harmed(self, before: Floats, after: Floats, permille: int) -> Floats:
        w, growth = permille / FULL, self.found[permille]
        area = np.interp(after, GRID, self.area) - np.interp(before, GRID, self.area)
        found = np.interp(before, GRID, self.unseen) - np.interp(after, GRID, self.unseen)
        with np.errstate(divide="ignore", invalid="ignore"):
            until = np.where(growth > 0, area / growth, 0.0)
        return np.asarray(self.share * w * (until + self.rate * self.reaction * found))


def proof_growth(policy: Policy, traffic: TrafficModel, weight: float) -> Floats:
    """Per request, of the proofs that an identical candidate is good enough, a number for each metric."""
    growths = [
        faster_growth(traffic.kinds, f"{metric.lower()}_s", margin.allow, weight)
        for metric, margin in _latencies(policy, traffic)
    ]
    counted = ((policy.errors, traffic.errors), (policy.refusals, traffic.refusals))
    return np.array(growths + [fewer_growth(rate, m.harm_ratio, m.allow, weight) for m, rate in counted if m])


def harm_growth(policy: Policy, traffic: TrafficModel, harm: Harm, weight: float) -> float:
    """Per request, of the evidence that ``harm`` is harm."""
    if harm.metric == "errors":
        return event_growth(max(traffic.errors, RARE), harm.ratio, policy.errors.harm_ratio, weight)
    margin = dict(_latencies(policy, traffic))[harm.metric]
    return slower_growth(traffic.kinds, f"{harm.metric.lower()}_s", harm.ratio, margin.harm, weight)


def _latencies(policy: Policy, traffic: TrafficModel) -> list[tuple[str, Margin]]:
    """Latencies that are both judged and known."""
    judged = (("TTFT", policy.ttft), ("TPOT", policy.tpot))
    known = {"TTFT": True, "TPOT": any(kind.tpot_s for kind in traffic.kinds)}
    return [(metric, margin) for metric, margin in judged if margin and known[metric]]
