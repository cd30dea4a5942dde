"""Who may be wrong how often: the release's two levels, shared among its metrics.

A roll back follows from any metric, so the metrics share ``alpha`` (Bonferroni). A promotion needs all of them to be
good, so each is tested at ``beta`` and no sharing is needed (intersection-union; Berger, Technometrics 1982).
"""

from __future__ import annotations

import math

from rollout.agreement_finding import Needs
from rollout.policy import Policy

_PARTS = {"errors": 3, "TTFT": 3, "TPOT": 2, "outputs": 2}  # of alpha; any other metric has one part


def harm_levels(policy: Policy) -> dict[str, float]:
    """The level of each judged metric's test for harm; they add up to ``alpha``."""
    parts = {name: _PARTS.get(name, 1) for name in judged(policy)}
    return {name: policy.alpha * part / sum(parts.values()) for name, part in parts.items()}


def judged(policy: Policy) -> tuple[str, ...]:
    """The metrics that a policy judges by tests, in the order in which they are told."""
    on = {
        "errors": True,
        "TTFT": policy.ttft,
        "TPOT": policy.tpot,
        "E2E": policy.e2e,
        "goodput": policy.objectives,
        "refusals": policy.refusals,
        "abandoned": policy.abandoned,
        "outputs": policy.outputs,
    }
    return tuple(name for name, is_on in on.items() if is_on)


def allow_needs(policy: Policy, part: float) -> float:
    """The e-value that proves a metric good enough for a stage that asks for this part of the proof, 0..1."""
    return math.exp(part * -math.log(policy.beta))


def output_needs(policy: Policy, part: float = 1.0) -> Needs:
    """The same two for compared outputs."""
    return Needs(harm_levels(policy).get("outputs", policy.alpha), allow_needs(policy, part))
