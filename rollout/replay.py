"""A past release, judged again under another policy. Pure.

Its requests come in the order in which they began, stage by stage as they were recorded, and are looked at as the
policy says; compared answers and vetoes come as they became known, as far as they are kept. What follows from a look is
decided as in a release. Where a person would be asked, that is told, and it is taken that nobody answers a question
about time or trust, and that the answer to one before a stage is yes. What it cannot tell: the weights stay those of
then, so requests that another schedule would have sent to the candidate are not there. What is not kept is told, and
nobody is promoted where something was not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rollout.decide import Times, decide, first_step, part_of_agreement, part_of_proof
from rollout.evidence import fresh, next_stage, with_reference, with_routed, with_samples
from rollout.judge import judge
from rollout.nouns import Ask, Hold, Outcome, Promote, RollBack, Sample, Samples, Step, Verdict
from rollout.policy import Policy, stages
from rollout.recorded import Recorded
from rollout.replay_others import Answers, NotJudged, Vetoes
from rollout.replay_rows import AT_ONCE, Row, Span, blocks, looks, ordered, spans, staged

BEFORE_TRAFFIC = "before traffic"  #: what is told in place of a stage where a release ends before its first one
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
    not_judged: tuple[NotJudged, ...] = ()


def replay(
    rows: Iterable[Row],
    candidate: int,
    policy: Policy,
    before: str = "before",
    hang_s: float = 0.0,
    recorded: Recorded = Recorded(),
) -> Replay:
    """Judge rows of (stage, request) again, which are gone through twice and never held all at once.

    Rows of the stage ``before`` are stable's from before the release. ``hang_s``: a request that gets no answer is
    recorded so long after it began. ``recorded``: what is kept beside the requests.
    """
    known = spans(rows, before, candidate, policy.idle_s)
    walk = _Walk(policy, candidate, hang_s, recorded, known)
    if not walk.ends_before_traffic():
        recorded_stages = enumerate(known)
        for name, samples in staged(rows):
            if name == before:
                walk.compare_with(samples)
                continue
            number, span = next(recorded_stages)
            if walk.ends_in(span, number, samples):
                break
    return _ended(walk, policy)


class _Walk:
    """The way of a release through the stages: what is known by now, and how long it has taken."""

    def __init__(
        self, policy: Policy, candidate: int, hang_s: float, recorded: Recorded, known: Sequence[Span]
    ) -> None:
        self._policy, self._candidate, self._hang_s, self._known = policy, candidate, hang_s, known
        self._began = min((span.begin for span in known), default=0.0)
        self._answers, self._vetoes = Answers(policy, recorded), Vetoes(policy, recorded.readings)
        self._until = max((r.at for r in recorded.readings), default=0.0) if policy.vetoes else 0.0
        self._evidence = fresh(policy)
        self._opened: float | None = None  # when its stage began; one that nothing decides goes on in the next
        self._spent_s = 0.0  # in stages that were decided: the rest of what was recorded of them takes it no time
        self._seen = [0, 0]  # requests of stable, of the candidate
        self.passed: list[Passed] = []
        self.asked: dict[str, Asked] = {}

    @property
    def not_judged(self) -> tuple[NotJudged, ...]:
        """What the policy asks for and the record does not tell."""
        return (*self._answers.not_judged, *self._vetoes.not_judged)

    def compare_with(self, samples: Iterator[Sample]) -> None:
        """Take in stable's requests from before the release."""
        for block in blocks(samples, AT_ONCE):
            self._evidence = with_reference(self._evidence, block)

    def ends_before_traffic(self) -> bool:
        """Whether the release would have sent no user's request to the candidate."""
        alone = self._answers.before_traffic(went_on=bool(self._known))
        step = first_step(self._policy, 0, alone)
        outcome, reason = self._follow(step, alone, self._began)
        if outcome is Outcome.PROMOTE and self._known:
            return False
        if outcome is Outcome.PROMOTE:
            outcome, reason = Outcome.UNDECIDED, f"no users' requests were compared in it; {reason}"
        self.passed.append(self._told(BEFORE_TRAFFIC, outcome, reason, self._began))
        return True

    def ends_in(self, span: Span, number: int, samples: Iterator[Sample]) -> bool:
        """Take in what was recorded of a stage; whether the release would have ended there."""
        index, found = _index(self._policy, span.name, number), None
        self._evidence = next_stage(self._evidence, number)
        self._opened = span.begin if self._opened is None else self._opened
        for until, new in self._looks(span, samples):
            self._take(new)
            if until is None:
                continue
            verdict = self._verdict(until, index)
            if found:  # it would have gone on by now; harm that shows later still counts
                if verdict.outcome is Outcome.ROLL_BACK:
                    self.passed.append(self._told(span.name, verdict.outcome, verdict.reason, until))
                    return True
                continue
            step = decide(self._policy, index, verdict, self._times(until))
            last = self._told(span.name, *self._follow(step, verdict, until), until)
            if isinstance(_agreed(step, verdict), Promote | RollBack):
                self.passed.append(last)
                return True
            if last.outcome is Outcome.PROMOTE:
                found, self._spent_s, self._opened = last, self._spent_s + until - self._opened, None
        self.passed.append(found or last)
        return False

    def _looks(self, span: Span, samples: Iterator[Sample]) -> Iterator[tuple[float | None, list[Sample]]]:
        """The last stage is looked at for as long as vetoes were asked in it."""
        end = span.last + self._policy.look_s
        end = max(end, self._until + _SOON) if span is self._known[-1] else end
        return looks(ordered(samples, span.floors), span.begin, end, self._policy.look_s, self._moments(span))

    def _take(self, new: Sequence[Sample]) -> None:
        """Requests in the order in which they began."""
        arms = Samples(*(tuple(s for s in new if (s.version == self._candidate) is hit) for hit in (False, True)))
        live = [s for s in new if s.weight and not s.mirrored]
        routed = with_routed(self._evidence, [s.weight for s in live], [s.version == self._candidate for s in live])
        self._evidence = with_samples(routed, arms)
        self._seen = [self._seen[0] + len(arms.stable), self._seen[1] + len(arms.candidate)]

    def _verdict(self, until: float, index: int) -> Verdict:
        """What is known by then."""
        answers = self._answers.finding(until, part_of_agreement(self._policy, index))
        others = (*([answers] if answers else ()), *self._vetoes.findings(until))
        return judge(self._evidence, self._policy, part_of_proof(self._policy, index), others)

    def _times(self, now: float) -> Times:
        opened = now if self._opened is None else self._opened
        stage_s, idle_s = now - opened, now - max(self._evidence.last_at, opened)
        return Times(stage_s=stage_s, all_s=self._spent_s + stage_s, idle_s=idle_s, hang_s=self._hang_s)

    def _moments(self, span: Span) -> Iterator[float]:
        """When a time of the policy may be up."""
        policy, opened = self._policy, self._opened or 0.0
        for time_s in (policy.step_timeout_s, policy.max_s - self._spent_s, policy.min_step_s, self._hang_s):
            yield opened + time_s + _SOON
        at = opened
        for first, last in (*span.calls, (float("inf"), 0.0)):
            if first - at > policy.idle_s:
                yield at + policy.idle_s + _SOON
            at = last

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


def _index(policy: Policy, name: str, number: int) -> int:
    """Which stage of the policy a recorded one stands for: that of its name, else the one of its number."""
    names = [stage.name for stage in stages(policy)]
    return names.index(name) if name in names else min(number, len(names) - 1)


def _ended(walk: _Walk, policy: Policy) -> Replay:
    last = walk.passed[-1]
    outcome, reason = last.outcome, last.reason
    if outcome is Outcome.PROMOTE and _index(policy, last.stage, len(walk.passed) - 1) + 1 < len(stages(policy)):
        outcome = Outcome.UNDECIDED
        reason = f"the requests end with {last.stage}, and the policy has stages after it; so far: {last.reason}"
    elif outcome is Outcome.PROMOTE and walk.not_judged:
        outcome = Outcome.UNDECIDED
        missing = ", ".join(part.what for part in walk.not_judged)
        reason = f"all that is kept is good, and {missing} could not be judged again; so far: {last.reason}"
    asked = tuple(walk.asked.values())
    return Replay(outcome, reason, last.at_s, last.n_candidate, tuple(walk.passed), asked, walk.not_judged)
