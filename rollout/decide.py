"""Verdict to step: what a release does next. Pure; the whole policy of moving traffic is here."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.nouns import Ask, Hold, Outcome, Promote, RollBack, Shift, Step, Verdict
from rollout.policy import OnTimeout, Policy, Stage, stages


@dataclass(frozen=True)
class Times:
    """How long it has been, seconds: this stage, all stages without what people took to answer, and since the
    candidate's last request.

    ``hang_s``: a request that gets no answer is recorded so long after it began.
    """

    stage_s: float
    all_s: float = 0.0
    idle_s: float = 0.0
    hang_s: float = 0.0


_START = "before traffic"
STUCK = f"{_START}: stuck"  # the key of the question whether to go on although nobody can tell how answers agree


def first_step(policy: Policy, stable: int | None, alone: Verdict) -> Step:
    """How a release goes on once its candidate is ready and was tried ``alone``, before any user's request.

    A first version has nothing to be compared with: it is promoted when it answered what it was asked. What is stuck
    before it began stays so: users' requests would not tell either.
    """
    if alone.outcome is Outcome.ROLL_BACK:
        return RollBack(alone.reason)
    if stable is None:
        return _asked_first(policy, _START, "promote", Promote(f"first version; {alone.reason}"), alone.reason)
    first = stages(policy)[0]
    if alone.stuck and policy.on_timeout is not OnTimeout.HOLD:
        return _otherwise(policy.on_timeout, STUCK, alone.reason, first.name, _shift(first))
    return _asked_first(policy, _START, first.name, _shift(first), alone.reason)


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
    following = "promote" if isinstance(then, Promote) else plan[stage + 1].name
    if verdict.outcome is Outcome.PROMOTE:
        if times.stage_s < policy.min_step_s:
            return Hold(f"good so far, but {name} lasts at least {policy.min_step_s:g} s")
        if times.stage_s < times.hang_s:
            return Hold(f"good so far, but a request that hangs is only known after {times.hang_s:g} s")
        return _asked_first(policy, name, following, then, verdict.reason)
    if verdict.stuck:
        stuck = f"not decidable in {name}: {verdict.reason}"
        return _otherwise(policy.on_timeout, f"{name}: stuck", stuck, following, then)
    if times.stage_s >= policy.step_timeout_s:
        late = f"not decidable within {policy.step_timeout_s:g} s of {name}: {verdict.reason}"
        return _otherwise(policy.on_timeout, f"{name}: timeout", late, following, then)
    if times.all_s >= policy.max_s:
        late = f"not decidable within the {policy.max_s:g} s that all stages have, now in {name}: {verdict.reason}"
        return _otherwise(policy.on_timeout, f"{name}: timeout of all", late, following, then)
    if times.idle_s >= policy.idle_s:
        quiet = f"no request of the candidate for {times.idle_s:.0f} s in {name}: {verdict.reason}"
        return _otherwise(policy.on_idle, f"{name}: idle", quiet, following, then)
    return Hold(verdict.reason)


def part_of_proof(policy: Policy, stage: int) -> float:
    """How much of the proof a stage asks for: all of it in the last, as much less as there are stages still to come."""
    return (stage + 1) / len(stages(policy))


def part_of_agreement(policy: Policy, stage: int) -> float:
    """The same of compared answers: all of it while requests are copied, for no pair comes after that."""
    return 1.0 if stages(policy)[stage].canary == 0 else part_of_proof(policy, stage)


def _asked_first(policy: Policy, name: str, following: str, then: Shift | Promote, reason: str) -> Step:
    if following not in policy.approvals:
        return then
    return Ask(f"go on with {following}? {reason}", then, f"{name}: approval")


def _otherwise(how: OnTimeout, key: str, reason: str, following: str, then: Shift | Promote) -> Step:
    if how is OnTimeout.ROLL_BACK:
        return RollBack(reason)
    if how is OnTimeout.HOLD:
        return Hold(reason)
    return Ask(f"go on with {following} all the same? {reason}", then, key)


def _shift(stage: Stage) -> Shift:
    return Shift(stage.canary, stage.mirror)
