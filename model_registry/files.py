"""Files and their digests: hashed as a stream, locked while written, and known again by a stamp.

A stamp is a small file beside a folder. It says which digests were once checked and what ``stat`` said then, so that
looking a model up costs a few ``stat`` calls and not a read of gigabytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model_registry.port import Progress
from rollout.errors import Corrupt
from rollout.nouns import ModelFile

CHUNK = 4 << 20  # bytes read at once while hashing


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def digest_of(files: Iterable[ModelFile]) -> str:
    """One digest for a set of files: sha256 over the sorted (path, sha256) pairs; times do not count."""
    total = hashlib.sha256()
    for path, sha256 in sorted((f.path, f.sha256) for f in files):
        total.update(f"{path}\0{sha256}\n".encode())
    return total.hexdigest()


def list_files(directory: Path) -> list[str]:
    """Relative paths of the regular files below ``directory``, sorted, without hidden ones and lock files of a hub."""
    found = []
    for root, folders, names in os.walk(directory, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(root, n).relative_to(directory).as_posix() for n in names if not n.startswith(".")]
    return sorted(found)


def hash_files(directory: Path, paths: list[str], progress: Progress) -> tuple[ModelFile, ...]:
    """Size and digest of each file. ``progress`` is told the share of bytes done."""
    sizes = {p: (directory / p).stat().st_size for p in paths}
    total, done, files = sum(sizes.values()) or 1, 0, []
    for path in paths:
        digest = hashlib.sha256()
        with (directory / path).open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                progress(f"hashing {path}", done / total)
        files.append(ModelFile(path, sizes[path], digest.hexdigest()))
    return tuple(files)


def check(directory: Path, files: Iterable[ModelFile], progress: Progress) -> None:
    """Compare what lies in ``directory`` with the record. Raises Corrupt for a missing file, a size or a digest."""
    recorded = {f.path: f for f in files}
    missing = [p for p in recorded if not (directory / p).is_file()]
    if missing:
        raise Corrupt(f"{missing[0]} is named in the record and is missing")
    for path, file in recorded.items():
        size = (directory / path).stat().st_size
        if size != file.size:
            raise Corrupt(f"{path} has {size} bytes, the record says {file.size}")
    for found in hash_files(directory, list(recorded), progress):
        if found.sha256 != recorded[found.path].sha256:
            raise Corrupt(f"{found.path} has sha256 {found.sha256}, the record says {recorded[found.path].sha256}")


def kept(
    folder: Path, fill: Callable[[Path], tuple[ModelFile, ...]], record: tuple[ModelFile, ...] | None = None
) -> tuple[ModelFile, ...]:
    """The files of ``folder``, got by ``fill`` the first time and looked up after that; two at once get them once.

    ``fill`` is given an empty folder, puts the files into ``model/`` below it, checks them and says what they are. What
    a killed attempt left is removed by the next one. With ``record`` only a folder of exactly these files is a hit.
    """
    if (found := stamped(folder)) and _same(found, record):
        return found
    with held(_beside(folder, ".lock")):
        if (found := stamped(folder)) and _same(found, record):
            return found
        aside = _beside(folder, ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            files = fill(aside)
            shutil.rmtree(folder, ignore_errors=True)
            (aside / "model").rename(folder)
            write_stamp(folder, files)
            return files
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_stamp(folder: Path, files: Iterable[ModelFile]) -> None:
    """Note that these files were checked just now."""
    note = {f.path: [f.size, f.sha256, (folder / f.path).stat().st_mtime_ns] for f in files}
    aside = _beside(folder, ".checked.new")
    aside.write_text(json.dumps(note))
    aside.replace(_beside(folder, ".checked"))


def stamped(folder: Path) -> tuple[ModelFile, ...] | None:
    """The files that were checked once in ``folder``, if none was touched since; ``None`` when that is not known."""
    try:
        note = json.loads(_beside(folder, ".checked").read_text())
        for path, (size, _, modified) in note.items():
            seen = (folder / path).stat()
            if (seen.st_size, seen.st_mtime_ns) != (size, modified):
                return None
    except (OSError, ValueError):
        return None
    return tuple(ModelFile(path, size, sha256) for path, (size, sha256, _) in note.items())


def discard(folder: Path) -> None:
    """Remove a kept folder and its stamp."""
    with held(_beside(folder, ".lock")):
        _beside(folder, ".checked").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold a lock file: one at a time across processes and threads; the kernel frees it when the holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _same(found: tuple[ModelFile, ...], record: tuple[ModelFile, ...] | None) -> bool:
    return record is None or set(found) == set(record)
