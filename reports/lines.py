"""Files of JSON objects, one a line, that grow: what a crash or a full disk left half loses that line alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_line(path: Path, line: str, most: int | None = None) -> bool:
    """Append a line of its own: what an earlier attempt left half stays one that nobody can read.

    Nothing is written where the file would get larger than ``most`` bytes; whether it was. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - 1, 0))
        text = (b"" if file.read(1) in (b"", b"\n") else b"\n") + line.encode() + b"\n"
        if most is not None and size + len(text) > most:
            return False
        file.write(text)
    return True


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, as far as they are whole; none where there is no file. Raises OSError."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
