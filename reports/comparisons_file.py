"""The comparisons of answers that a release was judged by: ``comparisons.jsonl``, a line for all made at once.

A comparison is some numbers and names of defects, 60 to 250 bytes, and no word of anybody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.lines import add_line, read_lines
from rollout.json_text import json_text
from rollout.recorded import Batch, comparison_of, plain_comparison

FILE = "comparisons.jsonl"
MOST = 4 << 20  # bytes: some ten thousand prompts, and as many pairs of answers to users' requests
_HEAD = ("after", "until", "sets", "prompts", "asked", "pairs")


def keep_comparisons(path: Path, batch: Batch, most: int = MOST) -> bool:
    """Append a batch, where the file does not get too large by it; whether it was. Raises OSError."""
    head = {name: getattr(batch, name) for name in _HEAD}
    return add_line(path, json_text(head | {"seen": [plain_comparison(c) for c in batch.comparisons]}), most)


def read_comparisons(path: Path) -> tuple[Batch, ...]:
    """The batches that count, in the order of time: a stage that went on from what was saved before an error compared
    some requests anew, and prompts that were asked again began all anew. Raises OSError."""
    kept: list[Batch] = []
    for line in read_lines(path):
        batch = _batch(line)
        if batch is not None:
            after = batch.after
            kept = [] if after is None else [b for b in kept if b.after is None or b.until <= after]
            kept.append(batch)
    return tuple(kept)


def _batch(line: Mapping[str, Any]) -> Batch | None:
    """The batch of a line; None where it is none."""
    try:
        head = {name: line[name] for name in _HEAD} | {"sets": tuple(line["sets"])}
        return Batch(tuple(comparison_of(seen) for seen in line["seen"]), **head)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
