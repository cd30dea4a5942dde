"""A model as its record has it: the files that are built from are those, and what a manifest says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.artifacts import sha256_of
from rollout.errors import Corrupt
from rollout.nouns import ModelVersion


def check_digests(model: ModelVersion) -> None:
    """The files that are about to be built from are those of the record. Raises Corrupt."""
    for file in model.files:
        path = Path(model.directory) / file.path
        found = sha256_of(path) if path.is_file() else "missing"
        if found != file.sha256:
            raise Corrupt(
                f"model {model.name} version {model.version}: {file.path} is {found[:12]} and its record says "
                f"{file.sha256[:12]}; resolve the model again"
            )


def told(model: ModelVersion) -> dict[str, Any]:
    """What a manifest says of a model."""
    files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in model.files]
    return {"name": model.name, "version": model.version, "uri": model.uri, "digest": model.digest, "files": files}
