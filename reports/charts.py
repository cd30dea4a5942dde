"""The charts of a release as SVG. Drawn without pyplot: no global figure, no display, safe in a thread.

Blue is stable or what is allowed, orange the candidate or harm: two colours that nobody confuses (Okabe and Ito 2008),
and line styles say the same for print.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

BLUE, ORANGE, GREY, INK, GRID = "#0072B2", "#D55E00", "#8a919b", "#33383f", "#e4e7eb"
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
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_LARGEST = 1e12  # e-values are drawn up to here
_ACROSS = 2  # charts beside each other


def charts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and ``<svg>`` of each chart that the record has data for, in the order in which a reader wants them."""
    looks, metrics = record["timeline"], _drawn(record)
    found: list[tuple[str, Figure]] = []
    with matplotlib.rc_context(_STYLE):
        if looks:
            found.append(("Who got the traffic", timeline(looks)))
        if metrics:
            found.append(("How large the effect is: 95 % confidence sequences", sequences(metrics, record)))
        if record["metrics"]:
            found.append(("How strong the evidence is", e_values(record["metrics"])))
        if record["distributions"]:
            found.append(("How long requests took", distributions(record["distributions"])))
        return [(title, svg(figure)) for title, figure in found]


def timeline(looks: Sequence[Mapping[str, Any]]) -> Figure:
    """The candidate's share of live traffic and of copies over time."""
    figure = Figure(figsize=(11, 2.4), layout="constrained")
    axis = figure.subplots()
    minutes, unit = _times([look["at"] for look in looks])
    for key, name, colour, dash in (
        ("canary_permille", "users' requests to the candidate", ORANGE, "-"),
        ("mirror_permille", "copies to the candidate", GREY, "--"),
    ):
        shares = [(look.get(key) or 0) / 10 for look in looks]
        axis.step(minutes, shares, where="post", color=colour, linestyle=dash, linewidth=1.8, label=name)
    axis.set_ylim(0, max(5.0, axis.get_ylim()[1] * 1.25))
    _name_stages(axis, looks, minutes)
    _label(axis, f"Share of the requests, {len(looks)} looks", "%", unit)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def sequences(metrics: Mapping[str, Sequence[Mapping[str, Any]]], record: Mapping[str, Any]) -> Figure:
    """Effect and confidence sequence of each metric over time, with its margins."""
    figure, axes = _grid(len(metrics))
    kinds = {finding["metric"]: finding for finding in record["findings"]}
    for axis, (name, path) in zip(axes, metrics.items(), strict=False):
        finding = kinds.get(name) or {}
        ratio = finding.get("kind", "ratio") == "ratio"
        scale = 1.0 if ratio else 100.0
        times, unit = _times([p["at"] for p in path], record["timeline"][0]["at"])
        low, high = (np.array([p[end] for p in path]) * scale for end in ("low", "high"))
        axis.fill_between(times, low, high, color=BLUE, alpha=0.18, linewidth=0, step="post")
        effects = np.array([np.nan if p["effect"] is None else p["effect"] for p in path], float) * scale
        axis.step(times, effects, where="post", color=BLUE, linewidth=1.6, marker="o" if len(times) < 3 else "")
        margins = _margins(name, finding, record["rules"])
        _draw_margins(axis, margins, 1.0 if ratio else 0.0, scale)
        _focus(axis, low, high, [1.0 if ratio else 0.0, *(m * scale for m in margins.values())])
        last = path[-1]
        title = f"{name} ({last['n_candidate']:,} and {last['n_stable']:,} requests)"
        _label(axis, title, "candidate / stable" if ratio else "candidate − stable, % points", unit)
    return figure


def e_values(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Both e-values of each metric over time, and what each needs to decide."""
    figure, axes = _grid(len(metrics))
    start = min(path[0]["at"] for path in metrics.values())
    for axis, (name, path) in zip(axes, metrics.items(), strict=False):
        times, unit = _times([p["at"] for p in path], start)
        for key, what, colour, dash in (("harm", "harm", ORANGE, "-"), ("allow", "good enough", BLUE, "--")):
            needs = [p.get(f"{key}_needs") or np.nan for p in path]
            if np.all(np.isnan(needs)):
                continue
            values = np.clip([p.get(f"{key}_e") or 1e-3 for p in path], 1e-3, _LARGEST)
            axis.step(times, values, where="post", color=colour, linestyle=dash, linewidth=1.6, label=what)
            axis.step(times, needs, where="post", color=colour, linestyle=":", linewidth=1.1)
            _note(axis, f"{what}: {needs[-1]:.3g}", needs[-1], colour, "bottom" if key == "harm" else "top")
        axis.set_yscale("log")
        n = path[-1]
        _label(axis, f"{name} ({n['n_candidate']:,} and {n['n_stable']:,} requests)", "e-value", unit)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="upper left")
    return figure


def distributions(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What share of the requests took less than so long, of both arms."""
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name in zip(axes, ("TTFT", "TPOT", "E2E"), strict=True):
        arms = found.get(name)
        if not arms:
            axis.set_axis_off()
            continue
        for arm, colour, dash in (("stable", BLUE, "--"), ("candidate", ORANGE, "-")):
            seen = arms[arm]
            if not seen["n"]:
                continue
            seconds, shares = zip(*seen["points"], strict=True)
            axis.plot(
                np.array(seconds) * 1000,
                np.array(shares) * 100,
                color=colour,
                linestyle=dash,
                linewidth=1.6,
                label=f"{arm}, p95 {seen['p95'] * 1000:.4g} ms",
            )
            axis.plot([seen["p95"] * 1000], [95], "o", color=colour, markersize=4)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        axis.xaxis.set_minor_formatter(NullFormatter())
        _label(
            axis,
            f"{name} ({arms['candidate']['n']:,} and {arms['stable']['n']:,} requests)",
            "% of the requests take less",
            "ms",
        )
        axis.legend(loc="lower right")
    return figure


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element to stand in a page; the same figure gives the same text."""
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _drawn(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Of each metric the looks at which it had an interval; metrics that never had one are left out."""
    known = {
        name: [p for p in path if p["low"] is not None and p["high"] is not None]
        for name, path in record["metrics"].items()
    }
    return {name: path for name, path in known.items() if path}


def _margins(name: str, finding: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, float]:
    """Where harm begins and what is allowed, in the units of the effect."""
    rule = rules.get(name.lower()) or {}
    if finding.get("kind", "ratio") == "ratio":
        margins = {"harm": rule.get("harm") or finding.get("margin"), "allowed": rule.get("allow")}
    else:  # a ratio of rates cannot be drawn among differences of rates
        margins = {"allowed": finding["margin"] if finding["margin"] < 1 else None}
    return {what: value for what, value in margins.items() if value is not None}


def _draw_margins(axis: Axes, margins: Mapping[str, float], none: float, scale: float) -> None:
    axis.axhline(none, color=GREY, linewidth=0.9)
    for what, value in margins.items():
        colour = ORANGE if what == "harm" else INK
        axis.axhline(value * scale, color=colour, linestyle=":", linewidth=1.2)
        told = f"{what} {value:g}x" if scale == 1.0 else f"{what} {value:+.1%}"
        _note(axis, told, value * scale, colour)


def _note(axis: Axes, text: str, at: float, colour: str, side: Literal["center", "bottom", "top"] = "center") -> None:
    """What a line is, at its right end and outside the picture."""
    place = (1.01, at)
    axis.annotate(text, place, xycoords=("axes fraction", "data"), color=colour, fontsize=7.5, va=side)


def _focus(axis: Axes, low: Any, high: Any, marks: Sequence[float]) -> None:
    """Show the margins and the later half of the sequence whole; its first, wide looks may leave the picture."""
    later = len(low) // 2
    bottom, top = min(*low[later:], *marks), max(*high[later:], *marks)
    room = (top - bottom) * 0.1 or 1.0
    axis.set_ylim(bottom - room, top + room)


def _name_stages(axis: Axes, looks: Sequence[Mapping[str, Any]], times: Sequence[float]) -> None:
    last = ""
    for look, at in zip(looks, times, strict=True):
        if look["stage"] != last:
            last = look["stage"]
            axis.axvline(at, color=GREY, linewidth=0.7)
            axis.annotate(f" {last}", (at, 0.98), xycoords=("data", "axes fraction"), fontsize=8, va="top")


def _times(at: Sequence[float], start: float | None = None) -> tuple[list[float], str]:
    """Moments as time since the start, in a unit that suits the whole of it."""
    first = at[0] if start is None else start
    span = at[-1] - first
    divisor, unit = (1.0, "seconds") if span < 300 else (60.0, "minutes") if span < 18_000 else (3600.0, "hours")
    return [(moment - first) / divisor for moment in at], f"{unit} since the first look"


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // _ACROSS)
    figure = Figure(figsize=(11, 2.5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, _ACROSS, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes


def _label(axis: Axes, title: str, unit: str, across: str) -> None:
    axis.set_title(title)
    axis.set_ylabel(unit)
    axis.set_xlabel(across)
