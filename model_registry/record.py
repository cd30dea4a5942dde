"""What a registry writes down about a version, as tags, and reads back. Pure; both registries use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from model_registry.files import digest_of
from model_registry.inspection import Model
from model_registry.names import version_uri
from model_registry.port import EVALUATION, Registered
from rollout.errors import Corrupt, Refused
from rollout.nouns import ModelFile, ModelVersion

PREFIX = "roundhouse."
FIELDS = ("digest", "format", "architecture", "parameters", "size", "files")
TAG_LIMIT = 100_000  # characters in a version's tag, MLflow's limit; about 700 files


@dataclass(frozen=True)
class Entry:
    """One version as a registry keeps it: everything that is not in ``tags`` it keeps in its own columns."""

    name: str
    version: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    run_id: str | None
    model_tags: Mapping[str, str] = field(default_factory=dict)  # of the model, which hold for all its versions


def to_tags(model: Model, source: str) -> dict[str, str]:
    """The record of a model as tags. Raises Refused when its list of files is longer than a tag may be."""
    files = json.dumps([[f.path, f.size, f.sha256] for f in model.files], separators=(",", ":"))
    if len(files) > TAG_LIMIT:
        rule = f"the record of {len(model.files)} files takes {len(files)} characters, a tag holds {TAG_LIMIT}"
        raise Refused("source", source, rule, "register a folder that holds the model's own files only")
    values = (model.digest, model.format, model.architecture, model.parameters, model.size, files)
    record = {PREFIX + field: str(value) for field, value in zip(FIELDS, values, strict=True)}
    return {**record, PREFIX + "source": source}


def to_registered(entry: Entry) -> Registered:
    """The entry without its files; numbers are 0 and texts empty for a version that was registered by other means."""
    digest, kind, architecture, parameters, size, _ = (entry.tags.get(PREFIX + field, "") for field in FIELDS)
    others = tuple(sorted((k, v) for k, v in entry.tags.items() if k.removeprefix(PREFIX) not in FIELDS))
    return Registered(
        name=entry.name,
        version=entry.version,
        uri=version_uri(entry.name, entry.version),
        digest=digest,
        format=kind,
        architecture=architecture,
        parameters=int(parameters or 0),
        size=int(size or 0),
        aliases=tuple(sorted(entry.aliases)),
        tags=others,
        run_id=entry.run_id,
        evaluation=entry.tags.get(EVALUATION) or entry.model_tags.get(EVALUATION, ""),
    )


def files_of(entry: Entry) -> tuple[ModelFile, ...]:
    """The recorded files. Raises Refused for a version without a record, Corrupt for a record that cannot be read."""
    uri, raw = version_uri(entry.name, entry.version), entry.tags.get(PREFIX + "files")
    if raw is None:
        rule = "it was registered without the digests of its files, so they cannot be verified"
        raise Refused("model", uri, rule, f"register it with: roundhouse model register {entry.name} SOURCE")
    try:
        files = tuple(ModelFile(str(path), int(size), str(sha256)) for path, size, sha256 in json.loads(raw))
    except (ValueError, TypeError) as odd:
        raise Corrupt(f"{uri}: the record of its files cannot be read") from odd
    if digest_of(files) != entry.tags.get(PREFIX + "digest"):
        raise Corrupt(f"{uri}: the record of its files does not have the digest that was recorded with it")
    if any(_leaves(f.path) for f in files):
        raise Corrupt(f"{uri}: its record names a file outside the model's folder")
    return files


def to_model_version(entry: Entry, directory: str, files: Iterable[ModelFile]) -> ModelVersion:
    """The entry with its verified files."""
    facts = to_registered(entry)
    lineage = {"source": entry.tags.get(PREFIX + "source", ""), "run_id": entry.run_id or ""}
    return ModelVersion(
        name=facts.name,
        version=facts.version,
        uri=facts.uri,
        directory=directory,
        files=tuple(files),
        format=facts.format,
        architecture=facts.architecture,
        parameters=facts.parameters,
        digest=facts.digest,
        lineage={k: v for k, v in lineage.items() if v},
    )


def _leaves(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/")
