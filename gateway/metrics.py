"""Prometheus metrics out of the records: who answered how much, how fast, and what was refused.

Kept as plain sums, and turned into metric families only when somebody asks: that costs a few microseconds a record
instead of tens, and what is gone can drop out.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.port import Cursor, Record
from gateway.records import batches, end_of_records
from gateway.samples import LEFT

#: Upper bounds in seconds. A first token comes in milliseconds to tens of seconds, a whole answer in up to minutes.
TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
TOTAL_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
REASONS = frozenset((401, 403, 408, 413, 429, 431, 450, 503, 504))  # statuses with which the gateway itself refuses
IDLE_S = 3600.0  #: a series without any request for so long drops out, for instance of a version that is gone
MOST_SERIES = 2000  #: beyond it no new ones are begun; all of them count as one more, named "other"
_AT_ONCE = 64  # batches a look, about 300,000 records; the rest waits for the next one
LABELS = ("door", "service", "version", "kind")


class Key(NamedTuple):
    """The labels of a series. ``version`` is the one that answered, else the one that was to answer, else empty."""

    door: str
    service: str
    version: str
    kind: str


_OTHER = Key("other", "other", "", "live")


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count ``value``; a bound holds what is equal to it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many up to it), as Prometheus wants them."""
        names = [*(str(b) for b in self.bounds), "+Inf"]
        return [(name, float(n)) for name, n in zip(names, accumulate(self.counts), strict=True)]


@dataclass
class Series:
    """The sums of one key."""

    seen: float
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by status class and end
    refused: Counter[str] = field(default_factory=Counter)
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_S))
    total: Histogram = field(default_factory=lambda: Histogram(TOTAL_S))
    tokens: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    retried: int = 0

    def add(self, record: Record) -> None:
        """Count one request."""
        self.requests[f"{record.status // 100}xx", end_of(record)] += 1
        if record.status in REASONS and (record.instance is None or record.flags != "-"):
            self.refused[str(record.status)] += 1
        if record.streamed and record.ttft_s is not None:
            self.ttft.add(record.ttft_s)
        if record.total_s is not None and record.instance is not None:
            self.total.add(record.total_s)
        self.tokens["in"] += record.tokens_in or 0
        self.tokens["out"] += record.tokens_out or 0
        self.sizes["in"] += record.bytes_in
        self.sizes["out"] += record.bytes_out
        self.retried += record.attempts > 1


def end_of(record: Record) -> str:
    """How the exchange ended, beside its status: "ok", "client_left", or "cut" (an answer that had begun)."""
    if record.flags == "-":
        return "ok"
    if LEFT & set(record.flags.split(",")):
        return "client_left"
    return "cut" if record.status < 400 and record.instance is not None else "ok"


Rows = Iterable[tuple[tuple[str, ...], float]]  #: further labels, and the value
Values = Callable[[Series], Rows]


class RecordMetrics(Collector):
    """The metrics of all records from the moment it was made; ``look`` reads on, ``collect`` shows what was read."""

    def __init__(self, records: Path, clock: Callable[[], float] = time.time, most: int = MOST_SERIES) -> None:
        self._records, self._clock, self._most = records, clock, most
        self._cursor: Cursor = end_of_records(records)
        self._series: dict[Key, Series] = {}
        self._skipped = 0

    def look(self) -> None:
        """Read what was written since the last look, and forget what has been idle for long."""
        now = self._clock()
        for batch in islice(batches(self._records, self._cursor), _AT_ONCE):
            self._cursor = batch.cursor
            self._skipped += batch.skipped
            self._add(batch.records, now)
        self._series = {key: s for key, s in self._series.items() if now - s.seen < IDLE_S}

    def collect(self) -> Iterator[Metric]:
        """The metric families, for a registry."""
        yield self._counter("requests", "Requests by status class and how they ended.", ("code", "end"), _requests)
        yield self._counter("refused", "Requests that the gateway itself answered.", ("reason",), _refused)
        yield self._counter("retried_requests", "Requests that took more than one attempt.", (), _retried)
        yield self._counter("tokens", "Tokens of prompts (in) and answers (out).", ("direction",), _tokens)
        yield self._counter("body_bytes", "Bytes of bodies.", ("direction",), _sizes)
        yield self._histogram("ttft_seconds", "Time to the first byte of a streamed answer's body.", lambda s: s.ttft)
        yield self._histogram("request_seconds", "Whole requests that an instance answered.", lambda s: s.total)
        yield CounterMetricFamily("roundhouse_unread_lines", "Log lines that were no records.", value=self._skipped)

    def _add(self, records: Iterable[Record], now: float) -> None:
        for record in records:
            version = record.arm if record.version is None else record.version
            key = Key(record.door, record.service, "" if version is None else str(version), record.kind)
            series = self._series.get(key)
            if series is None:
                key = key if len(self._series) < self._most else _OTHER
                series = self._series.setdefault(key, Series(now))
            series.seen = now
            series.add(record)

    def _counter(self, name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
        family = CounterMetricFamily(f"roundhouse_{name}", text, labels=(*LABELS, *labels))
        for key, series in self._series.items():
            for extra, value in values(series):
                family.add_metric((*key, *extra), value)
        return family

    def _histogram(self, name: str, text: str, of: Callable[[Series], Histogram]) -> Metric:
        family = HistogramMetricFamily(f"roundhouse_{name}", text, labels=LABELS)
        for key, series in self._series.items():
            family.add_metric(key, of(series).buckets(), of(series).sum)
        return family


def _requests(series: Series) -> Rows:
    return series.requests.items()


def _refused(series: Series) -> Rows:
    return [((reason,), n) for reason, n in series.refused.items()]


def _retried(series: Series) -> Rows:
    return [((), series.retried)]


def _tokens(series: Series) -> Rows:
    return [((direction,), n) for direction, n in series.tokens.items()]


def _sizes(series: Series) -> Rows:
    return [((direction,), n) for direction, n in series.sizes.items()]
