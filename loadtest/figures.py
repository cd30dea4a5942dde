"""The plots of a load test as figures. Drawn without pyplot: no global figure, no display, safe in a thread."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.report import quantiles

BLUE, PALE, RED, INK, GRID = "#1f5fa8", "#8fb8e3", "#c0392b", "#33383f", "#e4e7eb"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "roundhouse",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b8bec6",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_LATENCIES = (
    ("ttft", "Time to first token (TTFT)"),
    ("tpot", "Time per output token (TPOT)"),
    ("e2e", "Whole request (E2E)"),
)


def draw_all(samples: Sequence[dict[str, Any]], seconds: Sequence[dict[str, float]]) -> list[tuple[str, Figure]]:
    """Title and figure of each plot, in the order in which a reader wants them."""
    with matplotlib.rc_context(_STYLE):
        return [
            ("Throughput, second by second", throughput(seconds)),
            ("Latency, second by second", latency(seconds)),
            ("Distribution of latency over all requests that succeeded", distributions(samples)),
        ]


def throughput(seconds: Sequence[dict[str, float]]) -> Figure:
    """Requests and tokens per second, and requests in flight. Stubs of seconds would show noise and are left out."""
    whole = [s for s in seconds if s["span_s"] >= 0.5]
    times = [s["t"] for s in whole]
    figure, (requests, tokens, flight) = _row()
    good = [(s["requests"] - s["failed"]) / s["span_s"] for s in whole]
    requests.plot(times, good, color=BLUE, label="succeeded")
    if any(s["failed"] for s in whole):
        requests.plot(times, [s["failed"] / s["span_s"] for s in whole], color=RED, label="failed")
        requests.legend(loc="best", fontsize=8)
    _label(requests, "Requests ended per second", "requests/s")
    tokens.plot(times, [s["tokens"] / s["span_s"] for s in whole], color=BLUE)
    _label(tokens, "Output tokens per second", "tokens/s")
    flight.step(times, [s["in_flight"] for s in whole], color=BLUE, where="mid")
    _label(flight, "Requests in flight", "requests")
    return figure


def latency(seconds: Sequence[dict[str, float]]) -> Figure:
    """Median and 95th percentile of the requests that ended in each second."""
    figure, axes = _row()
    for axis, (name, title) in zip(axes, _LATENCIES, strict=True):
        known = [s for s in seconds if f"{name}_p50" in s]
        times = [s["t"] for s in known]
        axis.plot(times, [s[f"{name}_p95"] * 1000 for s in known], color=PALE, label="p95", marker=_dot(known))
        axis.plot(times, [s[f"{name}_p50"] * 1000 for s in known], color=BLUE, label="p50", marker=_dot(known))
        _label(axis, title, "ms")
        if known:
            axis.legend(loc="best", fontsize=8)
        else:
            _nothing(axis)
    return figure


def distributions(samples: Sequence[dict[str, Any]]) -> Figure:
    """Histograms of the raw samples, with the quantiles that the table names."""
    figure, axes = _row()
    for axis, (name, title) in zip(axes, _LATENCIES, strict=True):
        values = [s[f"{name}_s"] for s in samples if not s["error"] and s[f"{name}_s"] is not None]
        _label(axis, title, "requests", "ms")
        found = quantiles(values)
        if found is None:
            _nothing(axis)
            continue
        axis.hist(np.array(values) * 1000, bins=min(40, max(8, int(len(values) ** 0.5) * 2)), color=PALE)
        for rank, dash in (("p50", "-"), ("p95", "--"), ("p99", ":")):
            at = getattr(found, rank) * 1000
            axis.axvline(at, color=INK, linestyle=dash, linewidth=1.1, label=f"{rank} {at:.4g} ms")
        axis.set_ylim(top=axis.get_ylim()[1] * 1.4)
        axis.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element to stand in a page; the same figure gives the same text."""
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _row() -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    return figure, figure.subplots(1, 3)


def _label(axis: Axes, title: str, unit: str, across: str = "seconds since the start") -> None:
    axis.set_title(title)
    axis.set_ylabel(unit)
    axis.set_xlabel(across)
    if across != "ms":
        axis.set_ylim(0, max(axis.get_ylim()[1] * 1.05, 1e-3))


def _dot(points: Sequence[object]) -> str:
    return "o" if len(points) < 3 else ""


def _nothing(axis: Axes) -> None:
    axis.text(0.5, 0.5, "no such request succeeded", transform=axis.transAxes, ha="center", color="#8a919b")
    axis.set_xticks([])
    axis.set_yticks([])
