"""A container's output as a file of ours, so that all instances' logs are read in one way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from docker.errors import DockerException
from docker.models.containers import Container as Box
from requests.exceptions import RequestException

LOG_BYTES = 10 * 1024 * 1024
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z ")  # what Docker puts before a line: always nine decimals, in UTC


def follow(box: Box, path: Path) -> bool:
    """Append what the container writes until it ends; whether it was followed to its end.

    One at a time follows: it holds a lock on the file, and another returns at once. The time of the last line is kept
    beside the file, in ``.seen``, so that the next one goes on after it. Beyond 10 MiB the file begins anew, the old
    part beside it in ``.1``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(DockerException, RequestException, OSError):
        with path.open("ab", buffering=0) as file, path.with_name(f"{path.name}.seen").open("ab+", buffering=0) as seen:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for stamp, line in _after(box, _last(seen.fileno(), box.id)):
                file.write(line)
                _note(seen.fileno(), box.id, stamp)
                if file.tell() > LOG_BYTES:
                    _begin_anew(path, file.fileno())
            return True
    return False


def _after(box: Box, last: str) -> Iterator[tuple[str, bytes]]:
    """The container's lines after that time, each with its own. Docker itself leaves out whole seconds only."""
    since = int(datetime.fromisoformat(last[:19] + "+00:00").timestamp()) if last else None
    for piece in box.logs(stream=True, follow=True, timestamps=True, since=since):
        found = _STAMP.match(piece)
        stamp = found.group().decode().strip() if found else ""
        if not stamp or stamp > last:
            yield stamp or last, piece[found.end() :] if found else piece


def _last(descriptor: int, box_id: str) -> str:
    """The time of the last line that was copied of this container; empty for another one's."""
    box, _, stamp = os.pread(descriptor, 200, 0).decode(errors="replace").strip().partition(" ")
    return stamp if box == box_id and _STAMP.fullmatch(f"{stamp} ".encode()) else ""


def _note(descriptor: int, box_id: str, stamp: str) -> None:
    os.ftruncate(descriptor, 0)  # opened for appending, so the next write goes to its start
    os.write(descriptor, f"{box_id} {stamp}\n".encode())


def _begin_anew(path: Path, descriptor: int) -> None:
    path.with_name(path.name + ".1").write_bytes(path.read_bytes())
    os.ftruncate(descriptor, 0)
