"""Raw samples to a report and its files. Quantiles are numpy's, of the raw values."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.plans import written
from loadtest.port import LoadPlan, LoadReport, Quantiles
from rollout.errors import Corrupt

SAMPLES, SECONDS, REPORT, PAGE = "samples.jsonl", "seconds.jsonl", "report.json", "report.html"
MOST_ERRORS = 20  # distinct ones that are listed; the rest is summed up
BUSY_CPU, LATE_S = 0.7, 0.1  # above these the client's own delays may show in the numbers


def quantiles(values: Iterable[float | None]) -> Quantiles | None:
    """Of the values that are defined (s), linear between ranks; ``None`` where there is none."""
    known = np.array([v for v in values if v is not None], dtype=float)
    if not known.size:
        return None
    p50, p90, p95, p99 = (float(v) for v in np.percentile(known, [50, 90, 95, 99]))
    return Quantiles(p50, p90, p95, p99, float(known.mean()), int(known.size))


def summarise(samples: Sequence[dict[str, Any]], seconds: Sequence[dict[str, float]], directory: Path) -> LoadReport:
    """All samples of one test to its report. Rates are over the time from the first second to the last."""
    good = [s for s in samples if not s["error"]]
    span = max(seconds[-1]["t"], 1e-9) if seconds else 0.0
    tokens = sum(s["tokens"] for s in samples)
    return LoadReport(
        requests=len(samples),
        failed=len(samples) - len(good),
        cut=sum(s["cut"] for s in samples),
        seconds=span,
        requests_per_s=len(good) / span if span else 0.0,
        tokens_per_s=tokens / span if span else 0.0,
        ttft=quantiles(s["ttft_s"] for s in good),
        tpot=quantiles(s["tpot_s"] for s in good),
        e2e=quantiles(s["e2e_s"] for s in good),
        errors=errors(s["error"] for s in samples if s["error"]),
        directory=str(directory),
        seconds_file=str(directory / SECONDS),
        samples_file=str(directory / SAMPLES),
        page=str(directory / PAGE),
        tokens=tokens,
        warnings=warnings(seconds),
    )


def errors(found: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Each kind of error and how often, the most frequent first; beyond 20 kinds as ``others``."""
    ranked = sorted(Counter(found).items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ranked[MOST_ERRORS:])
    return (*ranked[:MOST_ERRORS], *((("others", rest),) if rest else ()))


def warnings(seconds: Sequence[dict[str, float]]) -> tuple[str, ...]:
    """What says that the client, not the server, may have been the slow one."""
    found = []
    busy = sum(s["client_cpu"] > BUSY_CPU for s in seconds)
    late = sum(s["lag_s"] > LATE_S for s in seconds)
    if busy:
        found.append(f"the load generator used over {BUSY_CPU:.0%} of a core in {busy} of {len(seconds)} seconds")
    if late:
        found.append(f"the load generator was over {LATE_S:g} s late in {late} of {len(seconds)} seconds")
    return tuple(found)


def metrics(report: LoadReport) -> dict[str, float]:
    """The report as flat numbers, for ``dvc metrics`` and for MLflow. Undefined ones are left out."""
    names = ("requests", "failed", "cut", "seconds", "tokens", "requests_per_s", "tokens_per_s")
    flat = {name: float(getattr(report, name)) for name in names}
    for name in ("ttft", "tpot", "e2e"):
        if (found := getattr(report, name)) is not None:
            flat |= {f"{name}_{rank}_s": getattr(found, rank) for rank in ("p50", "p90", "p95", "p99", "mean")}
    return {name: round(value, 6) for name, value in flat.items()}


def as_csv(seconds: Sequence[dict[str, float]]) -> str:
    """One row per second, for ``dvc plots``; a cell is empty where nothing ended."""
    columns = ["t", "requests_per_s", "tokens_per_s", "failed", "in_flight", "ttft_p50", "tpot_p50", "e2e_p50"]
    out = io.StringIO()
    table = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for second in seconds:
        rates = {f"{name}_per_s": round(second[name] / second["span_s"], 3) for name in ("requests", "tokens")}
        table.writerow(second | rates)
    return out.getvalue()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines. Raises Corrupt, naming file and line."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise Corrupt(f"{path}, line {number}: no JSON ({error})") from error
    return found


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """The inverse of ``read_lines``."""
    put(path, "".join(json.dumps(line) + "\n" for line in lines))


def write_report(report: LoadReport, plan: LoadPlan) -> None:
    """``report.json``: the plan, without headers, and what was measured."""
    put(Path(report.directory) / REPORT, json.dumps({"plan": written(plan), "report": asdict(report)}, indent=2) + "\n")


def put(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that no reader sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)
