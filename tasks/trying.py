"""What a candidate shows by itself, before any user's request."""

from __future__ import annotations

from configs.order import Order
from loadtest.port import LoadReport
from rollout.agreement_finding import undecidable
from rollout.judge import combine, judge_alone
from rollout.levels import output_needs
from rollout.nouns import Outcome, Sample, Verdict, Version
from store.steer import failure
from tasks.outputs import Compared

MOST_FAILED = 0.05  # of a stress test: there is nothing to compare it with


def alone(order: Order, candidate: Version, report: LoadReport | None, outputs: Compared | None) -> Verdict:
    """Its instances must live, answer, fail seldom under load, and not answer worse than stable does.

    Where nobody can tell any more whether its answers are worse, users' requests are not spent on waiting for it.
    """
    if why := failure(candidate, order.service.instances):
        return Verdict(Outcome.ROLL_BACK, why)
    if outputs is not None and outputs.finding.outcome is Outcome.ROLL_BACK:
        return combine((outputs.finding,))
    tried = _stressed(report)
    if outputs is None or tried.outcome is not Outcome.PROMOTE:
        return tried
    lacking = _lacking(order)
    if undecidable(outputs.agreement, output_needs(order.policy), pairs=not lacking):
        reason = f"{outputs.finding.sentence}. {_advice(order, outputs, lacking)}"
        return Verdict(Outcome.UNDECIDED, reason, (outputs.finding,), stuck=True)
    return tried


def _lacking(order: Order) -> tuple[str, ...]:
    """What it takes to compare answers to mirrored requests, and is not there."""
    records = () if order.service.call_records is not None else ("call_records of the service",)
    return records if order.policy.mirror else (*records, "mirror_percent of the policy")


def _advice(order: Order, outputs: Compared, lacking: tuple[str, ...]) -> str:
    ways = ["more prompts (evaluation)", "more time (outputs.budget_s)", "wider limits (outputs)"]
    if lacking and not undecidable(outputs.agreement, output_needs(order.policy), pairs=True):
        ways.append(f"answers to mirrored requests ({' and '.join(lacking)})")
    return f"Nothing that follows would tell; what would: {', '.join(ways[:-1])} or {ways[-1]}"


def _stressed(report: LoadReport | None) -> Verdict:
    if report is None:
        return Verdict(Outcome.PROMOTE, "no stress test was asked for")
    samples = tuple(Sample(0.0, 0, False, i < report.failed, None, None, None) for i in range(report.requests))
    verdict = judge_alone(samples, MOST_FAILED, least=1)
    if verdict.outcome is Outcome.UNDECIDED:
        return Verdict(Outcome.ROLL_BACK, "the stress test got no answer at all")
    return Verdict(verdict.outcome, f"stress test: {verdict.reason}")
