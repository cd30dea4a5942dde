"""What a candidate shows before any user's request, and what is not waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_outputs import ordered

from configs.order import Order
from gateway.port import Cursor
from rollout.agreement import Agreement, fresh, with_comparisons
from rollout.agreement_finding import finding
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question, Reply
from rollout.decide import STUCK, first_step
from rollout.levels import output_needs
from rollout.nouns import Ask, Health, Instance, Outcome, RollBack, Shift, Version
from rollout.policy import OnTimeout
from tasks.outputs import Compared
from tasks.trail import first_trail, waived
from tasks.trying import alone

LIVES = Version("chat", 2, "m", "e", (Instance("chat-v2-0", "chat", 2, "h", 1, Health.READY),))
LIMITS = OutputLimits()


def answered(prompts: int, scored: bool) -> Agreement:
    """So many equal answers."""
    likely = (-0.5, -0.5) if scored else None
    reply = Reply("hello there", scored=likely)
    same = [(Question(f"q{n}", "right" if scored else ""), reply, reply, True) for n in range(prompts)]
    return with_comparisons(fresh(LIMITS), same)


def compared(order: Order, agreement: Agreement) -> Compared:
    return Compared(agreement, finding(agreement, output_needs(order.policy)))


def comparing(root: Path, **service: object) -> Order:
    """An order under a policy that compares answers."""
    order = ordered(root, **service)
    return replace(order, policy=replace(order.policy, outputs=LIMITS))


@pytest.mark.parametrize(
    ("prompts", "scored", "service", "mirror", "stuck"),
    [
        (40, True, {}, 200, False),  # proven
        (5, True, {}, 200, True),  # too few, and nothing else will come
        (5, True, {"call_records": {}}, 200, True),  # what users ask has no right answers
        (5, False, {"call_records": {}}, 200, False),  # an engine that scores nothing: pairs may tell the rest
        (0, False, {"call_records": {}}, 200, False),  # it did not answer once: pairs may tell
        (5, False, {"call_records": {}}, 0, True),  # no copies, no pairs
        (0, False, {}, 200, True),
    ],
)
def test_what_nobody_can_prove_any_more_is_not_waited_for(tmp_path, prompts, scored, service, mirror, stuck) -> None:
    """Before users' requests are spent on it; the reason names what would help."""
    order = comparing(tmp_path, **service)
    order = replace(order, policy=replace(order.policy, mirror=mirror))
    verdict = alone(order, LIVES, None, compared(order, answered(prompts, scored)))
    assert verdict.stuck is stuck
    assert verdict.outcome is (Outcome.UNDECIDED if stuck else Outcome.PROMOTE)
    assert ("outputs.budget_s" in verdict.reason) is stuck


@pytest.mark.parametrize(
    ("prompts", "scored", "service", "mirror", "helps"),
    [
        (5, False, {}, 200, "mirrored requests (call_records of the service)"),
        (5, False, {"call_records": {}}, 0, "mirrored requests (mirror_percent of the policy)"),
        (0, False, {}, 0, "mirrored requests (call_records of the service and mirror_percent of the policy)"),
        (5, True, {}, 200, ""),  # perplexity is open, which no user's request tells
    ],
)
def test_who_is_stuck_learns_what_would_help(tmp_path, prompts, scored, service, mirror, helps) -> None:
    """Call records and a mirror stage where their pairs would tell, each only where it is missing."""
    order = comparing(tmp_path, **service)
    order = replace(order, policy=replace(order.policy, mirror=mirror))
    reason = alone(order, LIVES, None, compared(order, answered(prompts, scored))).reason
    assert "more prompts (evaluation)" in reason and "wider limits" in reason
    assert helps in reason and ("mirrored requests" in reason) is bool(helps)


def test_who_goes_on_without_the_proof_is_not_asked_for_it_again(tmp_path) -> None:
    """A person's yes to that takes the metric away; the policy's other ways roll back, or hold on to it."""
    order = comparing(tmp_path)
    verdict = alone(order, LIVES, None, compared(order, answered(5, True)))
    asked = first_step(replace(order.policy, on_timeout=OnTimeout.ASK), 1, verdict)
    assert isinstance(asked, Ask) and asked.key == STUCK and isinstance(asked.then, Shift)
    assert isinstance(first_step(order.policy, 1, verdict), RollBack)
    trail = first_trail((), Cursor(), order.policy, answered(5, True))
    assert waived(trail, asked).outputs is None
    assert waived(trail, replace(asked, key="before traffic: approval")) == trail
