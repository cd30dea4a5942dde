"""The picture of a release: the candidate's share over time, and the confidence sequence of each metric below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.traffic import Look, Stretch

METRICS = (
    ("ttft", "TTFT, candidate / stable"),
    ("tpot", "TPOT, candidate / stable"),
    ("errors", "errors, candidate - stable"),
)


def draw_release(stretches: list[Stretch], path: Path, title: str) -> Path:
    """Write the SVG, when there was anything to watch; the path either way."""
    looks = [look for stretch in stretches for look in stretch.looks]
    if not looks:
        return path
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(len(METRICS) + 1, 1, sharex=True)
    start = looks[0].at
    _draw_shares(axes[0], looks, start)
    for axis, (key, label) in zip(axes[1:], METRICS, strict=True):
        _draw_interval(axis, looks, start, key, label)
    axes[-1].set_xlabel("seconds since the first look")
    figure.suptitle(title)
    figure.savefig(path)
    return path


def _draw_shares(axis: Any, looks: list[Look], start: float) -> None:
    seconds = [look.at - start for look in looks]
    axis.step(seconds, [look.canary_permille / 10 for look in looks], where="post", label="canary", color="#1f6feb")
    axis.step(seconds, [look.mirror_permille / 10 for look in looks], where="post", label="mirror", color="#8b949e")
    axis.set_ylabel("share, %")
    axis.legend(loc="upper left", frameon=False)


def _draw_interval(axis: Any, looks: list[Look], start: float, key: str, label: str) -> None:
    seen = [look for look in looks if f"{key}_low" in look.numbers]
    seconds = [look.at - start for look in seen]
    low, high = ([look.numbers[f"{key}_{end}"] for look in seen] for end in ("low", "high"))
    axis.fill_between(seconds, low, high, alpha=0.25, color="#1f6feb", step="post")
    axis.axhline(0.0 if key == "errors" else 1.0, color="#8b949e", linewidth=0.8)
    axis.set_ylabel(label)
