"""Evidence to verdict: promote, roll back, or not yet decidable. Pure; missing data never counts as good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rollout.evidence.state import Evidence
from rollout.findings import counted_finding, latency_finding, split_finding
from rollout.levels import allow_needs, harm_levels
from rollout.nouns import Finding, Outcome, Sample, Verdict
from rollout.policy import Policy

LEAST = 5  # requests of each arm before one is called worse than the other


def judge(evidence: Evidence, policy: Policy, part: float = 1.0, others: Iterable[Finding] = ()) -> Verdict:
    """One verdict on all evidence so far: any metric proven harmful rolls back, all proven good enough promote.

    ``part`` is the part of the proof that this stage asks for, 0..1 (1: all of it). ``others`` are findings from
    elsewhere: compared outputs, vetoes. Both arms need ``policy.min_samples`` requests in this stage.
    """
    others = tuple(others)
    if evidence.split_broken:
        finding = split_finding(evidence.split)
        if any(other.outcome is Outcome.ROLL_BACK for other in others):
            return combine((finding, *others))
        return Verdict(Outcome.UNDECIDED, finding.sentence, (finding, *others), stuck=True)
    levels, needs = harm_levels(policy), allow_needs(policy, part)
    found = [counted_finding(test, levels[test.name], needs) for test in evidence.counts]
    found += [latency_finding(test, levels[test.name], needs) for test in evidence.latencies]
    enough = [_enough(finding, evidence, policy.min_samples) for finding in found]
    return combine((*_without_streams(enough, evidence, policy), *others))


def combine(findings: tuple[Finding, ...]) -> Verdict:
    """Worst wins: harmful before undecided before good."""
    harmful = [f for f in findings if f.outcome is Outcome.ROLL_BACK]
    if harmful:
        worst = sorted(harmful, key=lambda f: -f.harm_e / max(f.harm_needs, 1e-12))
        return Verdict(Outcome.ROLL_BACK, "; ".join(f.sentence for f in worst), findings)
    undecided = [f for f in findings if f.outcome is Outcome.UNDECIDED]
    if undecided:
        return Verdict(Outcome.UNDECIDED, "; ".join(f.sentence for f in undecided), findings)
    return Verdict(Outcome.PROMOTE, "; ".join(f.sentence for f in findings), findings)


def _enough(finding: Finding, evidence: Evidence, least: int) -> Finding:
    """Harmful only where there is something to compare with, good only where the stage itself has seen enough."""
    if finding.outcome is Outcome.ROLL_BACK and min(finding.n_stable, finding.n_candidate) < LEAST:
        told = f"{finding.metric}: {finding.n_candidate} and {finding.n_stable} requests, too few to compare"
        return replace(finding, outcome=Outcome.UNDECIDED, sentence=told)
    if finding.outcome is not Outcome.PROMOTE:
        return finding
    if min(finding.n_stable, finding.n_candidate) < least:
        told = f"{finding.metric}: known of {finding.n_candidate} and {finding.n_stable} requests, {least} are needed"
        return replace(finding, outcome=Outcome.UNDECIDED, sentence=told)
    if min(evidence.n_stable, evidence.n_candidate) >= least:
        return finding
    seen = f"{evidence.n_candidate} and {evidence.n_stable} requests in this stage, {least} of each are needed"
    return replace(finding, outcome=Outcome.UNDECIDED, sentence=f"{finding.sentence}; {seen}")


def _without_streams(found: list[Finding], evidence: Evidence, policy: Policy) -> list[Finding]:
    """Where no client streams there is no first token to wait for, and the other latencies speak for whole answers."""
    seen = min(evidence.n_stable, evidence.n_candidate)
    others = [test.name for test in evidence.latencies if test.name != "TTFT"]
    if seen < policy.min_samples or evidence.streamed or not others:
        return found
    told = f"TTFT: none of {evidence.n_stable} and {evidence.n_candidate} answers was streamed; {others[0]} judges them"
    return [
        replace(f, outcome=Outcome.PROMOTE, sentence=told)
        if f.metric == "TTFT" and f.outcome is Outcome.UNDECIDED
        else f
        for f in found
    ]


def judge_alone(samples: tuple[Sample, ...], limit: float, least: int) -> Verdict:
    """For a first version, with nothing to compare to: it answers ``least`` requests and at most ``limit`` fail."""
    failed, n = sum(s.failed or s.cut for s in samples), len(samples)
    sentence = f"errors: {failed} of {n} requests, bound {limit:.1%}"
    if n < least:
        return Verdict(Outcome.UNDECIDED, f"{sentence}; {least} requests are needed")
    return Verdict(Outcome.PROMOTE if failed <= limit * n else Outcome.ROLL_BACK, sentence)
