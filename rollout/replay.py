"""A past release's requests, judged again under another policy. Pure.

The requests come in the order in which they began, stage by stage as they were recorded, and are looked at as the
policy says. What it cannot tell: the weights stay those of then, so requests that another schedule would have sent to
the candidate are not there. Compared outputs and vetoes are not judged again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rollout.decide import part_of_proof
from rollout.evidence import fresh, next_stage, with_reference, with_routed, with_samples
from rollout.evidence.state import Evidence
from rollout.judge import judge
from rollout.nouns import Outcome, Sample, Samples, Verdict
from rollout.policy import Policy, stages

_MOST_LOOKS = 200  # at one stage; a longer one is looked at more seldom


@dataclass(frozen=True)
class Passed:
    """One stage as the policy would have judged it. Requests are counted from the beginning of the first one."""

    stage: str
    outcome: Outcome  # the first that decides; not yet decidable where none did
    at_s: float  # since the first request of the release, when it was clear; the end of the stage where it was not
    n_candidate: int
    n_stable: int
    reason: str


@dataclass(frozen=True)
class Replay:
    """What would have been decided, and where."""

    outcome: Outcome
    reason: str
    at_s: float
    n_candidate: int  # requests that the candidate had answered by then
    stages: tuple[Passed, ...]


def replay(rows: Sequence[tuple[str, Sample]], candidate: int, policy: Policy, before: str = "before") -> Replay:
    """Judge rows of (stage, request) again. Rows of the stage ``before`` are stable's from before the release.

    ``rows`` hold at least one request of another stage.
    """
    evidence = with_reference(fresh(policy), [s for stage, s in rows if stage == before])
    recorded = [(name, [s for _, s in group]) for name, group in groupby(rows, lambda row: row[0]) if name != before]
    began = min(s.at for _, group in recorded for s in group)
    passed: list[Passed] = []
    for number, (name, group) in enumerate(recorded):
        evidence, found = _stage(next_stage(evidence, number), name, group, candidate, policy, number, began, passed)
        passed.append(found)
        if found.outcome is Outcome.ROLL_BACK:
            break
    return _ended(tuple(passed), policy)


def _stage(
    evidence: Evidence,
    name: str,
    group: Sequence[Sample],
    candidate: int,
    policy: Policy,
    number: int,
    began: float,
    passed: Sequence[Passed],
) -> tuple[Evidence, Passed]:
    """The evidence after a stage, and its first look that decides; harm that shows later still counts."""
    part, first = part_of_proof(policy, _index(policy, name, number)), None
    seen = [passed[-1].n_candidate, passed[-1].n_stable] if passed else [0, 0]
    opened, verdict, until = min(s.at for s in group), Verdict(Outcome.UNDECIDED, "no request"), 0.0
    for until, arms in _looks(group, candidate, policy.look_s):
        evidence = with_samples(_routed(evidence, arms), arms)
        seen = [seen[0] + len(arms.candidate), seen[1] + len(arms.stable)]
        verdict = judge(evidence, policy, part)
        early = verdict.outcome is Outcome.PROMOTE and until - opened < policy.min_step_s
        if verdict.outcome is Outcome.ROLL_BACK or (first is None and verdict.outcome is Outcome.PROMOTE and not early):
            first = Passed(name, verdict.outcome, until - began, seen[0], seen[1], verdict.reason)
        if verdict.outcome is Outcome.ROLL_BACK or verdict.stuck:
            break
    last = Passed(name, Outcome.UNDECIDED, until - began, seen[0], seen[1], verdict.reason)
    return evidence, first or last


def _looks(group: Sequence[Sample], candidate: int, look_s: float) -> Iterator[tuple[float, Samples]]:
    """When, and what both arms began since the look before."""
    ordered = sorted(group, key=lambda s: s.at)
    begin = ordered[0].at
    every = max(look_s, (ordered[-1].at - begin) / _MOST_LOOKS)
    for number, look in groupby(ordered, lambda s: int((s.at - begin) / every)):
        new = list(look)
        arms = (tuple(s for s in new if (s.version == candidate) is hit) for hit in (False, True))
        yield begin + (number + 1) * every, Samples(*arms)


def _routed(evidence: Evidence, arms: Samples) -> Evidence:
    """Whether the split was delivered, of the requests that are kept."""
    both = [(s, hit) for hit, arm in enumerate((arms.stable, arms.candidate)) for s in arm]
    live = sorted((s.at, s.weight, bool(hit)) for s, hit in both if s.weight and not s.mirrored)
    return with_routed(evidence, [weight for _, weight, _ in live], [hit for _, _, hit in live])


def _index(policy: Policy, name: str, number: int) -> int:
    """Which stage of the policy a recorded one stands for: that of its name, else the one of its number."""
    names = [stage.name for stage in stages(policy)]
    return names.index(name) if name in names else min(number, len(names) - 1)


def _ended(passed: tuple[Passed, ...], policy: Policy) -> Replay:
    last = passed[-1]
    if last.outcome is Outcome.PROMOTE and _index(policy, last.stage, len(passed) - 1) + 1 < len(stages(policy)):
        told = f"the requests end with {last.stage}, and the policy has stages after it; so far: {last.reason}"
        return Replay(Outcome.UNDECIDED, told, last.at_s, last.n_candidate, passed)
    return Replay(last.outcome, last.reason, last.at_s, last.n_candidate, passed)
