"""SOURCE, as a person writes it, to a local folder of files: a path, ``sample``, ``dvc:PATH@REV``, ``hf:ORG/NAME``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from model_registry.dvc_registry import DvcRegistry
from model_registry.files import hash_files, kept
from model_registry.hub import fetch_hub
from model_registry.inspection import inspect_model
from model_registry.port import Progress, Registered, RegistrySettings, open_registry
from model_registry.sample import FILE, sample_model_file
from rollout.errors import Refused
from rollout.nouns import ModelFile, ModelVersion


@dataclass(frozen=True)
class Local:
    """A folder of files; ``known`` are their digests where they were checked just now."""

    folder: Path
    known: tuple[ModelFile, ...] | None = None
    lineage: dict[str, str] = field(default_factory=dict)


def local_files(source: str, cache: Path, progress: Progress, repo: str = ".") -> Local:
    """Where the files of ``source`` are on this machine, after getting them into ``cache`` if they were elsewhere.

    ``repo`` is the git repository of ``dvc:`` sources. Raises Refused, NotFound, Unavailable, Corrupt.
    """
    if source == "sample":
        return Local(sample_model_file(cache, progress).parent, (FILE,))
    if source.startswith("dvc:"):
        model = DvcRegistry(str(cache), repo).fetch(source, progress)
        return Local(Path(model.directory), model.files, model.lineage)
    if source.startswith("hf:"):
        folder, files, commit = fetch_hub(source, cache, progress)
        return Local(folder, files, {"hub_commit": commit})
    return _path(source, cache, progress)


def fetch_any(uri: str, settings: RegistrySettings, progress: Progress, repo: str = ".") -> ModelVersion:
    """Verified local files for a registry URI or for any SOURCE; a SOURCE has its digest as version."""
    if uri.startswith("models:"):
        return open_registry(settings).fetch(uri, progress)
    if uri.startswith("dvc:"):
        return DvcRegistry(settings.cache_directory, repo).fetch(uri, progress)
    local = local_files(uri, Path(settings.cache_directory), progress, repo)
    model = inspect_model(local.folder, progress, local.known)
    return ModelVersion(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", local.folder.name),
        version=model.digest[:10],
        uri=uri,
        directory=str(local.folder),
        files=model.files,
        format=model.format,
        architecture=model.architecture,
        parameters=model.parameters,
        digest=model.digest,
        lineage={"source": uri, **local.lineage},
    )


def resolve_any(uri: str, settings: RegistrySettings, repo: str = ".") -> Registered:
    """What a registry URI or a ``dvc:`` SOURCE names now. Raises Refused for any other, NotFound, Unavailable."""
    if uri.startswith("models:"):
        return open_registry(settings).resolve(uri)
    if uri.startswith("dvc:"):
        return DvcRegistry(settings.cache_directory, repo).resolve(uri)
    fix = f"register it (roundhouse model register NAME {uri}) and name the version"
    raise Refused("model", uri, "it is kept by no registry", fix)


def _path(source: str, cache: Path, progress: Progress) -> Local:
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        return Local(path)
    if not path.is_file():
        rule = "there is no such file or folder"
        raise Refused("source", source, rule, "name a folder, a .gguf file, sample, dvc:PATH@REV or hf:ORG/NAME")
    return _single_file(path, cache, progress)


def _single_file(path: Path, cache: Path, progress: Progress) -> Local:
    """A folder with a link to the one file: its neighbours are no part of the model."""
    seen = path.stat()
    key = hashlib.sha256(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}".encode()).hexdigest()[:16]

    def link(aside: Path) -> tuple[ModelFile, ...]:
        (aside / "model").mkdir()
        (aside / "model" / path.name).symlink_to(path)
        return hash_files(aside / "model", [path.name], progress)

    folder = cache.resolve() / "models" / f"{path.stem}-{key}"
    return Local(folder, kept(folder, link))
