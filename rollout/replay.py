"""A past release's requests, judged again under another policy. Pure.

The requests come in the order in which they began, stage by stage as they were recorded, and are looked at as the
policy says; what follows from a look is decided as in a release. Where a person would be asked, that is told, and it is
taken that nobody answers a question about time or trust, and that the answer to one before a stage is yes. What it
cannot tell: the weights stay those of then, so requests that another schedule would have sent to the candidate are not
there. Compared outputs and vetoes are not judged again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rollout.decide import Times, decide, part_of_proof
from rollout.evidence import fresh, next_stage, with_reference, with_routed, with_samples
from rollout.evidence.state import Evidence
from rollout.judge import judge
from rollout.nouns import Ask, Hold, Outcome, Promote, RollBack, Sample, Samples, Step, Verdict
from rollout.policy import Policy, stages

_MOST_LOOKS = 200  # at one stage; a longer one is looked at more seldom
_SOON = 0.001  # seconds after a time is up, when it is surely seen to be


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
class Asked:
    """What a person would have been asked, and when: seconds since the first request of the release."""

    at_s: float
    question: str


@dataclass(frozen=True)
class Replay:
    """What would have been decided, and where."""

    outcome: Outcome
    reason: str
    at_s: float
    n_candidate: int  # requests that the candidate had answered by then
    stages: tuple[Passed, ...]
    asked: tuple[Asked, ...] = ()


def replay(
    rows: Sequence[tuple[str, Sample]], candidate: int, policy: Policy, before: str = "before", hang_s: float = 0.0
) -> Replay:
    """Judge rows of (stage, request) again. Rows of the stage ``before`` are stable's from before the release.

    ``rows`` hold at least one request of another stage. ``hang_s``: a request that gets no answer is recorded so long
    after it began.
    """
    recorded = [(name, [s for _, s in group]) for name, group in groupby(rows, lambda row: row[0]) if name != before]
    evidence = with_reference(fresh(policy), [s for stage, s in rows if stage == before])
    walk = _Walk(policy, candidate, hang_s, evidence, min(s.at for _, group in recorded for s in group))
    for number, (name, group) in enumerate(recorded):
        if walk.ends_in(name, number, group):
            break
    return _ended(walk.passed, policy, tuple(walk.asked.values()))


class _Walk:
    """The way of a release through the stages: what is known by now, and how long it has taken."""

    def __init__(self, policy: Policy, candidate: int, hang_s: float, evidence: Evidence, began: float) -> None:
        self._policy, self._candidate, self._hang_s, self._began = policy, candidate, hang_s, began
        self._evidence = evidence
        self._opened: float | None = None  # when its stage began; one that nothing decides goes on in the next
        self._spent_s = 0.0  # in stages that were decided: the rest of what was recorded of them takes it no time
        self._seen = [0, 0]  # requests of stable, of the candidate
        self.passed: list[Passed] = []
        self.asked: dict[str, Asked] = {}

    def ends_in(self, name: str, number: int, group: Sequence[Sample]) -> bool:
        """Take in what was recorded of a stage; whether the release would have ended there."""
        index, found = _index(self._policy, name, number), None
        self._evidence = next_stage(self._evidence, number)
        self._opened = min(s.at for s in group) if self._opened is None else self._opened
        for until, arms in _looks(group, self._candidate, self._policy.look_s, self._moments(group)):
            verdict = self._seen_in(arms, index)
            if found:  # it would have gone on by now; harm that shows later still counts
                if verdict.outcome is Outcome.ROLL_BACK:
                    self.passed.append(self._told(name, verdict.outcome, verdict.reason, until))
                    return True
                continue
            step = decide(self._policy, index, verdict, self._times(until))
            last = self._told(name, *self._follow(step, verdict, until), until)
            if isinstance(_agreed(step, verdict), Promote | RollBack):
                self.passed.append(last)
                return True
            if last.outcome is Outcome.PROMOTE:
                found, self._spent_s, self._opened = last, self._spent_s + until - self._opened, None
        self.passed.append(found or last)
        return False

    def _seen_in(self, arms: Samples, index: int) -> Verdict:
        """The verdict after one more look."""
        self._evidence = with_samples(_routed(self._evidence, arms), arms)
        self._seen = [self._seen[0] + len(arms.stable), self._seen[1] + len(arms.candidate)]
        return judge(self._evidence, self._policy, part_of_proof(self._policy, index))

    def _times(self, now: float) -> Times:
        opened = now if self._opened is None else self._opened
        stage_s, idle_s = now - opened, now - max(self._evidence.last_at, opened)
        return Times(stage_s=stage_s, all_s=self._spent_s + stage_s, idle_s=idle_s, hang_s=self._hang_s)

    def _moments(self, group: Sequence[Sample]) -> Iterator[float]:
        """When a time of the policy may be up."""
        policy, opened = self._policy, self._opened or 0.0
        for time_s in (policy.step_timeout_s, policy.max_s - self._spent_s, policy.min_step_s, self._hang_s):
            yield opened + time_s + _SOON
        called = sorted(s.at for s in group if s.version == self._candidate)
        for at, then in pairwise([opened, *called, float("inf")]):
            if then - at > policy.idle_s:
                yield at + policy.idle_s + _SOON

    def _follow(self, step: Step, verdict: Verdict, now: float) -> tuple[Outcome, str]:
        """What a step says of its stage."""
        if isinstance(step, Ask):
            self.asked.setdefault(step.key, Asked(now - self._began, step.question))
        match _agreed(step, verdict):
            case RollBack(reason):
                return Outcome.ROLL_BACK, reason
            case Hold(reason):
                return Outcome.UNDECIDED, reason
            case Promote(reason) if isinstance(step, Ask):
                return Outcome.UNDECIDED, f"a person would be asked: {step.question}"
        return Outcome.PROMOTE, verdict.reason

    def _told(self, name: str, outcome: Outcome, reason: str, now: float) -> Passed:
        return Passed(name, outcome, now - self._began, self._seen[1], self._seen[0], reason)


def _agreed(step: Step, verdict: Verdict) -> Step:
    """The step where people are taken to agree to what is proven, and to say nothing otherwise."""
    if not isinstance(step, Ask):
        return step
    return step.then if verdict.outcome is Outcome.PROMOTE else Hold(f"a person would be asked: {step.question}")


def _looks(
    group: Sequence[Sample], candidate: int, look_s: float, moments: Iterable[float]
) -> Iterator[tuple[float, Samples]]:
    """When, and what both arms began since the look before: every ``look_s`` seconds or more, and at ``moments``."""
    ordered = sorted(group, key=lambda s: s.at)
    times = [s.at for s in ordered]
    begin, end, seen = times[0], times[-1] + look_s, 0
    every = max(look_s, (end - begin) / _MOST_LOOKS)
    grid = (begin + number * every for number in range(1, int((end - begin) / every) + 1))
    for until in sorted({*(at for at in (*grid, *moments) if begin < at < end), end}):
        new = ordered[seen : bisect_left(times, until)]
        seen += len(new)
        yield until, Samples(*(tuple(s for s in new if (s.version == candidate) is hit) for hit in (False, True)))


def _routed(evidence: Evidence, arms: Samples) -> Evidence:
    """Whether the split was delivered, of the requests that are kept."""
    both = [(s, hit) for hit, arm in enumerate((arms.stable, arms.candidate)) for s in arm]
    live = sorted((s.at, s.weight, bool(hit)) for s, hit in both if s.weight and not s.mirrored)
    return with_routed(evidence, [weight for _, weight, _ in live], [hit for _, _, hit in live])


def _index(policy: Policy, name: str, number: int) -> int:
    """Which stage of the policy a recorded one stands for: that of its name, else the one of its number."""
    names = [stage.name for stage in stages(policy)]
    return names.index(name) if name in names else min(number, len(names) - 1)


def _ended(passed: Sequence[Passed], policy: Policy, asked: tuple[Asked, ...]) -> Replay:
    last = passed[-1]
    outcome, reason = last.outcome, last.reason
    if outcome is Outcome.PROMOTE and _index(policy, last.stage, len(passed) - 1) + 1 < len(stages(policy)):
        outcome = Outcome.UNDECIDED
        reason = f"the requests end with {last.stage}, and the policy has stages after it; so far: {last.reason}"
    return Replay(outcome, reason, last.at_s, last.n_candidate, tuple(passed), asked)
