"""How a record begins: what the store knows of a release, whatever became of it, and what is noted at its beginning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ORDERED = ("model", "policy", "rules", "engine_name", "spec")  # what was ordered, by the names of the record
NOTED = "release.json"  #: of a release's folder: what was ordered while it runs, its evidence once it has ended
_ENGINE = ("digest", "cached", "size", "build_s")


def head(
    release: Mapping[str, Any], said: Iterable[Mapping[str, Any]] = (), versions: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """By the names of the record, from rows of the store as mappings: the release, and its service's ``versions``, of
    which the candidate tells model and engine; ``said``: what people answered."""
    version = next((v for v in versions if v["number"] == release["candidate"]), None)
    return {
        "release": release["id"],
        "service": release["service"],
        "outcome": str(release["phase"]),
        "reason": release["reason"] or release["waiting"] or (release["stage"] and f"in {release['stage']}"),
        "model": version["model_uri"] if version else release["model_uri"],
        "stable": release["stable_before"],
        "candidate": release["candidate"],
        "answers": [dict(word) for word in said],
        "begun_at": release["created_at"],
        "ended_at": release["finished_at"],
        **({"engine": {name: version["engine"].get(name) for name in _ENGINE}} if version else {}),
    }
