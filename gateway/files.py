"""Small effects on files: put by rename, read JSON, hold a lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rollout.errors import Conflict, Unavailable

PRIVATE = 0o600  # files hold tokens


def put(path: Path, content: bytes) -> None:
    """Replace ``path`` whole: written aside, synced, renamed. Envoy notices renames only."""
    aside = stage(path, content)
    try:
        synced(aside)
        os.rename(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def stage(path: Path, content: bytes) -> Path:
    """Write ``content`` beside ``path``, whole, for a rename that cannot fail for want of space."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "wb") as f:
            f.write(content)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def synced(path: Path) -> Path:
    """``path``, its content on the disk itself: it outlives a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def keep(path: Path) -> Path | None:
    """A second name for what ``path`` holds now, to put it back by a rename alone; None where there is no such file."""
    kept = path.with_name(f".{path.name}.before")
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)
    except FileNotFoundError:
        return None
    return kept


def read(path: Path) -> bytes | None:
    """The content of ``path``, or None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def size(path: Path) -> int:
    """Bytes in ``path``; 0 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail(path: Path, begin: int) -> bytes:
    """What ``path`` holds from byte ``begin`` on; nothing where there is no such file."""
    try:
        with path.open("rb") as f:
            f.seek(begin)
            return f.read()
    except FileNotFoundError:
        return b""


def as_json(doc: Any) -> bytes:
    """``doc`` as compact JSON."""
    return json.dumps(doc, separators=(",", ":"), sort_keys=True).encode()


def parsed(content: bytes | None) -> Any:
    """The JSON in ``content``; None for nothing and for what is no JSON."""
    try:
        return json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None


def is_discovery(found: Any) -> bool:
    """Whether this is a discovery response as we write it."""
    resources = found.get("resources") if isinstance(found, dict) else None
    return isinstance(resources, list) and all(isinstance(resource, dict) for resource in resources)


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file while inside. Raises Conflict after ``timeout_s`` seconds, Unavailable without its folder."""
    try:
        lock = path.open("w")
    except FileNotFoundError:
        raise Unavailable(f"the gateway's folder {path.parent} does not exist; start the gateway first") from None
    except OSError as error:
        raise Unavailable(f"the gateway's lock {path} cannot be opened: {error.strerror}") from error
    with lock:
        _acquire(lock, time.monotonic() + timeout_s, path)
        yield


def _acquire(lock: IO[str], deadline: float, path: Path) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(f"another process is changing the gateway (lock {path})") from None
            time.sleep(0.005)
