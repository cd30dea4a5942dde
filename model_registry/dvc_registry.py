"""Models that DVC tracks in a git repository: ``dvc:PATH@REVISION`` to verified local files."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_registry.files import kept
from model_registry.inspection import inspect_model
from model_registry.port import Progress, Registered
from rollout.errors import Corrupt, NotFound, Refused, Unavailable
from rollout.nouns import ModelFile, ModelVersion

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

SOURCE = re.compile(r"dvc:(?P<path>[^@]+)(?:@(?P<revision>[^@]+))?")


class DvcRegistry:
    """Reads one repository (a folder or a git URL). Nothing is written to it or to its DVC cache."""

    def __init__(self, cache_directory: str, repo: str = ".") -> None:
        self.cache, self.repo = Path(cache_directory).resolve(), repo
        quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "true", "DVC_SITE_CACHE_DIR": str(self.cache / "dvc-site")}
        for name, value in quiet.items():
            os.environ.setdefault(name, value)

    def resolve(self, uri: str) -> Registered:
        """What the path is at that revision, as far as DVC wrote it down: md5, size, and the evaluation set that an
        artifact of that path names in its ``meta`` (https://dvc.org/doc/user-guide/project-structure/dvcyaml-files).

        Raises NotFound, Refused, Unavailable.
        """
        with self._opened(uri) as (fs, path):
            info, commit = _tracked(fs, path, uri), _commit(fs)
            evaluation = _evaluation(fs, path, commit)
        return Registered(
            name=_name(path),
            version=commit[:10],
            uri=f"dvc:{path}@{commit}",
            digest=f"md5:{info['md5']}",
            format="",
            architecture="",
            parameters=0,
            size=int(info["size"] or 0),
            evaluation=evaluation,
        )

    def fetch(self, uri: str, progress: Progress) -> ModelVersion:
        """Copies of the files in our cache, checked against DVC's digests; the same content is fetched once.

        Raises NotFound, Refused when they are no model, Corrupt, Unavailable when no storage has them.
        """
        with self._opened(uri) as (fs, path):
            info, commit = _tracked(fs, path, uri), _commit(fs)
            folder = self.cache / "models" / f"dvc-{info['md5']}"
            files = kept(folder, lambda aside: _copy(fs, path, aside / "model", progress))
        model = inspect_model(folder, progress, files)
        return ModelVersion(
            name=_name(path),
            version=commit[:10],
            uri=f"dvc:{path}@{commit}",
            directory=str(folder),
            files=files,
            format=model.format,
            architecture=model.architecture,
            parameters=model.parameters,
            digest=model.digest,
            lineage={"source": uri, "git_revision": commit, "dvc_md5": info["md5"]},
        )

    def fetch_data(self, uri: str, progress: Progress) -> Path:
        """A copy of one tracked file that is no model, in our cache, checked. Raises NotFound, Refused, Corrupt,
        Unavailable."""
        with self._opened(uri) as (fs, path):
            if fs.isdir(path):
                raise Refused("source", uri, "it is a folder", "name one file in it")
            info = _tracked(fs, path, uri)
            folder = self.cache / "data" / f"dvc-{info['md5']}"
            files = kept(folder, lambda aside: _copy(fs, path, aside / "model", progress))
        return folder / files[0].path

    @contextmanager
    def _opened(self, uri: str) -> Iterator[tuple[DVCFileSystem, str]]:
        """The repository at the revision, and the path; DVC's errors are told as ours."""
        asked = SOURCE.fullmatch(uri)
        if not asked:
            raise Refused("source", uri, "it is no path in a DVC repository", "write dvc:PATH or dvc:PATH@REVISION")
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.scm import RevError

        try:
            yield DVCFileSystem(url=self.repo, rev=asked["revision"] or "HEAD"), asked["path"].strip("/")
        except RevError as error:
            raise NotFound(f"{uri}: {error}") from error
        except DvcException as error:
            raise Unavailable(f"{uri}: DVC cannot read the repository {self.repo}: {error}") from error


def _tracked(fs: DVCFileSystem, path: str, uri: str) -> dict[str, Any]:
    try:
        info = fs.info(path)
    except FileNotFoundError as error:
        raise NotFound(f"{uri}: there is no {path} at that revision") from error
    if not info.get("md5"):
        raise Refused("source", uri, "DVC does not track it", f"run: dvc add {path}, and commit {path}.dvc")
    return info


def _commit(fs: DVCFileSystem) -> str:
    return str(fs.repo.get_rev())


def _evaluation(fs: DVCFileSystem, path: str, commit: str) -> str:
    """Of the artifact at ``path``; what it names is a path beside its dvc.yaml, of the same revision."""
    for dvcyaml, artifacts in fs.repo.artifacts.read().items():
        folder = posixpath.dirname(dvcyaml)
        for artifact in artifacts.values():
            named = artifact.meta.get("evaluation") if isinstance(artifact.meta, dict) else None
            if named and posixpath.normpath(posixpath.join(folder, artifact.path)) == path:
                whole = str(named).startswith("dvc:") or str(named) in ("bundled", "model")
                return str(named) if whole else f"dvc:{posixpath.normpath(posixpath.join(folder, str(named)))}@{commit}"
    return ""


def _name(path: str) -> str:
    """A model's name out of the last part of a path.

    >>> _name("models/SmolLM2 135M.gguf")
    'SmolLM2-135M'
    """
    last = Path(path).name.removesuffix(".gguf").removesuffix(".safetensors")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "model"


def _copy(fs: DVCFileSystem, path: str, into: Path, progress: Progress) -> tuple[ModelFile, ...]:
    """Read the files through DVC and write them here. Never ``fs.get``: it may hard-link into DVC's own cache."""
    found = fs.find(path, detail=True) if fs.isdir(path) else {path: fs.info(path)}
    files = []
    for number, (source, info) in enumerate(found.items()):
        progress(f"fetching {source}", number / len(found))
        relative = os.path.relpath(source, path) if source != path else Path(path).name
        (into / relative).parent.mkdir(parents=True, exist_ok=True)
        files.append(_copy_one(fs, source, str(info.get("md5") or ""), relative, into / relative))
    return tuple(files)


def _copy_one(fs: DVCFileSystem, source: str, md5: str, relative: str, target: Path) -> ModelFile:
    ours, theirs, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        with fs.open(source, "rb") as content, target.open("wb") as out:
            while chunk := content.read(1 << 20):
                ours.update(chunk)
                theirs.update(chunk)
                size += out.write(chunk)
    except FileNotFoundError as error:
        raise Unavailable(f"{source} is in no cache and no remote of the repository; run: dvc push") from error
    if md5 and theirs.hexdigest() != md5:
        raise Corrupt(f"{source} has md5 {theirs.hexdigest()}, DVC's record says {md5}")
    return ModelFile(relative, size, ours.hexdigest())
