"""Content-addressed engine directories: ``<kind>-<digest[:16]>/`` with the engine's files and ``manifest.json``.

A directory under its final name is whole: it is written beside as ``<name>.building``, synced, and renamed; one that is
removed is renamed to ``<name>.going`` first. One lock per name makes two builds of one digest build once; what a killed
process left is removed by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from rollout.errors import Corrupt

MANIFEST = "manifest.json"
_BUILDING, _GOING, _INCOMING = ".building", ".going", ".incoming"
_LOCKS = ".locks"
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
        if outside := [name for name in wanted if not _inside(name)]:
            raise ValueError(f"{outside[0]!r} is no path inside the engine")
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise Corrupt(f"engine {directory.name}: {MANIFEST} cannot be used: {bad}") from bad
    for name, size in wanted.items():
        found = _size(directory / name)
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
    manifest besides the files. Waits while another process builds the same digest. Raises Corrupt for a link."""

    def fill(building: Path) -> Manifest:
        building.mkdir()
        facts = make(building)
        return _write_manifest(building, {"kind": kind, "digest": digest, **facts})

    return _once(root, kind, digest, fill)


def adopt(root: Path, source: Path, kind: str, digest: str) -> Manifest:
    """Take in an engine directory that was made elsewhere; ``source`` is moved, or copied from another file system.

    It is checked before it gets its final name: kind, digest, no file too many, each file's sha256. One that is there
    already stays. Raises Corrupt, and nothing is kept then.
    """

    def fill(building: Path) -> Manifest:
        _move(source, building)
        paths = _files(building)
        manifest = verify(building)
        if (manifest.get("kind"), manifest["digest"]) != (kind, digest):
            raise Corrupt(f"{building.name} holds engine {manifest.get('kind')} {manifest['digest'][:16]}")
        extra = set(paths) - {entry["path"] for entry in manifest["files"]}
        if extra:
            raise Corrupt(f"engine {building.name}: {min(extra)} is not in its manifest")
        _sync_all(building, [*paths, MANIFEST])
        return manifest

    return _once(root, kind, digest, fill)[0]


@contextmanager
def incoming(root: Path, kind: str, digest: str) -> Iterator[Path]:
    """An empty directory beside the engines for a download of that engine; it is removed in the end.

    Waits while another process downloads the same one.
    """
    name = directory_name(kind, digest) + _INCOMING
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, name):
        directory = root / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def note_use(directory: Path) -> None:
    """Note that an engine is used now, for ``shelf.collect``: its manifest is touched, where one can be."""
    with suppress(OSError):
        os.utime(directory / MANIFEST)


def used_at(directory: Path) -> float:
    """When it was last used or built, epoch seconds; 0 where nothing tells."""
    try:
        return (directory / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def remove(root: Path, name: str) -> None:
    """Remove an engine whose lock is held: out of the way in one step, so that a kill leaves no half engine."""
    going = root / (name + _GOING)
    shutil.rmtree(going, ignore_errors=True)
    with suppress(FileNotFoundError):
        (root / name).rename(going)
    shutil.rmtree(going, ignore_errors=True)


def leftovers(root: Path) -> list[Path]:
    """What is half built, half fetched or half removed; some of it may be at work."""
    return sorted(p for suffix in (_BUILDING, _GOING, _INCOMING) for p in root.glob("*" + suffix))


def sweep(root: Path) -> None:
    """Remove what killed processes left: whatever has a lock that nobody holds."""
    for left in leftovers(root):
        with locked(root, left.name.removesuffix(_BUILDING).removesuffix(_GOING), wait=False) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def locked(root: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold the name's lock; without ``wait`` yields False where somebody else does. The kernel frees it at death."""
    (root / _LOCKS).mkdir(exist_ok=True)
    with (root / _LOCKS / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _once(root: Path, kind: str, digest: str, fill: Callable[[Path], Manifest]) -> tuple[Manifest, bool]:
    """The manifest, and whether it was found. Else ``fill`` makes the directory that it is given the name of."""
    name = directory_name(kind, digest)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, name):  # for a hit too: ``shelf.collect`` cannot take it between the look and the note
        found = find(root, kind, digest)
        if found is not None:
            note_use(root / name)
            return found, True
        building = root / (name + _BUILDING)
        shutil.rmtree(building, ignore_errors=True)
        sweep(root)
        try:
            manifest = fill(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        remove(root, name)  # only a damaged one can lie here
        building.rename(root / name)
        _sync(root)
        note_use(root / name)
        return manifest, False


def _write_manifest(building: Path, facts: Manifest) -> Manifest:
    paths = _files(building)
    files = [{"path": p, "size": (building / p).stat().st_size, "sha256": sha256_of(building / p)} for p in paths]
    manifest = {**facts, "files": files}
    (building / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _sync_all(building, [*paths, MANIFEST])
    return manifest


def _files(directory: Path) -> list[str]:
    """Relative POSIX paths of all files but the manifest, sorted. Raises Corrupt for links, sockets and the like."""
    found = []
    for path in directory.rglob("*"):
        mode, name = path.lstat().st_mode, path.relative_to(directory).as_posix()
        if stat.S_ISREG(mode):
            found.append(name)
        elif not stat.S_ISDIR(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
            raise Corrupt(f"engine {directory.name}: {name} is {what}; an engine holds its own files")
    return sorted(name for name in found if name != MANIFEST)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name == path.as_posix() not in (".", MANIFEST)


def _size(path: Path) -> int | None:
    """Bytes of a regular file, None for everything else."""
    try:
        seen = path.lstat()
    except OSError:
        return None
    return seen.st_size if stat.S_ISREG(seen.st_mode) else None


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target, symlinks=True)


def _sync_all(directory: Path, paths: list[str]) -> None:
    """Files first, then the directories that name them."""
    for path in paths:
        _sync(directory / path)
    folders = {directory, *(parent for path in paths for parent in (directory / path).parents)}
    for folder in sorted((f for f in folders if f.is_relative_to(directory)), reverse=True):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
