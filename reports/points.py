"""The numbers of a record as points over its looks, for whoever keeps metrics by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Point = tuple[str, int, float]  # name, step, value
MOST_LOOKS = 500  # that become points; of more every second, every third ...
_SAME = ("stable", "candidate", "effect", "low", "high", "harm_e", "allow_e")
_NUMBERS = {**{name: name for name in _SAME}, "n": "n_candidate"}


def points(record: Mapping[str, Any]) -> tuple[Point, ...]:
    """``canary_percent`` and ``<metric>_<number>`` a look, counted from 0; ``seconds_<part>`` and ``stress_<number>``
    once. What is not known has no point."""
    looks = record["timeline"][:: 1 + len(record["timeline"]) // MOST_LOOKS]
    steps = {look["at"]: step for step, look in enumerate(looks)}
    found = [("canary_percent", step, (look["canary_permille"] or 0) / 10) for step, look in enumerate(looks)]
    for metric, path in record["metrics"].items():
        key, seen = metric.lower().replace(" ", "_"), [point for point in path if point["at"] in steps]
        found += [(f"{key}_{name}", steps[p["at"]], p[field]) for p in seen for name, field in _NUMBERS.items()]
    for part in ("seconds", "stress"):
        found += [(f"{part}_{name}", 0, value) for name, value in (record[part] or {}).items()]
    return tuple(point for point in found if point[2] is not None)
