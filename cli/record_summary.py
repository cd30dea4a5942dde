"""Records of a stretch of time in a row per version: how many, how they ended, how fast. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles

from gateway.metrics import end_of
from gateway.port import Record


@dataclass(frozen=True)
class Row:
    """One version's live or mirrored requests. Times in seconds, None where there was none to measure."""

    version: int | None
    kind: str
    n: int
    statuses: dict[str, int]  # by class: "2xx", "4xx", ...
    cut: int
    client_left: int
    ttft_p50_s: float | None  # of streamed answers
    ttft_p95_s: float | None
    total_p50_s: float | None
    total_p95_s: float | None
    tokens_per_s: float | None  # tokens of answers over the stretch of time that these requests span


@dataclass
class _Sums:
    statuses: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    ttft: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    tokens: int = 0
    begin: float = float("inf")
    end: float = 0.0

    def add(self, record: Record) -> None:
        self.statuses[f"{record.status // 100}xx"] += 1
        self.ends[end_of(record)] += 1
        self.tokens += record.tokens_out or 0
        self.begin = min(self.begin, record.at)
        self.end = max(self.end, record.at + (record.total_s or 0.0))
        if record.instance is None:
            return  # what the gateway answered itself says nothing of a version's speed
        if record.streamed and record.ttft_s is not None:
            self.ttft.append(record.ttft_s)
        if record.total_s is not None:
            self.total.append(record.total_s)


def summary(records: Iterable[Record]) -> list[Row]:
    """A row for each version and kind, by version; without a version: those that were refused before a choice."""
    sums: defaultdict[tuple[int | None, str], _Sums] = defaultdict(_Sums)
    for record in records:
        sums[record.arm if record.version is None else record.version, record.kind].add(record)
    return [
        _row(version, kind, s) for (version, kind), s in sorted(sums.items(), key=lambda at: (at[0][0] or 0, at[0][1]))
    ]


def _row(version: int | None, kind: str, sums: _Sums) -> Row:
    span = sums.end - sums.begin
    return Row(
        version,
        kind,
        sums.statuses.total(),
        dict(sorted(sums.statuses.items())),
        sums.ends["cut"],
        sums.ends["client_left"],
        *_p50_p95(sums.ttft),
        *_p50_p95(sums.total),
        sums.tokens / span if sums.tokens and span > 0 else None,
    )


def _p50_p95(values: list[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (None, None)
    parts = quantiles(values, n=100, method="inclusive")
    return parts[49], parts[94]
