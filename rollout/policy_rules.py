"""Which policies contradict themselves."""

from __future__ import annotations

from rollout.errors import Refused
from rollout.nouns import FULL
from rollout.policy import ErrorMargin, Margin, Objectives, Policy, Veto, stages

LARGEST_LEASE_S = 10.0


def check_policy(policy: Policy) -> None:
    """Raises Refused when the numbers contradict each other."""
    _check_steps(policy)
    for name, margin in (("ttft", policy.ttft), ("tpot", policy.tpot), ("e2e", policy.e2e)):
        _check_margin(name, margin)
    for name, events in (("errors", policy.errors), ("refusals", policy.refusals), ("goodput", policy.goodput)):
        _check_events(name, events)
    if policy.abandoned and policy.abandoned <= 1.0:
        raise Refused("abandoned", policy.abandoned, "a ratio above 1, or 0 for off", "use for example 2")
    _check_objectives(policy.objectives)
    for veto in policy.vetoes:
        _check_veto(veto)
    _check_levels(policy)
    _check_times(policy)
    _check_approvals(policy)


def _check_steps(policy: Policy) -> None:
    steps, most = list(policy.steps), FULL // 2 if policy.baseline else FULL - 1
    if not steps or steps != sorted(set(steps)) or steps[0] < 1 or steps[-1] > most:
        rule = (
            "steps are rising shares from 0.1 % to 50 %: a baseline gets as much as the candidate"
            if policy.baseline
            else "steps are rising shares from 0.1 % to 99.9 %: promotion is the last, and judging needs both versions"
        )
        raise Refused("steps", steps, rule, "write for example steps_percent: [5, 25, 50]")
    if not 0 <= policy.mirror <= FULL:
        raise Refused("mirror", policy.mirror / 10, "a share lies between 0 and 100 %", "choose one in that range")
    auto = policy.auto
    if auto and not (auto.most_harmed >= 1 and 1 <= auto.first <= auto.largest <= most):
        rule = f"most_harmed is 1 or more, and 0.1 % <= first <= largest <= {most / 10:g} %"
        raise Refused("auto", auto, rule, "use for example most_harmed: 50, first_percent: 1, largest_percent: 50")


def _check_margin(name: str, margin: Margin | None) -> None:
    if margin and not 1.0 < margin.harm <= margin.allow:
        rule = "1 < harm <= allow, or a healthy candidate could never be told from a harmful one"
        raise Refused(f"margins.{name}", f"harm {margin.harm}, allow {margin.allow}", rule, "raise allow or lower harm")


def _check_events(name: str, margin: ErrorMargin | None) -> None:
    if margin and (margin.harm_ratio <= 1.0 or not 0.0 < margin.allow < 1.0):
        rule = "harm_ratio is above 1 and allow lies between 0 and 1"
        raise Refused(f"margins.{name}", margin, rule, "write for example harm_ratio: 1.5, allow_percent: 1")


def _check_objectives(objectives: Objectives | None) -> None:
    if objectives is None:
        return
    bounds = vars(objectives)
    for name, value in bounds.items():
        if value is not None and value <= 0:
            raise Refused(f"objectives.{name}", value, "seconds, more than 0", "use for example 0.5")
    if not any(bounds.values()):
        rule = "objectives without any bound say nothing"
        raise Refused("objectives", "none", rule, "name ttft_s, tpot_s or e2e_s, or leave objectives out")


def _check_veto(veto: Veto) -> None:
    if (veto.above is None) == (veto.below is None):
        rule = "a veto has one bound, above or below"
        raise Refused(f"vetoes.{veto.name}", f"above {veto.above}, below {veto.below}", rule, "name one of the two")
    if veto.for_s < 0:
        raise Refused(f"vetoes.{veto.name}.for_s", veto.for_s, "seconds, 0 or more", "use 0")


def _check_levels(policy: Policy) -> None:
    for name in ("alpha", "beta"):
        if not 0.0 < getattr(policy, name) < 0.5:
            raise Refused(name, getattr(policy, name), "it lies between 0 and 0.5", "use 0.05")
    if policy.min_samples < 5:
        raise Refused("min_samples", policy.min_samples, "fewer than 5 requests say nothing", "use at least 5")


def _check_times(policy: Policy) -> None:
    if policy.lease_s < 3 * policy.look_s or policy.lease_s > LARGEST_LEASE_S:
        rule = "a lease lasts at least three looks and at most 10 s, so that one late look does not end it"
        raise Refused("lease_s", policy.lease_s, rule, f"use {max(3 * policy.look_s, 6):g}")
    if not 0.0 <= policy.settle_s <= 60.0:
        raise Refused("settle_s", policy.settle_s, "between 0 and 60 s", "use 1, or the time that most answers take")
    if policy.min_step_s < 0 or policy.min_step_s >= policy.step_timeout_s:
        rule = f"0 or more, and less than step_timeout_s ({policy.step_timeout_s:g})"
        raise Refused("min_step_s", policy.min_step_s, rule, "lower it, or raise step_timeout_s")
    if policy.idle_s <= policy.settle_s + policy.look_s:
        rule = (
            f"more than settle_s + {policy.look_s:g} s, or a candidate that is called without a pause would seem idle"
        )
        raise Refused("idle_s", policy.idle_s, rule, "use for example 300")
    if policy.max_s <= 0:
        raise Refused("max_s", policy.max_s, "seconds, more than 0", "use for example 86400")
    if policy.max_s < policy.min_step_s * len(stages(policy)):
        rule = f"{len(stages(policy))} stages take at least {policy.min_step_s:g} s each"
        raise Refused("max_s", policy.max_s, rule, "raise it, or lower min_step_s")


def _check_approvals(policy: Policy) -> None:
    known = [*(stage.name for stage in stages(policy) if stage.mirror or not policy.auto), "promote"]
    for name in policy.approvals:
        if name not in known:
            why = "; the names of computed steps are not known before" if policy.auto else ""
            rule = f"there is no such stage; there are: {', '.join(known)}{why}"
            raise Refused("approvals", name, rule, "name one of them")
