"""What each look at the evidence saw: in memory as numbers, on disk as a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.nouns import Verdict

FULL_LOOKS = 100  # a line a look until then; later ones are written more and more seldom


@dataclass(frozen=True)
class Look:
    """One look at a stage: when, the shares, and the findings' numbers."""

    at: float
    stage: str
    canary_permille: int
    mirror_permille: int
    numbers: dict[str, float]


class LookFile:
    """``looks.jsonl`` of a release. A line is whole or, after a crash, ignored by its readers."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._last, self._told = path, -1e9, ""

    def write(self, look: Look, verdict: Verdict, elapsed_s: float, outlook: str = "") -> bool:
        """Append a look when it says something else than the last one or enough time has gone by; whether it did."""
        told = f"{look.stage} {verdict.outcome}"
        if told == self._told and look.at - self._last < elapsed_s / FULL_LOOKS:
            return False
        self._last, self._told = look.at, told
        if self._path is None:
            return True
        doc = {
            "at": look.at,
            "stage": look.stage,
            "canary_permille": look.canary_permille,
            "mirror_permille": look.mirror_permille,
            "outcome": str(verdict.outcome),
            "reason": verdict.reason,
            "forecast": outlook,
            "findings": [asdict(finding) for finding in verdict.findings],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(doc) + "\n")
        return True


def numbers_of(verdict: Verdict) -> dict[str, float]:
    """The findings as flat numbers, for step metrics."""
    numbers: dict[str, float] = {}
    for finding in verdict.findings:
        key = finding.metric.lower().replace(" ", "_")
        values = {name: getattr(finding, name) for name in ("stable", "candidate", "effect", "low", "high")}
        values |= {"harm_e": finding.harm_e, "allow_e": finding.allow_e, "n": finding.n_candidate}
        numbers.update({f"{key}_{name}": float(value) for name, value in values.items() if value is not None})
    return numbers
