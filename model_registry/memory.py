"""A registry in this process, with the rules of the real one. What it knows is shared by all that name one folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from model_registry.engine_record import FOLDER, version_tags
from model_registry.files import check
from model_registry.inspection import inspect_model
from model_registry.names import check_alias, check_name, parse_uri, version_uri
from model_registry.port import EngineBuild, EngineRun, MemorySettings, Progress, Registered, ReleaseRun
from model_registry.record import Entry, files_of, to_model_version, to_registered, to_tags
from rollout.errors import Corrupt, NotFound
from rollout.nouns import ModelVersion


@dataclass
class _Kept:
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)  # by version uri
    runs: list[ReleaseRun] = field(default_factory=list)
    builds: list[EngineBuild] = field(default_factory=list)
    engines: dict[str, list[tuple[EngineRun, EngineBuild, Path]]] = field(default_factory=dict)  # by digest


_KEPT: dict[str, _Kept] = {}


class MemoryRegistry:
    """See ``port.ModelRegistry``. Files stay where they are and are checked at every fetch."""

    def __init__(self, settings: MemorySettings) -> None:
        self.cache = Path(settings.cache_directory)
        self.kept = _KEPT.setdefault(settings.cache_directory, _Kept())

    def register(self, name: str, directory: str, source: str, progress: Progress) -> Registered:
        """A new version of ``name``. Raises Refused when the folder is no model."""
        check_name(name)
        model = inspect_model(Path(directory), progress)
        entries = self.kept.entries.setdefault(name, [])
        model_tags = entries[0].model_tags if entries else {}
        entry = Entry(name, str(len(entries) + 1), to_tags(model, source), (), None, model_tags)
        entries.append(entry)
        self.kept.folders[version_uri(name, entry.version)] = Path(directory)
        return to_registered(entry)

    def fetch(self, uri: str, progress: Progress, full: bool = False) -> ModelVersion:
        """The verified files. Raises NotFound, Corrupt."""
        entry = self._entry(uri)
        folder = self.kept.folders[version_uri(entry.name, entry.version)]
        try:
            check(folder, files_of(entry), progress)
        except Corrupt as wrong:
            raise Corrupt(f"{version_uri(entry.name, entry.version)}: {wrong}") from wrong
        return to_model_version(entry, str(folder), files_of(entry))

    def resolve(self, uri: str) -> Registered:
        """What the address names now. Raises NotFound."""
        return to_registered(self._entry(uri))

    def versions(self, name: str) -> list[Registered]:
        """All versions, newest first. Raises NotFound."""
        return [to_registered(e) for e in reversed(self._entries(name))]

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Move an alias. Raises Refused for a reserved one, NotFound for a missing version."""
        check_alias(alias)
        self._entry(version_uri(name, version))
        entries = self.kept.entries[name]
        for at, entry in enumerate(entries):
            others = tuple(a for a in entry.aliases if a != alias)
            entries[at] = replace(entry, aliases=(*others, alias) if entry.version == version else others)

    def tag(self, name: str, version: str, tags: dict[str, str]) -> None:
        """Write tags on a version, or on the model. Raises NotFound."""
        if not version:
            entries = self._entries(name)
            entries[:] = [replace(entry, model_tags={**entry.model_tags, **tags}) for entry in entries]
            return
        entry = self._entry(version_uri(name, version))
        at = self.kept.entries[name].index(entry)
        self.kept.entries[name][at] = replace(entry, tags={**entry.tags, **tags})

    def log_release(self, run: ReleaseRun) -> str:
        """Keep the run; returns its address."""
        self.kept.runs.append(run)
        return f"memory:/runs/{len(self.kept.runs)}"

    def record_build(self, build: EngineBuild) -> EngineRun:
        """Keep what was built, and tag the model version. Raises NotFound."""
        self.kept.builds.append(build)
        run = EngineRun(str(len(self.kept.builds)), f"memory:/builds/{len(self.kept.builds)}")
        if build.model_uri.startswith("models:/"):
            named = self.resolve(build.model_uri)
            self.tag(named.name, named.version, version_tags(build, run))
        return run

    def put_engine(self, run: EngineRun, build: EngineBuild, progress: Progress) -> None:
        """A copy of the files in the cache's folder."""
        folder = self.cache / "builds" / run.id / FOLDER
        for file in build.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(build.directory) / file.path, folder / file.path)
        self.kept.engines.setdefault(build.digest, []).append((run, build, folder))
        progress("sent", 1.0)

    def get_engine(self, digest: str, into: str, progress: Progress) -> EngineRun:
        """A copy of the newest. Raises NotFound, Corrupt."""
        if digest not in self.kept.engines:
            raise NotFound(f"no run keeps engine {digest[:16]}")
        run, build, folder = self.kept.engines[digest][-1]
        shutil.copytree(folder, into, dirs_exist_ok=True)
        try:
            check(Path(into), build.files, progress)
        except Corrupt as wrong:
            raise Corrupt(f"engine {digest[:16]} in run {run.id}: {wrong}") from wrong
        return run

    def _entries(self, name: str) -> list[Entry]:
        if name not in self.kept.entries:
            raise NotFound(f"no model is registered as {name}")
        return self.kept.entries[name]

    def _entry(self, uri: str) -> Entry:
        asked = parse_uri(uri)
        for entry in self._entries(asked.name):
            if entry.version == asked.version or (asked.alias and asked.alias in entry.aliases):
                return entry
        raise NotFound(f"{uri} names no version of {asked.name}")
