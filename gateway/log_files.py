"""Log files that Envoy writes and we turn over: read on from a cursor, or backwards from the end.

The file being written is, say, ``records.log``; turned over it becomes ``records-<n>.log``, n counting up. So n names a
file for ever (an inode would be used again) and the current one is the next in line.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gateway.admin import Admin
from gateway.port import Cursor
from rollout.errors import Unavailable

CHUNK = 1 << 20  #: bytes read at once; far more than the headers of one line can hold
_REOPEN_S = 5.0


def chunks(current: Path, cursor: Cursor) -> Iterator[tuple[bytes, Cursor]]:
    """All whole lines behind ``cursor``, oldest first, about ``CHUNK`` bytes at a time, and the cursor behind each.

    A line still being written is left for the next time.
    """
    for number, path in _files(current):
        if number < cursor.file:
            continue
        offset = cursor.offset if number == cursor.file else 0
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return  # turned over or dropped while we looked; the next reading sees it under its number
        with file:
            if path == current and _numbered(current, number).exists():
                return  # what we opened may already be the next one
            cursor = Cursor(number, offset)
            file.seek(offset)
            for content in _whole_lines(file):
                cursor = Cursor(number, cursor.offset + len(content))
                yield content, cursor


def newest_first(current: Path) -> Iterator[bytes]:
    """Whole lines from the end backwards, about ``CHUNK`` bytes at a time, over the turned files too."""
    for _, path in reversed(_files(current)):
        try:
            with path.open("rb") as file:
                yield from _backwards(file)
        except FileNotFoundError:
            continue


def end_of(current: Path) -> Cursor:
    """Behind all that is written now; a line that is being written may be lost to who reads on from here."""
    number, _ = _files(current)[-1]
    try:
        return Cursor(number, current.stat().st_size)
    except FileNotFoundError:
        return Cursor(number, 0)


def turn_over(logs: Iterable[Path], writers: Callable[[], list[Admin]], max_bytes: int, keep: int) -> bool:
    """Turn over each log that holds ``max_bytes``, keep its newest ``keep`` (at least 1) old ones; whether any was.

    Returns when each of ``writers`` writes the new files, so no line is lost. An Envoy that is down opens new ones at
    its start.
    """
    turned = [log for log in logs if log.exists() and log.stat().st_size >= max_bytes]
    for log in turned:
        old = _turned(log)
        log.rename(_numbered(log, old[-1][0] + 1 if old else 1))
        for _, path in old[: max(0, len(old) + 1 - max(1, keep))]:
            path.unlink(missing_ok=True)
    if turned:
        _reopen(writers(), turned)
    return bool(turned)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(CHUNK):
        end = block.rfind(b"\n") + 1
        if end == 0 and len(block) < CHUNK:
            return
        whole = block[:end] if end else block  # a chunk without any end of line is no log; it is passed over
        file.seek(len(whole) - len(block), os.SEEK_CUR)
        yield whole


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    at, rest = file.seek(0, os.SEEK_END), b""
    while at > 0:
        begin = max(0, at - CHUNK)
        file.seek(begin)
        block = file.read(at - begin) + rest
        at = begin
        first = block.find(b"\n") + 1 if at else 0  # what stands before belongs to a line that begins further up
        end = block.rfind(b"\n") + 1
        if end > first:
            yield block[first:end]
        rest = (block[:first] if end else block)[-CHUNK:]


def _files(current: Path) -> list[tuple[int, Path]]:
    """(number, path) of each file, oldest first, the current one last."""
    old = _turned(current)
    return [*old, ((old[-1][0] if old else 0) + 1, current)]


def _turned(current: Path) -> list[tuple[int, Path]]:
    pattern = re.compile(rf"{re.escape(current.stem)}-(\d+){re.escape(current.suffix)}")
    matches = [(pattern.fullmatch(path.name), path) for path in current.parent.glob(f"{current.stem}-*")]
    return sorted((int(match.group(1)), path) for match, path in matches if match)


def _numbered(current: Path, number: int) -> Path:
    return current.with_name(f"{current.stem}-{number}{current.suffix}")


def _reopen(writers: list[Admin], logs: list[Path]) -> None:
    for admin in writers:
        with contextlib.suppress(Unavailable):
            admin.reopen_logs()
    deadline = time.monotonic() + _REOPEN_S
    while writers and not all(log.exists() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.01)
