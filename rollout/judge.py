"""Samples to verdict: promote, roll back, or not yet decidable. Pure; missing data never counts as good."""

from __future__ import annotations

import math
from collections.abc import Callable

from rollout.nouns import Finding, Outcome, Sample, Samples, Verdict
from rollout.policy import ErrorMargin, Margin, Policy, stages
from rollout.sequential import log_ratio_interval, more_events_e_value, rate_interval

_METRICS = 3  # errors, TTFT, TPOT: the probability of a wrong roll back is shared among them and among the stages


def judge(samples: Samples, policy: Policy, share: float) -> Verdict:
    """One verdict over one window: any metric proven harmful rolls back, all proven good enough promote.

    ``share`` is the part of the judged requests that the gateway was told to give to the candidate, 0..1.
    """
    alpha = policy.alpha / (_METRICS * len(stages(policy)))
    findings = (
        judge_errors(samples, policy.errors, alpha, share),
        judge_ttft(samples, policy.ttft, alpha, policy.min_samples),
        judge_latency("TPOT", lambda s: s.tpot_s, samples, policy.tpot, alpha, policy.min_samples),
    )
    return combine(findings)


def judge_ttft(samples: Samples, margin: Margin, alpha: float, least: int) -> Finding:
    """TTFT of streamed answers. Where no client streams there is none, and TPOT speaks for the whole answers."""
    n_s, n_c = len(samples.stable), len(samples.candidate)
    if min(n_s, n_c) >= least and not any(s.streamed for s in (*samples.stable, *samples.candidate)):
        sentence = f"TTFT: none of {n_s} and {n_c} answers was streamed; TPOT judges them"
        return Finding("TTFT", Outcome.PROMOTE, None, None, None, None, margin.allow, 0, 0, sentence)
    return judge_latency("TTFT", lambda s: s.ttft_s if s.streamed else None, samples, margin, alpha, least)


def combine(findings: tuple[Finding, ...]) -> Verdict:
    """Worst wins: harmful before undecided before good."""
    harmful = [f for f in findings if f.outcome is Outcome.ROLL_BACK]
    if harmful:
        return Verdict(Outcome.ROLL_BACK, "; ".join(f.sentence for f in harmful), findings)
    undecided = [f for f in findings if f.outcome is Outcome.UNDECIDED]
    if undecided:
        return Verdict(Outcome.UNDECIDED, "; ".join(f.sentence for f in undecided), findings)
    return Verdict(Outcome.PROMOTE, "; ".join(f.sentence for f in findings), findings)


def judge_errors(samples: Samples, margin: ErrorMargin, alpha: float, share: float) -> Finding:
    """Failed or cut requests of both arms. Harm by the e-process of counted events, good by exact rate intervals."""
    n_s, n_c = len(samples.stable), len(samples.candidate)
    bad_s, bad_c = _bad(samples.stable), _bad(samples.candidate)
    rate_s, rate_c = (bad_s / n_s if n_s else None), (bad_c / n_c if n_c else None)
    e_value = more_events_e_value(bad_c, bad_s, share, margin.harm_ratio)
    (low_s, high_s), (low_c, high_c) = rate_interval(bad_s, n_s, alpha), rate_interval(bad_c, n_c, alpha)
    low, high = low_c - high_s, high_c - low_s
    seen = f"errors: candidate {bad_c} of {n_c}, stable {bad_s} of {n_s}"
    if e_value >= 1 / alpha:
        outcome, tail = (
            Outcome.ROLL_BACK,
            f"proven more than {margin.harm_ratio:g} times stable's rate (e-value {e_value:.3g})",
        )
    elif n_s and high < margin.allow:
        outcome, tail = Outcome.PROMOTE, f"at most {high:+.1%} over stable, bound {margin.allow:+.1%}"
    else:
        outcome, tail = Outcome.UNDECIDED, f"may still be {high:+.1%} over stable, bound {margin.allow:+.1%}"
    return Finding("errors", outcome, rate_s, rate_c, low, high, margin.allow, n_s, n_c, f"{seen}: {tail}")


def judge_latency(
    metric: str, value: Callable[[Sample], float | None], samples: Samples, margin: Margin, alpha: float, least: int
) -> Finding:
    """A latency's ratio candidate/stable (of geometric means) with a confidence sequence, against the margin."""
    stable, candidate = _values(samples.stable, value), _values(samples.candidate, value)
    n_s, n_c = len(stable), len(candidate)
    if min(n_s, n_c) < least:
        sentence = f"{metric}: {n_c} answers of the candidate and {n_s} of stable, {least} of each are needed"
        return Finding(metric, Outcome.UNDECIDED, None, None, None, None, margin.allow, n_s, n_c, sentence)
    low, high = (math.exp(x) for x in log_ratio_interval(candidate, stable, 2 * alpha))
    ratio = _mean(candidate) / _mean(stable)
    seen = (
        f"{metric}: candidate {_shown(_mean(candidate))} is {ratio:.2f}x stable's {_shown(_mean(stable))}, "
        f"between {low:.2f}x and {high:.2f}x over {n_c} and {n_s} requests"
    )
    if low > margin.harm:
        outcome, tail = Outcome.ROLL_BACK, f"above the bound {margin.harm:g}x"
    elif high < margin.allow:
        outcome, tail = Outcome.PROMOTE, f"within the bound {margin.allow:g}x"
    else:
        outcome, tail = Outcome.UNDECIDED, f"bounds {margin.harm:g}x and {margin.allow:g}x not yet excluded"
    return Finding(
        metric, outcome, _mean(stable), _mean(candidate), low, high, margin.allow, n_s, n_c, f"{seen}: {tail}"
    )


def judge_alone(samples: tuple[Sample, ...], limit: float, least: int) -> Verdict:
    """For a first version, with nothing to compare to: it answers ``least`` requests and at most ``limit`` fail."""
    failed, n = _bad(samples), len(samples)
    sentence = f"errors: {failed} of {n} requests, bound {limit:.1%}"
    if n < least:
        return Verdict(Outcome.UNDECIDED, f"{sentence}; {least} requests are needed")
    return Verdict(Outcome.PROMOTE if failed <= limit * n else Outcome.ROLL_BACK, sentence)


def _bad(samples: tuple[Sample, ...]) -> int:
    return sum(s.failed or s.cut for s in samples)


def _values(samples: tuple[Sample, ...], value: Callable[[Sample], float | None]) -> list[float]:
    return [v for s in samples if not s.failed and not s.cut and (v := value(s)) is not None and v > 0]


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
