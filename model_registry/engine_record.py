"""What a registry writes down about a built engine, and reads back. Pure; both registries use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from model_registry.port import EngineBuild, EngineRun
from rollout.errors import Corrupt
from rollout.nouns import ModelFile

ENGINE = "roundhouse.engine"  # tag of a run: the whole digest
FILES = "roundhouse.engine.files"  # tag of a run that keeps all files: sha256 of their list
LIST = "engine.json"
FOLDER = "engine"
LOG = "build.log"


def run_tags(build: EngineBuild) -> dict[str, str]:
    """Tags of the run of a build, by which it is found."""
    tags = {
        ENGINE: build.digest,
        "roundhouse.engine.kind": build.kind,
        "roundhouse.engine.version": build.version,
        "roundhouse.engine.fingerprint": fingerprint(build),
        "roundhouse.engine.dvc": build.pointer,
        "roundhouse.model": build.model_uri,
    }
    return {name: value for name, value in tags.items() if value}


def version_tags(build: EngineBuild, run: EngineRun) -> dict[str, str]:
    """Tags of the model version: its last build, and the run of each engine that was ever built of it."""
    tags = {
        "roundhouse.build.kind": build.kind,
        "roundhouse.build.digest": build.digest,
        "roundhouse.build.seconds": f"{build.seconds:.1f}",
        "roundhouse.build.bytes": str(build.size),
        "roundhouse.build.version": build.version,
        "roundhouse.build.fingerprint": fingerprint(build),
        "roundhouse.build.log": run.address,
        f"{ENGINE}.{build.digest[:16]}": run.id,
        f"{ENGINE}.{build.digest[:16]}.dvc": build.pointer,
    }
    return {name: value for name, value in tags.items() if value}


def fingerprint(build: EngineBuild) -> str:
    """What the engine is bound to, as JSON."""
    return json.dumps(build.built_with, sort_keys=True)


def list_text(files: Sequence[ModelFile]) -> str:
    """The list of an engine's files, as it is kept beside them."""
    return json.dumps([[f.path, f.size, f.sha256] for f in sorted(files, key=lambda f: f.path)], indent=0)


def sha256_of_text(text: str) -> str:
    """Digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_list(text: str, sha256: str, subject: str) -> tuple[ModelFile, ...]:
    """The list again. Raises Corrupt when it is not the one that was recorded, or leaves the engine's folder."""
    if sha256_of_text(text) != sha256:
        raise Corrupt(f"{subject}: the list of its files is not the one that was recorded")
    files = tuple(ModelFile(str(path), int(size), str(digest)) for path, size, digest in json.loads(text))
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise Corrupt(f"{subject}: its record names {file.path}, outside its folder")
    return files
