"""Models of the Hugging Face hub, over HTTP; works where the hub, or a mirror of it, is reachable."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx

from model_registry.files import kept
from model_registry.port import Progress
from rollout.errors import Corrupt, NotFound, Refused, Unavailable
from rollout.nouns import ModelFile

SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")
TIMEOUT = httpx.Timeout(60, connect=8)  # seconds; the first is the longest silence between two reads


@dataclass(frozen=True)
class HubModel:
    """A repository at one commit, and the files of it that are a model; ``sha256`` by path where the hub knows it."""

    repo: str
    commit: str
    sha256: dict[str, str]
    paths: tuple[str, ...]


def fetch_hub(source: str, cache: Path, progress: Progress) -> tuple[Path, tuple[ModelFile, ...], str]:
    """The folder, files and commit of ``hf:ORG/NAME[/FILE.gguf][@REVISION]``; a known commit is not fetched again.

    Asks ``HF_ENDPOINT`` (default https://huggingface.co) with ``HF_TOKEN`` if there is one. Raises Refused, NotFound,
    Unavailable within about 10 s when the hub is not reachable, Corrupt when a file is not what the hub says.
    """
    asked = SOURCE.fullmatch(source)
    if not asked:
        raise Refused("source", source, "it is no address of the hub", "write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=endpoint, headers=headers, timeout=TIMEOUT, follow_redirects=True) as client:
        try:
            model = _look_up(client, asked["repo"], asked["revision"] or "main", asked["file"])
            folder = cache.resolve() / "models" / _folder_name(model, asked["file"])
            files = kept(folder, lambda aside: _download(client, model, aside / "model", progress))
        except httpx.HTTPError as error:
            raise _told(endpoint, source, error) from error
    return folder, files, model.commit


def _folder_name(model: HubModel, file: str | None) -> str:
    chosen = "-" + hashlib.sha256(file.encode()).hexdigest()[:8] if file else ""
    return f"hub-{model.repo.replace('/', '--')}-{model.commit[:12]}{chosen}"


def _look_up(client: httpx.Client, repo: str, revision: str, file: str | None) -> HubModel:
    answer = client.get(f"/api/models/{repo}/revision/{revision}", params={"blobs": "true"})
    answer.raise_for_status()
    told = answer.json()
    sums = {s["rfilename"]: (s.get("lfs") or {}).get("sha256", "") for s in told.get("siblings", [])}
    paths = choose(tuple(sums), file)
    if not paths:
        raise NotFound(f"{repo}@{revision} has no {file or 'model files'}")
    return HubModel(repo, str(told["sha"]), sums, paths)


def choose(paths: tuple[str, ...], file: str | None) -> tuple[str, ...]:
    """Which files of a repository are the model: the one named, or safetensors with config and tokenizer, or GGUF.

    >>> choose(("model.safetensors", "config.json", "pytorch_model.bin", "onnx/model.onnx"), None)
    ('model.safetensors', 'config.json')
    """
    safe = tuple(p for p in paths if not p.startswith(("/", ".")) and ".." not in p.split("/"))
    if file:
        return tuple(p for p in safe if p == file)
    if any(p.endswith(".safetensors") for p in safe):
        return tuple(p for p in safe if "/" not in p and any(fnmatch(p, wanted) for wanted in WANTED))
    return tuple(p for p in safe if p.endswith(".gguf"))


def _download(client: httpx.Client, model: HubModel, into: Path, progress: Progress) -> tuple[ModelFile, ...]:
    files = []
    for number, path in enumerate(model.paths):
        progress(f"downloading {path}", number / len(model.paths))
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        file = _stream(client, f"/{model.repo}/resolve/{model.commit}/{path}", path, target)
        if model.sha256[path] not in ("", file.sha256):
            raise Corrupt(f"{model.repo}: {path} has sha256 {file.sha256}, the hub says {model.sha256[path]}")
        files.append(file)
    return tuple(files)


def _stream(client: httpx.Client, url: str, path: str, target: Path) -> ModelFile:
    digest, size = hashlib.sha256(), 0
    with client.stream("GET", url) as answer, target.open("wb") as out:
        answer.raise_for_status()
        for chunk in answer.iter_bytes(1 << 20):
            digest.update(chunk)
            size += out.write(chunk)
    return ModelFile(path, size, digest.hexdigest())


def _told(endpoint: str, source: str, error: httpx.HTTPError) -> Exception:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404):
        status = error.response.status_code
        return NotFound(f"{source}: the hub answers {status}: no such model or revision, or it needs HF_TOKEN")
    return Unavailable(
        f"{source}: the Hugging Face hub at {endpoint} is not reachable ({type(error).__name__}); "
        "set HF_ENDPOINT to a mirror, or download the model elsewhere and name its folder"
    )
