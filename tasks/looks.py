"""What each look at the evidence saw, on disk as a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from reports.lines import add_line
from rollout.json_text import json_text
from rollout.nouns import Verdict

FULL_LOOKS = 100  # a line a look until then; later ones are written more and more seldom


@dataclass(frozen=True)
class Look:
    """One look at a stage: when, and the shares."""

    at: float
    stage: str
    canary_permille: int
    mirror_permille: int


class LookFile:
    """``looks.jsonl`` of a release. A line that a crash or a full disk left half is ignored by its readers."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._last, self._told = path, -1e9, ""

    def write(self, look: Look, verdict: Verdict, elapsed_s: float, outlook: str = "") -> bool:
        """Append a look when it says something else than the last one or enough time has gone by; whether it did.
        Raises OSError."""
        told = f"{look.stage} {verdict.outcome}"
        if told == self._told and look.at - self._last < elapsed_s / FULL_LOOKS:
            return False
        if self._path is not None:
            add_line(self._path, _line(look, verdict, outlook))
        self._last, self._told = look.at, told
        return True


def _line(look: Look, verdict: Verdict, outlook: str) -> str:
    return json_text(
        {
            "at": look.at,
            "stage": look.stage,
            "canary_permille": look.canary_permille,
            "mirror_permille": look.mirror_permille,
            "outcome": str(verdict.outcome),
            "reason": verdict.reason,
            "forecast": outlook,
            "findings": [asdict(finding) for finding in verdict.findings],
        }
    )
