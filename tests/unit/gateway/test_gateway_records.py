"""Records: reading on over broken lines and turned files, forwards and backwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_lines import line, numbered, numbers

from gateway import log_files
from gateway.port import Cursor, EnvoySettings
from gateway.records import batches, end_of_records, newest_first, read_records, rotate


def test_a_line_still_being_written_waits(tmp_path: Path) -> None:
    """Half a line is not read, and is read whole once its end is there."""
    log = tmp_path / "records.log"
    log.write_text(numbered(1) + numbered(2)[:40])
    first, cursor = read_records(log, Cursor())
    with log.open("a") as f:
        f.write(numbered(2)[40:])
    second, _ = read_records(log, cursor)
    assert (numbers(first), numbers(second)) == ([1], [2])


def test_a_broken_line_is_skipped_and_counted(tmp_path: Path) -> None:
    """A line that a killed Envoy left unfinished costs itself and the one glued to it, and nothing behind."""
    log = tmp_path / "records.log"
    log.write_bytes((numbered(1) + numbered(2)[:40] + numbered(3) + "\xff\n" + numbered(4)).encode("latin-1"))
    (batch,) = batches(log, Cursor())
    assert (numbers(batch.records), batch.skipped) == ([1, 4], 2)


def test_reading_goes_on_over_turned_files(tmp_path: Path) -> None:
    """A cursor in a file that was turned over finishes it and goes on in the next ones, in order."""
    log = tmp_path / "records.log"
    log.write_text(numbered(1))
    _, cursor = read_records(log, Cursor())
    with log.open("a") as f:
        f.write(numbered(2))
    log.rename(tmp_path / "records-1.log")
    (tmp_path / "records-2.log").write_text(numbered(3))
    log.write_text(numbered(4))
    records, cursor = read_records(log, cursor)
    assert numbers(records) == [2, 3, 4]
    assert read_records(log, cursor) == ([], cursor)
    assert cursor == end_of_records(log)
    assert numbers(newest_first(log)) == [4, 3, 2, 1]


def test_a_dropped_file_is_passed_over(tmp_path: Path) -> None:
    """A cursor in a file that is gone goes on with the oldest there is."""
    log = tmp_path / "records.log"
    (tmp_path / "records-7.log").write_text(numbered(1))
    log.write_text(numbered(2))
    assert numbers(read_records(log, Cursor(3, 500))[0]) == [1, 2]


def test_no_log_no_records(tmp_path: Path) -> None:
    """Before the first request there is nothing, and the cursor stays."""
    log = tmp_path / "records.log"
    assert read_records(log, Cursor()) == ([], Cursor())
    assert list(newest_first(log)) == [] and end_of_records(log) == Cursor(1, 0)


def test_a_long_log_is_read_in_pieces(tmp_path: Path) -> None:
    """No piece is longer than a chunk, none of the lines is lost between pieces, either way round."""
    log = tmp_path / "records.log"
    n = 3 * log_files.CHUNK // len(line())
    log.write_text("".join(numbered(i) for i in range(n)) + numbered(0)[:100])
    pieces = list(log_files.chunks(log, Cursor()))
    assert max(len(content) for content, _ in pieces) <= log_files.CHUNK
    assert len(pieces) > 1 and pieces[-1][1].offset == n * len(line())
    assert numbers(read_records(log, Cursor())[0]) == list(range(n))
    assert numbers(newest_first(log)) == list(reversed(range(n)))


def test_a_stretch_without_any_line_holds_nothing_up(tmp_path: Path) -> None:
    """What a full disk left behind, megabytes of zeros, is passed over."""
    log = tmp_path / "records.log"
    log.write_bytes(numbered(1).encode() + b"\0" * (3 * log_files.CHUNK) + b"\n" + numbered(2).encode())
    assert numbers(read_records(log, Cursor())[0]) == [1, 2]
    assert numbers(newest_first(log)) == [2, 1]


@pytest.mark.parametrize(("size", "turned"), [(10, False), (200, True)])
def test_a_log_is_turned_over_when_it_has_grown(tmp_path: Path, size: int, turned: bool) -> None:
    """Records and errors each get a number, the oldest go, and the reader finds all that is kept."""
    run = tmp_path / "run"
    run.mkdir()
    for n in (1, 2, 3):
        (run / f"records-{n}.log").write_text(numbered(n))
    (run / "records.log").write_text(numbered(4))
    (run / "errors.jsonl").write_text("x" * size)
    assert rotate(EnvoySettings(str(tmp_path)), max_bytes=100, keep=2)
    assert numbers(read_records(run / "records.log", Cursor())[0]) == [3, 4]
    assert (run / "errors-1.jsonl").exists() is turned
    assert not rotate(EnvoySettings(str(tmp_path)), max_bytes=100, keep=2)
