"""One request's events to its sample, and one second's samples to its line. Pure: times are arguments.

A sample is a flat dict, one JSON line: ``t_start`` (epoch s), ``status`` (0 where no head came), ``error`` (empty: it
succeeded), ``cut``, ``tokens``, ``chunks``, ``ttft_s``, ``tpot_s``, ``e2e_s`` (``None`` where undefined).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from loadtest import wire

Sample = dict[str, Any]
UNFINISHED = "not finished when the test ended"  # we gave up on it, so it is a failure and not the server's cut


@dataclass
class Meter:
    """Watches one request that was sent at ``start`` (epoch s)."""

    start: float
    status: int = 0
    error: str = ""
    ended: bool = False  # the answer came to its proper end
    broken: bool = False  # an error object came where the next token should have been
    end: float | None = None
    first: float | None = None
    last: float | None = None
    chunks: int = 0
    counts: bytes = b""

    def see(self, at: float, event: bytes) -> int:
        """Take one event of a stream; 1 where it carries a token, which is what a live counter adds."""
        if event == b"[DONE]":
            self.ended, self.end = True, at
            return 0
        if wire.has_counts(event):
            self.counts = event
        if wire.has_token(event):
            self.first = at if self.first is None else self.first
            self.last = at
            self.chunks += 1
            return 1
        if message := wire.error_in(event):
            self.error, self.broken = f"error in the stream: {message}", True
        return 0

    def see_whole(self, at: float, answer: bytes) -> None:
        """Take an answer that did not stream, or the body of a refusal."""
        self.ended, self.end, self.counts = True, at, answer
        self.chunks = int(wire.has_token(answer))
        message = wire.error_in(answer)
        if self.status != 200:
            self.error = f"HTTP {self.status}: {message or ' '.join(answer[:80].decode('utf-8', 'replace').split())}"
        elif message:
            self.error = f"error in the answer: {message}"

    @property
    def tokens(self) -> int:
        """Output tokens as the server counted them, else the chunks that carried one."""
        counted = wire.tokens_in(self.counts) if self.counts else None
        return self.chunks if counted is None else counted

    def sample(self) -> Sample:
        """What was seen, once nothing more will come. TTFT from the send, TPOT = (t_n - t_1) / (N - 1), N >= 2."""
        tokens, cut = self.tokens, self.status == 200 and (self.broken or not self.ended) and self.error != UNFINISHED
        error = self.error or ("cut" if cut else "") or (f"HTTP {self.status}" if self.status != 200 else "")
        error = error or ("" if tokens else "no token")
        tpot = (self.last - self.first) / (tokens - 1) if self.first and self.last and tokens > 1 else None
        return {
            "t_start": self.start,
            "status": self.status,
            "error": error,
            "cut": cut,
            "tokens": tokens,
            "chunks": self.chunks,
            "ttft_s": None if self.first is None else self.first - self.start,
            "tpot_s": tpot,
            "e2e_s": None if self.end is None else self.end - self.start,
        }


@dataclass
class Second:
    """What happened since the last line. ``tokens`` counts them as they arrive, not when their request ends."""

    tokens: int = 0
    samples: list[Sample] = field(default_factory=list)

    def line(self, t: float, span_s: float, in_flight: int, client_cpu: float, lag_s: float) -> dict[str, float]:
        """One line; the quantiles of requests that succeeded are missing where there is none. Times in seconds."""
        good = [s for s in self.samples if not s["error"]]
        line: dict[str, float] = {
            "t": round(t, 3),
            "span_s": round(span_s, 3),
            "requests": len(self.samples),
            "failed": len(self.samples) - len(good),
            "cut": sum(s["cut"] for s in self.samples),
            "tokens": self.tokens,
            "in_flight": in_flight,
            "client_cpu": round(client_cpu, 3),
            "lag_s": round(lag_s, 4),
        }
        for name in ("ttft", "tpot", "e2e"):
            values = [s[f"{name}_s"] for s in good if s[f"{name}_s"] is not None]
            if values:
                line[f"{name}_p50"], line[f"{name}_p95"] = (round(v, 6) for v in _p50_p95(values))
        return line


def _p50_p95(values: list[float]) -> tuple[float, float]:
    """With linear interpolation between ranks, as numpy does; without numpy, which costs Locust's start 0.1 s."""
    twentieths = statistics.quantiles(values * 2 if len(values) == 1 else values, n=20, method="inclusive")
    return twentieths[9], twentieths[18]
