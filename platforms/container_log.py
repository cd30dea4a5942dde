"""A container's output as a file of ours, so that all instances' logs are read in one way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from docker.errors import DockerException
from docker.models.containers import Container as Box
from requests.exceptions import RequestException

LOG_BYTES = 10 * 1024 * 1024


def follow(box: Box, path: Path) -> None:
    """Append what the container writes, until it ends or Docker goes away. A file that is there is continued: what
    came before its last change is not asked for again. Beyond 10 MiB it begins anew, the old
    part beside it in ``.1``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    since = int(path.stat().st_mtime) if path.exists() else None
    with contextlib.suppress(DockerException, RequestException, OSError):
        with path.open("ab", buffering=0) as file:
            for piece in box.logs(stream=True, follow=True, since=since):
                file.write(piece)
                if file.tell() > LOG_BYTES:
                    _begin_anew(path, file.fileno())


def _begin_anew(path: Path, descriptor: int) -> None:
    path.with_name(path.name + ".1").write_bytes(path.read_bytes())
    os.ftruncate(descriptor, 0)
