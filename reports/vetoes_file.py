"""What the queries of a release's vetoes gave: ``vetoes.jsonl``, a line for each asking.

The first line of each stage names the queries, as the policy writes them. Of many series the lowest and the highest are
kept, with their labels: whatever the bound, the worst is one of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.lines import add_line, read_lines
from rollout.json_text import json_text
from rollout.recorded import Readings
from rollout.vetoes import Reading

FILE = "vetoes.jsonl"
MOST = 8 << 20  # bytes: some days of a veto that is asked every few seconds


class VetoFile:
    """The file of a release: written look by look, and gone through as often as wanted."""

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path, self._most = path, most

    def begin(self, queries: Sequence[str]) -> None:
        """Name the queries of the stage that begins. Raises OSError."""
        add_line(self._path, json_text({"queries": list(queries)}), self._most)

    def append(self, at: float, readings: Sequence[Reading]) -> None:
        """Add what the queries gave, in that order, at a time (epoch seconds), while there is room. Raises OSError."""
        add_line(self._path, json_text({"at": at, "readings": [_plain(r) for r in readings]}), self._most)

    def __iter__(self) -> Iterator[Readings]:
        """In the order of time, as far as it can be read. Raises OSError."""
        queries, begins = list[str](), False
        for line in read_lines(self._path):
            if "queries" in line:
                queries, begins = line["queries"], True
            elif queries and (readings := _readings(line, queries, begins)):
                yield readings
                begins = False


def _plain(reading: Reading) -> dict[str, Any]:
    values = {labels: value for labels, value in reading.values.items() if not math.isnan(value)}  # 0/0 is no data
    if not values:
        return {"missing": reading.missing}
    ends = {min(values, key=values.__getitem__), max(values, key=values.__getitem__)}
    return {"series": len(values), "values": {labels: _written(values[labels]) for labels in sorted(ends)}}


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no infinity


def _readings(line: Mapping[str, Any], queries: Sequence[str], begins: bool) -> Readings | None:
    try:
        found = [_reading(doc) for doc in line["readings"]]
        return Readings(float(line["at"]), dict(zip(queries, found, strict=True)), begins)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _reading(doc: Mapping[str, Any]) -> Reading:
    if "missing" in doc:
        return Reading({}, doc["missing"])
    return Reading({labels: float(value) for labels, value in doc["values"].items()}, series=doc["series"])
