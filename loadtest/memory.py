"""A load test that sends nothing: the same plan gives the same report, at once."""

from __future__ import annotations

import math

from loadtest.meter import Sample, Second
from loadtest.page import write_page
from loadtest.plans import checked
from loadtest.port import LoadPlan, LoadReport, MemorySettings, OnSecond
from loadtest.report import SAMPLES, SECONDS, summarise, write_lines, write_report
from loadtest.run import folder_for
from rollout.errors import Unavailable


class MemoryLoadTest:
    """Stands for a server whose latencies the settings give."""

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings

    def run(self, plan: LoadPlan, directory: str, on_second: OnSecond) -> LoadReport:
        """See ``port.LoadTest``; the same rules and files, no time passes."""
        checked(plan)
        if plan.url in self._settings.unreachable:
            raise Unavailable(f"nothing answers at {plan.url}: as the settings say")
        folder = folder_for(directory)
        samples = self._samples(plan)
        seconds = [_second(samples, t, plan) for t in range(1, math.ceil(plan.duration_s) + 1)]
        for second in seconds:
            on_second(second)
        write_lines(folder / SAMPLES, samples)
        write_lines(folder / SECONDS, seconds)
        report = summarise(samples, seconds, folder)
        write_report(report, plan)
        write_page(plan, report, samples, seconds)
        return report

    def _samples(self, plan: LoadPlan) -> list[Sample]:
        """Each user's requests back to back from time 0; all start within the duration, at least one each."""
        settings, tokens = self._settings, plan.max_tokens
        e2e = settings.ttft_s + settings.tpot_s * (tokens - 1)
        rounds = max(1, math.ceil(plan.duration_s / e2e))
        return [self._sample(n, (n // plan.users) * e2e, e2e, plan) for n in range(rounds * plan.users)]

    def _sample(self, number: int, start: float, e2e: float, plan: LoadPlan) -> Sample:
        settings = self._settings
        bad = settings.fail_every > 0 and (number + 1) % settings.fail_every == 0
        return {
            "t_start": start,
            "status": 503 if bad else 200,
            "error": "HTTP 503: as the settings say" if bad else "",
            "cut": False,
            "tokens": 0 if bad else plan.max_tokens,
            "chunks": 0 if bad else plan.max_tokens,
            "ttft_s": settings.ttft_s if plan.stream and not bad else None,
            "tpot_s": settings.tpot_s if plan.stream and not bad and plan.max_tokens > 1 else None,
            "e2e_s": e2e,
        }


def _second(samples: list[Sample], t: int, plan: LoadPlan) -> dict[str, float]:
    ended = [s for s in samples if t - 1 < s["t_start"] + s["e2e_s"] <= t or (t == 1 and s["e2e_s"] == 0)]
    late = t >= plan.duration_s  # what is still open then ends in the last second
    ended += [s for s in samples if late and s["t_start"] + s["e2e_s"] > t]
    return Second(sum(s["tokens"] for s in ended), ended).line(t, 1.0, plan.users, 0.0, 0.0)
