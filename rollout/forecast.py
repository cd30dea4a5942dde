"""While a release is undecided: how long until its margins can be told, at the traffic that there is.

What was seen of stable (its latencies in each stratum, its rates of events) tells how fast evidence grows per request
(``growth``), and the e-values so far how much is missing. For each metric that is two times: until a harm of practical
size would be found, and until a candidate that is like stable would be proven good enough for the stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rollout.evidence import Evidence
from rollout.evidence.counted import Counted
from rollout.evidence.latency import Latency
from rollout.growth import (
    RARE,
    event_growth,
    evidence_for,
    faster_growth,
    fewer_growth,
    harmful_rate,
    slower_by,
    slower_growth,
)
from rollout.nouns import Finding, Verdict
from rollout.policy import Policy
from rollout.traffic_model import Kind


@dataclass(frozen=True)
class MetricForecast:
    """Seconds from now on, at this traffic; infinite where it will never be told, 0 where it is."""

    metric: str
    harm: str  # the size of harm that is looked for
    found_s: float
    good: str  # what is to be proven
    proven_s: float


@dataclass(frozen=True)
class Forecast:
    """When an undecided stage can be decided. ``per_minute``: the candidate's requests, live or copies."""

    per_minute: float
    left_s: float
    metrics: tuple[MetricForecast, ...]
    least_s: float = 0.0  # until the stage has the requests and the time that the policy demands of it

    @property
    def proven_s(self) -> float:
        """Until an identical candidate would be proven good enough in every metric; infinite: never."""
        return max((m.proven_s for m in self.metrics), default=0.0) if self.metrics else math.inf

    @property
    def found_s(self) -> float:
        """Until harm of practical size would be found, whichever metric it is in."""
        return max((m.found_s for m in self.metrics), default=math.inf)

    @property
    def sentence(self) -> str:
        """For a person."""
        if not self.per_minute:
            return "no forecast: the candidate gets no requests"
        if not self.metrics:
            return "no forecast: too few requests of stable are known"
        slow = max(self.metrics, key=lambda m: m.proven_s)
        late = max(self.metrics, key=lambda m: m.found_s)
        at = f"at {_rate(self.per_minute)} of the candidate"
        find = _told(late.found_s, self.left_s, f"find {late.harm}")
        if max(slow.proven_s, self.least_s) <= 0:
            return f"{at}: nothing more is needed; {find}"
        if self.least_s > slow.proven_s:
            return f"{at}: {_told(self.least_s, self.left_s, 'have the requests and the time the stage asks')}; {find}"
        return f"{at}: {_told(slow.proven_s, self.left_s, f'prove {slow.good}')}; {find}"


def forecast(
    evidence: Evidence, verdict: Verdict, policy: Policy, per_s: float, weight: float, left_s: float = math.inf
) -> Forecast:
    """What is still missing, in time.

    ``per_s``: judged requests a second, of both arms, with the candidate's ``weight`` (0..1) in force; with a weight of
    0 pairs a second, each answered by both. ``left_s``: seconds that the policy still gives.
    """
    per_s, candidate = max(per_s, 0.0), per_s * (weight or 1.0)
    by_name = {finding.metric: finding for finding in verdict.findings}
    tests = (*evidence.latencies, *evidence.counts)
    told = [_of(test, by_name[test.name], per_s, weight) for test in tests if test.name in by_name]
    stable = per_s * (1 - weight)
    missing = (policy.min_samples - evidence.n_candidate, candidate), (policy.min_samples - evidence.n_stable, stable)
    least = max(_seconds(n, rate) for n, rate in missing)
    return Forecast(60 * candidate, left_s, tuple(m for m in told if m), least)


def _of(test: Latency | Counted, finding: Finding, per_s: float, weight: float) -> MetricForecast | None:
    growths = _latency_growths(test) if isinstance(test, Latency) else _event_growths(test)
    if growths is None:
        return None
    harm, good, finds, proves = growths
    # a pair tells as much as two requests would at equal shares
    w, n = (weight, per_s) if weight else (0.5, 2 * per_s)
    found = _seconds(evidence_for(finding.harm_needs) - evidence_for(finding.harm_e), n * finds(w))
    unproven = test.margin.allow and finding.allow_e < finding.allow_needs
    proven = _seconds(evidence_for(finding.allow_needs) - evidence_for(finding.allow_e), n * proves(w))
    return MetricForecast(test.name, harm, found, good, proven if unproven else 0.0)


_Growths = tuple[str, str, Callable[[float], float], Callable[[float], float]]


def _latency_growths(test: Latency) -> _Growths | None:
    kinds, margin = _kinds(test), test.margin
    if not kinds:
        return None
    much = slower_by(margin)
    return (
        f"{test.name} {much - 1:+.0%}",
        f"{test.name} within {margin.allow:g}x",
        lambda w: slower_growth(kinds, "ttft_s", much, margin.harm, w),
        lambda w: faster_growth(kinds, "ttft_s", margin.allow, w),
    )


def _event_growths(test: Counted) -> _Growths | None:
    if not test.n_stable:
        return None
    rate, margin = test.stable / test.n_stable, test.margin
    least, much = max(rate, RARE), harmful_rate(rate, margin)
    harm = f"{much:.2%} {test.name}"
    return (
        harm,
        f"{test.name} within {margin.allow:+.1%}",
        lambda w: event_growth(least, much / least, margin.harm_ratio, w),
        lambda w: fewer_growth(rate, margin.harm_ratio, margin.allow, w),
    )


def _kinds(test: Latency) -> tuple[Kind, ...]:
    """Stable's latencies by stratum, with the share of the requests in it."""
    counts: dict[int, int] = {}
    for key, cell in test.cells.items():
        stratum = int(key.rpartition("/")[2])
        counts[stratum] = counts.get(stratum, 0) + cell.stable.n + cell.candidate.n
    known = test.references
    total = sum(counts.get(k, 0) for k in known)
    return tuple(
        Kind(counts.get(k, 0) / total if total else 1 / len(known), tuple(sorted(known[k]))) for k in known if known[k]
    )


def _seconds(missing: float, per_s: float) -> float:
    if missing <= 0:
        return 0.0
    return missing / per_s if per_s > 0 else math.inf


def _rate(per_minute: float) -> str:
    return f"{per_minute:.0f} requests/min" if per_minute >= 10 else f"{per_minute * 60:.0f} requests/h"


def _told(seconds: float, left_s: float, what: str) -> str:
    if math.isinf(seconds):
        return f"no number of requests will {what}"
    if seconds > left_s:
        return f"about {lasting(seconds)} to {what}, not reachable at this traffic in the {lasting(left_s)} left"
    return f"about {lasting(seconds)} more to {what}" if seconds else f"enough to {what}"


def lasting(seconds: float) -> str:
    """A duration for people.

    >>> lasting(45), lasting(2040), lasting(90000)
    ('45 s', '34 min', '25 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
