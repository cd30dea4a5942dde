"""How a record begins: what the store knows of a release, whatever became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def head(release: Mapping[str, Any], said: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """By the names of the record, from a release's row in the store as a mapping; ``said``: what people answered."""
    return {
        "release": release["id"],
        "service": release["service"],
        "outcome": str(release["phase"]),
        "reason": release["reason"] or release["waiting"] or (release["stage"] and f"in {release['stage']}"),
        "model": release["model_uri"],
        "stable": release["stable_before"],
        "candidate": release["candidate"],
        "answers": [dict(word) for word in said],
        "begun_at": release["created_at"],
        "ended_at": release["finished_at"],
    }
