"""The requests that a release was judged by, kept so that they can be judged again: ``samples.csv.gz``.

Each look appends, and nothing is ever written anew: a gzip member (RFC 1952, 2.2: members may follow each other) of
whole lines, and a mark. The mark is an empty member whose extra field (2.3.1.1) says what is in the file, so that a
writer goes on from the last bytes alone. Whoever is killed while writing loses at most the last member.

Every request has a level by its id: half of them level 0, a quarter level 1, and so on. When more than ``MOST`` rows
would count, the lowest level is written no more and left out by readers: every second request is kept, then every
fourth. So both answers to a request stay together, and the rest is as if it had been chosen so from the beginning.
Rows that count no more stay in the file: each doubling of the requests adds half of ``MOST``, so that after a thousand
times ``MOST`` requests the file holds six times ``MOST`` rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rollout.errors import Corrupt, NotFound
from rollout.nouns import Sample

FILE = "samples.csv.gz"
BEFORE = "before"  #: the stage of stable's requests from before the release
MOST = 2_000_000
_HEAD = ("stage", *Sample._fields)
_CHUNK = 1 << 16
_LEVELS = 24  # halved so often, nothing is kept: whatever ids clients send, the file ends somewhere
_TOLD = struct.Struct(f"<QB{_LEVELS}I")  # where the mark stands, how often it was halved, rows of each level
_OPENS = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H2sH", _TOLD.size + 8, b"RH", _TOLD.size + 4)
_ENDS = b"\x03\x00" + bytes(8)  # no content, its CRC and its size
_MARK = len(_OPENS) + _TOLD.size + 4 + len(_ENDS)  # bytes

Row = tuple[str, Sample]


@dataclass(frozen=True)
class _State:
    """What is in a file: where its last whole member ends, how often it was halved, and its rows of each level."""

    end: int = 0
    halved: int = 0
    rows: tuple[int, ...] = (0,) * _LEVELS


class SampleFile:
    """The file while a release writes it. What a killed writer left half is cut off by the next one that appends."""

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path, self._most = path, most
        self._state = _state(path) if path.exists() else _State()

    def append(self, stage: str, samples: Iterable[Sample]) -> None:
        """Add requests of a stage, in any order; it takes as long as those alone do. Raises OSError."""
        last = self._state
        lines = [(_level(cells), (stage, *cells)) for cells in (tuple(map(_cell, s)) for s in samples)]
        rows = _counted(last.rows, (level for level, _ in lines))
        times = _halvings(last.halved, rows, self._most)
        kept = [cells for level, cells in lines if level >= times]
        if kept or times > last.halved:
            self._state = self._written(_member(kept, times), _State(last.end, times, rows))

    def _written(self, member: bytes, state: _State) -> _State:
        """Write from where the last whole member ends: an earlier attempt may have left half of one there."""
        at = state.end + len(member)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.truncate(state.end)
            file.write(member + _mark(at, state))
        return _State(at + _MARK, state.halved, state.rows)


class Rows:
    """Stage and sample of each request that is kept, as they were written; the same ones each time they are gone
    through, also while more are written. What it takes is what one look needs. Raises NotFound, Corrupt."""

    def __init__(self, path: Path) -> None:
        self._path, self._state = path, _state(path)

    def __iter__(self) -> Iterator[Row]:
        for end, member in _walk(self._path):
            for cells in _lines(self._path, member):
                if not self._state.halved or _level(cells[1:]) >= self._state.halved:
                    yield cells[0], _sample(cells[1:])
            if end >= self._state.end:
                return

    @property
    def share(self) -> float:
        """Of the requests, which part is kept."""
        return 0.5**self._state.halved


def read(path: Path) -> Iterator[Row]:
    """The rows, once. Raises NotFound, Corrupt."""
    yield from Rows(path)


def halved(path: Path) -> int:
    """How often the file was halved: one of 2^halved requests is in it. Raises NotFound, Corrupt."""
    return _state(path).halved


def _level(cells: Sequence[str]) -> int:
    """By the id of the request, or by all of it where it has none."""
    crc = zlib.crc32((cells[-1] or ",".join(cells)).encode())
    return min((crc & -crc).bit_length() - 1, _LEVELS - 1) if crc else _LEVELS - 1


def _counted(rows: Sequence[int], levels: Iterable[int]) -> tuple[int, ...]:
    counts = list(rows)
    for level in levels:
        counts[level] += 1
    return tuple(counts)


def _halvings(times: int, rows: Sequence[int], most: int) -> int:
    """How many there must be, ``times`` at least, for the rows that count to be ``most`` at most."""
    return next(t for t in range(times, _LEVELS + 1) if sum(rows[t:]) <= most)


def _state(path: Path) -> _State:
    """What the last whole mark says, with the whole members after it. Raises NotFound, Corrupt."""
    state = _marked(path)
    try:
        for end, member in _walk(path, state.end):
            rows = _counted(state.rows, (_level(cells[1:]) for cells in _lines(path, member)))
            times = int(member[: member.index(b"\n")]) if member else state.halved
            state = _State(end, times, rows)
    except Corrupt:
        if not state.end:
            raise
    return state


def _marked(path: Path) -> _State:
    """The last whole mark, searched from the end; nothing where there is none. Raises NotFound."""
    if not path.exists():
        raise NotFound(f"there are no samples: {path} does not exist")
    with path.open("rb") as file:
        begin = file.seek(0, io.SEEK_END)
        while begin > 0:
            until, begin = begin + _MARK - 1, max(begin - _CHUNK, 0)
            if state := _last_mark(file, begin, until):
                return state
    return _State()


def _last_mark(file: BinaryIO, begin: int, until: int) -> _State | None:
    """The last whole mark between two places, bytes."""
    file.seek(begin)
    part = file.read(until - begin)
    at = part.rfind(_OPENS)
    while at >= 0:
        told = part[at + len(_OPENS) :][: _TOLD.size]
        if len(told) == _TOLD.size:
            stands, times, *rows = _TOLD.unpack(told)
            state = _State(begin + at + _MARK, times, tuple(rows))
            if stands == begin + at and part[at : at + _MARK] == _mark(stands, state):
                return state
        at = part.rfind(_OPENS, 0, at + len(_OPENS) - 1)
    return None


def _mark(at: int, state: _State) -> bytes:
    told = _TOLD.pack(at, state.halved, *state.rows)
    return _OPENS + told + struct.pack("<I", zlib.crc32(told)) + _ENDS


def _member(lines: Iterable[Sequence[str]], times: int) -> bytes:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow([times])
    table.writerow(_HEAD)
    table.writerows(lines)
    return gzip.compress(out.getvalue().encode(), compresslevel=5, mtime=0)


def _lines(path: Path, member: bytes) -> Iterator[list[str]]:
    """Stage and sample, as text. Raises Corrupt where the columns are others."""
    lines = csv.reader(io.StringIO(member.decode(), newline=""))
    next(lines, None)  # how often it was halved
    if member and tuple(next(lines, ())) != _HEAD:
        raise Corrupt(f"{path}: its columns are not those of this version: {', '.join(_HEAD)}")
    yield from lines


def _cell(value: object) -> str:
    """``repr`` of a float is the shortest text that reads back as the same float."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


def _sample(cells: Sequence[str]) -> Sample:
    at, version, mirrored, failed, ttft, total, tokens, cut, streamed, error, size, cached, weight, instance, id = cells
    return Sample(
        at=float(at),
        version=int(version),
        mirrored=mirrored == "1",
        failed=failed == "1",
        ttft_s=float(ttft) if ttft else None,
        total_s=float(total) if total else None,
        tokens_out=int(tokens) if tokens else None,
        cut=cut == "1",
        streamed=streamed == "1",
        error=error,
        bytes_in=int(size),
        cached=cached == "1" if cached else None,
        weight=float(weight),
        instance=instance,
        request_id=id,
    )


def _walk(path: Path, end: int = 0) -> Iterator[tuple[int, bytes]]:
    """End and content of each whole member from ``end`` on; what follows the last whole one is left out. Raises
    Corrupt."""
    with path.open("rb") as file:
        file.seek(end)
        rest = b""
        while chunk := rest or file.read(_CHUNK):
            gz, parts, used = zlib.decompressobj(wbits=31), list[bytes](), 0
            while chunk and not gz.eof:
                parts.append(_inflated(gz, chunk, path))
                used += len(chunk) - len(gz.unused_data)
                chunk = b"" if gz.eof else file.read(_CHUNK)
            if not gz.eof:
                return
            rest, end = gz.unused_data, end + used
            yield end, b"".join(parts)


def _inflated(gz: zlib._Decompress, chunk: bytes, path: Path) -> bytes:
    try:
        return gz.decompress(chunk)
    except zlib.error as error:
        raise Corrupt(f"{path}: no gzip member where one should begin ({error})") from error
