"""Content-addressed engine directories: ``<kind>-<digest[:16]>/`` with the engine's files and ``manifest.json``.

A directory under its final name is whole: it is written beside as ``<name>.building``, synced, and renamed. One lock
per name makes two builds of one digest build once; a build that was killed leaves its ``.building`` to the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.errors import Corrupt

MANIFEST = "manifest.json"
_BUILDING = ".building"
Manifest = dict[str, Any]


def directory_name(kind: str, digest: str) -> str:
    """The name under which an engine of that digest lies."""
    return f"{kind}-{digest[:16]}"


def sha256_of(path: Path) -> str:
    """Digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a whole engine: present, readable, every file there with its size. Milliseconds.

    Raises Corrupt.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        wanted = {entry["path"]: entry["size"] for entry in manifest["files"]}
        if not wanted or "digest" not in manifest:
            raise ValueError("it names no files or no digest")
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise Corrupt(f"engine {directory.name}: {MANIFEST} cannot be used: {bad}") from bad
    for name, size in wanted.items():
        found = (directory / name).stat().st_size if (directory / name).is_file() else None
        if found != size:
            raise Corrupt(
                f"engine {directory.name}: {name} has {found} bytes and its manifest says {size}; build it again"
            )
    return dict(manifest)


def verify(directory: Path) -> Manifest:
    """As ``read_manifest``, and every file is hashed again. Raises Corrupt."""
    manifest = read_manifest(directory)
    for entry in manifest["files"]:
        found = sha256_of(directory / entry["path"])
        if found != entry["sha256"]:
            raise Corrupt(
                f"engine {directory.name}: {entry['path']} has sha256 {found[:12]} and its manifest says "
                f"{entry['sha256'][:12]}; build it again"
            )
    return manifest


def find(root: Path, kind: str, digest: str) -> Manifest | None:
    """The manifest of the engine with exactly this digest, or None where it is absent or not whole."""
    try:
        manifest = read_manifest(root / directory_name(kind, digest))
    except Corrupt:
        return None
    return manifest if manifest["digest"] == digest else None


def build_once(root: Path, kind: str, digest: str, make: Callable[[Path], Manifest]) -> tuple[Manifest, bool]:
    """The manifest, and whether it was found. Else ``make`` fills an empty directory and says what belongs into the
    manifest besides the files. Waits while another process builds the same digest."""
    name = directory_name(kind, digest)
    found = find(root, kind, digest)
    if found is not None:
        return found, True
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root, name):
        found = find(root, kind, digest)
        if found is not None:
            return found, True
        _sweep(root, name)
        building = root / (name + _BUILDING)
        building.mkdir()
        try:
            facts = make(building)
            manifest = _finish(building, {"kind": kind, "digest": digest, **facts})
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(root / name, ignore_errors=True)  # only a damaged one can lie here
        building.rename(root / name)
        _sync(root)
        return manifest, False


def _finish(building: Path, facts: Manifest) -> Manifest:
    paths = sorted(p for p in building.iterdir() if p.is_file())
    for path in paths:
        _sync(path)
    files = [{"path": p.name, "size": p.stat().st_size, "sha256": sha256_of(p)} for p in paths]
    manifest = {**facts, "files": files}
    (building / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _sync(building / MANIFEST)
    _sync(building)
    return manifest


def _sweep(root: Path, name: str) -> None:
    """Remove what killed builds left: ours, and others' whose lock nobody holds."""
    shutil.rmtree(root / (name + _BUILDING), ignore_errors=True)
    for left in root.glob("*" + _BUILDING):
        with _locked(root, left.name.removesuffix(_BUILDING), wait=False) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(root: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold the name's lock; without ``wait`` yields False where somebody else does. The kernel frees it at death."""
    (root / ".locks").mkdir(exist_ok=True)
    with (root / ".locks" / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
