"""What a candidate shows by itself, before any user's request."""

from __future__ import annotations

from configs.order import Order
from loadtest.port import LoadReport
from rollout.judge import combine, judge_alone
from rollout.nouns import Outcome, Sample, Verdict, Version
from store.steer import failure
from tasks.outputs import Compared

MOST_FAILED = 0.05  # of a stress test: there is nothing to compare it with


def alone(order: Order, candidate: Version, report: LoadReport | None, outputs: Compared | None) -> Verdict:
    """Its instances must live, answer, fail seldom under load, and not answer worse than stable does."""
    if why := failure(candidate, order.service.instances):
        return Verdict(Outcome.ROLL_BACK, why)
    if outputs is not None and outputs.finding.outcome is Outcome.ROLL_BACK:
        return combine((outputs.finding,))
    if report is None:
        return Verdict(Outcome.PROMOTE, "no stress test was asked for")
    samples = tuple(Sample(0.0, 0, False, i < report.failed, None, None, None) for i in range(report.requests))
    verdict = judge_alone(samples, MOST_FAILED, least=1)
    if verdict.outcome is Outcome.UNDECIDED:
        return Verdict(Outcome.ROLL_BACK, "the stress test got no answer at all")
    return Verdict(verdict.outcome, f"stress test: {verdict.reason}")
