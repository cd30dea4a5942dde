"""Verdict to step: what a release does next. Pure; the whole policy of moving traffic is here."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.nouns import Ask, Hold, Outcome, Promote, RollBack, Shift, Step, Verdict
from rollout.policy import OnTimeout, Policy, Stage, stages


@dataclass(frozen=True)
class Times:
    """How long it has been, seconds: this stage, all stages, and since the candidate's last request.

    ``hang_s``: a request that gets no answer is recorded so long after it began.
    """

    stage_s: float
    all_s: float = 0.0
    idle_s: float = 0.0
    hang_s: float = 0.0


def first_step(policy: Policy, stable: int | None, alone: Verdict) -> Step:
    """How a release goes on once its candidate is ready and was tried ``alone``, before any user's request.

    A first version has nothing to be compared with: it is promoted when it answered what it was asked.
    """
    if alone.outcome is Outcome.ROLL_BACK:
        return RollBack(alone.reason)
    if stable is None:
        return Promote(f"first version; {alone.reason}")
    return _asked_first(policy, stages(policy)[0].name, _shift(stages(policy)[0]), alone.reason)


def decide(policy: Policy, stage: int, verdict: Verdict, times: Times) -> Step:
    """The next step after a verdict in the stage with this index.

    Only a proven good stage leads on; only the last one leads to promotion; time alone never does. What time does is
    the policy's: ``on_timeout`` when the step's or the release's time is up or what is measured cannot be trusted,
    ``on_idle`` when nobody calls.
    """
    plan = stages(policy)
    name = plan[stage].name
    if verdict.outcome is Outcome.ROLL_BACK:
        return RollBack(verdict.reason)
    then = Promote(verdict.reason) if stage + 1 >= len(plan) else _shift(plan[stage + 1])
    if verdict.outcome is Outcome.PROMOTE:
        if times.stage_s < policy.min_step_s:
            return Hold(f"good so far, but {name} lasts at least {policy.min_step_s:g} s")
        if times.stage_s < times.hang_s:
            return Hold(f"good so far, but a request that hangs is only known after {times.hang_s:g} s")
        following = "promote" if isinstance(then, Promote) else plan[stage + 1].name
        return _asked_first(policy, following, then, verdict.reason)
    if verdict.stuck:
        return _otherwise(policy.on_timeout, f"not decidable in {name}: {verdict.reason}", then)
    if times.stage_s >= policy.step_timeout_s:
        late = f"not decidable within {policy.step_timeout_s:g} s of {name}: {verdict.reason}"
        return _otherwise(policy.on_timeout, late, then)
    if times.all_s >= policy.max_s:
        late = f"not decidable within the {policy.max_s:g} s that all stages have, now in {name}: {verdict.reason}"
        return _otherwise(policy.on_timeout, late, then)
    if times.idle_s >= policy.idle_s:
        quiet = f"no request of the candidate for {times.idle_s:.0f} s in {name}: {verdict.reason}"
        return _otherwise(policy.on_idle, quiet, then)
    return Hold(verdict.reason)


def part_of_proof(policy: Policy, stage: int) -> float:
    """How much of the proof a stage asks for: all of it in the last, as much less as there are stages still to come."""
    return (stage + 1) / len(stages(policy))


def _asked_first(policy: Policy, name: str, then: Shift | Promote, reason: str) -> Step:
    return Ask(f"go on with {name}? {reason}", then) if name in policy.approvals else then


def _otherwise(how: OnTimeout, reason: str, then: Shift | Promote) -> Step:
    if how is OnTimeout.ROLL_BACK:
        return RollBack(reason)
    return Ask(reason, then) if how is OnTimeout.ASK else Hold(reason)


def _shift(stage: Stage) -> Shift:
    return Shift(stage.canary, stage.mirror)
