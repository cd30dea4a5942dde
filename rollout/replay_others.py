"""What a release was judged by beside requests, judged again: compared answers and vetoes, as far as they are kept.

What is kept no value of is judged neither good nor bad: it is left out of the looks, and told.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rollout.agreement import Agreement, fresh, with_measured
from rollout.agreement_finding import decided, finding, undecidable
from rollout.agreement_limits import OutputLimits
from rollout.judge import combine
from rollout.levels import output_needs
from rollout.nouns import Finding, Outcome, Verdict
from rollout.policy import Policy, Veto
from rollout.recorded import Readings, Recorded
from rollout.vetoes import Reading, Watch, look

MODEL = "model"  # in a policy: the set of prompts that the model version names
_SILENT_S = 60.0  # after so long a reading says nothing of now; they are some seconds apart


@dataclass(frozen=True)
class NotJudged:
    """What a policy asks for and the record does not tell."""

    what: str
    why: str


class Answers:
    """Compared answers under a policy's own limits, as they became known."""

    def __init__(self, policy: Policy, recorded: Recorded) -> None:
        self._policy, self._recorded = policy, recorded
        self._agreement, self._left = _first(policy.outputs, recorded)
        self._batches = deque(recorded.batches if _told_singly(recorded) else ())

    @property
    def not_judged(self) -> tuple[NotJudged, ...]:
        """Whether the answers are left out, and why."""
        return (NotJudged("outputs", self._left),) if self._left else ()

    def before_traffic(self, went_on: bool) -> Verdict:
        """What prompts alone say, as it is decided whether users' requests are sent at all. Sums of a release that
        ``went_on`` may hold answers to these, and say nothing of the time before."""
        found = None if went_on and not _told_singly(self._recorded) else self.finding(0.0, 1.0)
        if found is None or self._agreement is None:
            return Verdict(Outcome.PROMOTE, "nothing was found before users' requests")
        if found.outcome is Outcome.UNDECIDED:
            prompts = self._recorded.batches[:1]
            pairs = bool(self._policy.mirror) and any(batch.pairs for batch in prompts)
            stuck = bool(undecidable(self._agreement, output_needs(self._policy), pairs))
            return Verdict(Outcome.UNDECIDED if stuck else Outcome.PROMOTE, found.sentence, (found,), stuck)
        return combine((found,))

    def finding(self, until: float, part: float) -> Finding | None:
        """What is known at a time (epoch seconds), where ``part`` of the proof is asked for."""
        if self._agreement is None:
            return None
        while self._batches and self._batches[0].until <= until:
            self._agreement = with_measured(self._agreement, self._batches.popleft().comparisons)
        needs = output_needs(self._policy, part)
        outcome = decided(self._agreement, needs)[0]
        self._left = self._lacking(outcome)
        return None if self._left else finding(self._agreement, needs)

    def _lacking(self, outcome: Outcome) -> str:
        """What nobody kept and would be needed: for a proof of harm nothing, for one of good the policy's prompts, and
        for leaving it open all that there was."""
        if outcome is Outcome.ROLL_BACK:
            return ""
        return self._other_prompts() or (self._unheard() if outcome is Outcome.UNDECIDED else "")

    def _other_prompts(self) -> str:
        wanted, asked = self._policy.evaluation, self._recorded.sets
        missing = [name for name in wanted if name not in asked and name != MODEL]
        if MODEL in wanted and not set(asked) - set(wanted):
            missing.append(MODEL)
        told = f"it was compared by the prompts of {', '.join(asked) or 'sets that it does not name'}"
        return f"{told}, not by those of {', '.join(missing)}" if missing else ""

    def _unheard(self) -> str:
        prompts, sums = self._recorded.batches[:1], self._recorded.sums
        if not prompts:
            return "these levels ask for more, and it keeps sums from which nobody can tell whether more was to be had"
        kept = sum(len(batch.comparisons) for batch in self._recorded.batches)
        if sums is not None and sums.totals.prompts > kept:
            return f"the first {kept} of {sums.totals.prompts} comparisons are kept, and they do not tell"
        if prompts[0].asked < prompts[0].prompts:
            return f"{prompts[0].asked} of {prompts[0].prompts} prompts were asked then, and they do not tell"
        return ""


def _told_singly(recorded: Recorded) -> bool:
    return bool(recorded.batches) and recorded.batches[0].after is None


def _first(limits: OutputLimits | None, recorded: Recorded) -> tuple[Agreement | None, str]:
    """The evidence to begin with, or why there is none; neither where none is asked for."""
    if limits is None:
        return None, ""
    if _told_singly(recorded):
        return fresh(limits), ""
    if recorded.unread:
        return None, recorded.unread
    if recorded.sums is None:
        return None, "no answers were compared in it"
    if replace(recorded.sums.limits, budget_s=limits.budget_s) == limits:
        return recorded.sums, ""
    return None, "it keeps no single comparisons (an older release), only their sums under its own limits"


class Vetoes:
    """A policy's vetoes on the values that were recorded."""

    def __init__(self, policy: Policy, readings: Iterable[Readings]) -> None:
        self._watches, self._found = [Watch(veto) for veto in policy.vetoes], dict[int, Finding]()
        self._readings = iter(readings if policy.vetoes else ())
        self._next, self._last_at = next(self._readings, None), -math.inf
        self._known = set(self._next.by_query) if self._next else set[str]()
        self._left = dict[str, str]()

    @property
    def not_judged(self) -> tuple[NotJudged, ...]:
        """Which were left out at any look, and why."""
        return tuple(NotJudged(f"veto {name}", why) for name, why in self._left.items())

    def findings(self, until: float) -> tuple[Finding, ...]:
        """What is known at a time (epoch seconds); a roll back since the call before is one."""
        over = dict[int, Finding]()
        while self._next and self._next.at <= until:
            self._take(self._next)
            over |= {n: f for n, f in self._found.items() if f.outcome is Outcome.ROLL_BACK and n not in over}
            self._next = next(self._readings, None)
        return tuple(f for n, watch in enumerate(self._watches) if (f := self._one(n, watch.veto, until, over)))

    def _take(self, readings: Readings) -> None:
        self._last_at = readings.at
        self._known |= set(readings.by_query)
        for number, watch in enumerate(self._watches):
            if (reading := readings.by_query.get(watch.veto.query)) is not None:
                watch = Watch(watch.veto) if readings.begins else watch
                self._watches[number], self._found[number] = look(watch, reading, readings.at)

    def _one(self, number: int, veto: Veto, until: float, over: dict[int, Finding]) -> Finding | None:
        if number in over:
            return over[number]
        if why := self._silence(veto, until):
            self._left.setdefault(veto.name, why)
            return None
        return self._found.get(number) or _not_asked_yet(veto)

    def _silence(self, veto: Veto, until: float) -> str:
        """Why nothing is known of a veto at that time; empty where something is, or will be at once."""
        if not self._known:
            return "the release keeps no values of vetoes: it had none, or is an older one"
        if veto.query not in self._known:
            return f"its query was not asked then; asked was: {'; '.join(sorted(self._known))}"
        since = until - self._last_at
        if since <= _SILENT_S or (self._next is not None and self._next.at - until <= _SILENT_S):
            return ""
        told = "none was kept before" if math.isinf(since) else f"the newest was {since:.0f} s old"
        return f"its values are not kept for all of the time: at one look {told}"


def _not_asked_yet(veto: Veto) -> Finding:
    return look(Watch(veto), Reading({}, "it was not asked yet"), 0.0)[1]
