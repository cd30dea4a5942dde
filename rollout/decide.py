"""Verdict to step: what a release does next. Pure; the whole policy of moving traffic is here."""

from __future__ import annotations

from rollout.nouns import Hold, Outcome, Promote, RollBack, Shift, Step, Verdict
from rollout.policy import OnTimeout, Policy, Stage, stages


def first_step(policy: Policy, stable: int | None, alone: Verdict) -> Step:
    """How a release goes on once its candidate is ready and was tried ``alone``, before any user's request.

    A first version has nothing to be compared with: it is promoted when it answered what it was asked.
    """
    if alone.outcome is Outcome.ROLL_BACK:
        return RollBack(alone.reason)
    if stable is None:
        return Promote(f"first version; {alone.reason}")
    return _shift(stages(policy)[0])


def decide(policy: Policy, stage: int, verdict: Verdict, elapsed_s: float) -> Step:
    """The next step after a verdict over the stage with this index, ``elapsed_s`` after it began.

    Only a proven good stage leads on; only the last one leads to promotion; time alone never does.
    """
    plan = stages(policy)
    if verdict.outcome is Outcome.ROLL_BACK:
        return RollBack(verdict.reason)
    if verdict.outcome is Outcome.PROMOTE:
        return Promote(verdict.reason) if stage + 1 >= len(plan) else _shift(plan[stage + 1])
    if elapsed_s < policy.step_timeout_s:
        return Hold(verdict.reason)
    late = f"not decidable within {policy.step_timeout_s:g} s of {plan[stage].name}: {verdict.reason}"
    return RollBack(late) if policy.on_timeout is OnTimeout.ROLL_BACK else Hold(late)


def _shift(stage: Stage) -> Shift:
    return Shift(stage.canary, stage.mirror)
