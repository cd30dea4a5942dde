"""A model that lies in a folder or is one GGUF file, as the value that engines are built from; without a registry."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engines.artifacts import sha256_of
from engines.sizing.config_file import shape_at
from engines.sources import open_source
from engines.warm_up import SAMPLES_FILE
from rollout.errors import NotFound, Refused
from rollout.nouns import ModelFile, ModelVersion

_WANTED = (".safetensors", ".json", ".jinja", ".txt", ".model")


def read_local_model(place: Path, name: str = "") -> ModelVersion:
    """Every file hashed, the format found by the files. Raises NotFound, Refused."""
    if not place.exists():
        raise NotFound(f"there is no {place}")
    directory = place if place.is_dir() else place.parent
    ggufs = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    found = ggufs or sorted(p for p in directory.iterdir() if p.suffix in _WANTED)
    found += [p for p in (directory / SAMPLES_FILE,) if p.is_file()]
    files = tuple(ModelFile(p.name, p.stat().st_size, sha256_of(p)) for p in found)
    digest = hashlib.sha256("".join(f"{f.path} {f.sha256}\n" for f in files).encode()).hexdigest()
    kind = "gguf" if ggufs else "safetensors"
    bare = ModelVersion(name or place.stem, "0", place.resolve().as_uri(), str(directory), files, kind, "", 0, digest)
    architecture, parameters = _facts(bare)
    return ModelVersion(
        bare.name,
        "0",
        bare.uri,
        bare.directory,
        files,
        kind,
        architecture,
        parameters,
        digest,
        {"source": "local files"},
    )


def _facts(model: ModelVersion) -> tuple[str, int]:
    """Architecture and parameters: as llama.cpp has them, else by config.json alone, which other engines go by."""
    try:
        facts = open_source(model).facts
    except Refused:
        if model.format == "gguf":
            raise
        shape = shape_at(Path(model.directory))
        return shape.family, shape.parameters
    return facts.architecture, facts.parameters
