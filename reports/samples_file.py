"""The requests that a release was judged by, kept so that they can be judged again: ``samples.csv.gz``.

Each look appends one gzip member (RFC 1952, 2.2: members may follow each other) of whole lines, so whoever is killed
while writing loses at most the last one. Beyond a number of rows only every second request is kept, then every fourth,
chosen by its id: both answers to a request stay together, and the rest is as it would have been.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from rollout.errors import Corrupt, NotFound
from rollout.nouns import Sample

FILE = "samples.csv.gz"
BEFORE = "before"  #: the stage of stable's requests from before the release
MOST = 2_000_000
_HEAD = ("stage", *Sample._fields)
_MEMBER = 50_000  # rows of one
_CHUNK = 1 << 20

Row = tuple[str, Sample]


class SampleFile:
    """The file while a release writes it. What a killed writer left half is cut off first."""

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path, self._most, self._rows, self._halved = path, most, 0, 0
        if path.exists():
            whole = list(_ends(path))
            os.truncate(path, whole[-1] if whole else 0)
            self._halved = halved(path)
            self._rows = sum(1 for _ in read(path))

    def append(self, stage: str, samples: Iterable[Sample]) -> None:
        """Add requests of a stage, in any order. Raises OSError."""
        kept = [(stage, s) for s in samples if _kept(s, self._halved)]
        if not kept:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(_member(kept, self._halved))
        self._rows += len(kept)
        while self._rows > self._most:
            self._halve()

    def _halve(self) -> None:
        """Write the file anew with about half of its requests."""
        self._halved += 1
        rest = (row for row in read(self._path) if _kept(row[1], self._halved))
        aside, self._rows = self._path.with_suffix(".new"), 0
        with aside.open("wb") as file:
            while part := list(islice(rest, _MEMBER)):
                file.write(_member(part, self._halved))
                self._rows += len(part)
        os.replace(aside, self._path)


def read(path: Path) -> Iterator[Row]:
    """Stage and sample of each request, as they were written. Raises NotFound, Corrupt."""
    for member in _members(path):
        lines = csv.reader(io.StringIO(member.decode(), newline=""))
        next(lines)  # how often it was halved
        if tuple(next(lines)) != _HEAD:
            raise Corrupt(f"{path}: its columns are not those of this version: {', '.join(_HEAD)}")
        for cells in lines:
            yield cells[0], _sample(cells[1:])


def halved(path: Path) -> int:
    """How often the file was halved: one of 2^halved requests is in it."""
    last = b"0"
    for member in _members(path):
        last = member[: member.index(b"\n")].strip()
    return int(last)


def _kept(sample: Sample, times: int) -> bool:
    """By the id of the request, or by all of it where it has none."""
    key = sample.request_id or repr(tuple(sample))
    return not times or zlib.crc32(key.encode()) % (1 << times) == 0


def _member(rows: Sequence[Row], times: int) -> bytes:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow([times])
    table.writerow(_HEAD)
    table.writerows([stage, *(_cell(value) for value in sample)] for stage, sample in rows)
    return gzip.compress(out.getvalue().encode(), compresslevel=5, mtime=0)


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


def _members(path: Path) -> Iterator[bytes]:
    for _, member in _walk(path):
        yield member


def _ends(path: Path) -> Iterator[int]:
    """Where each whole member ends, bytes."""
    for end, _ in _walk(path):
        yield end


def _walk(path: Path) -> Iterator[tuple[int, bytes]]:
    """End and content of each whole member; what follows the last whole one is left out. Raises NotFound, Corrupt."""
    if not path.exists():
        raise NotFound(f"there are no samples: {path} does not exist")
    with path.open("rb") as file:
        rest, end = b"", 0
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
