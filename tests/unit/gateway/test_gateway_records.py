"""Records: lines to values, and reading on over broken lines and turned files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.port import Cursor
from gateway.records import as_record, read_records

LINE: dict[str, Any] = {
    "arm": "2",
    "at": "1795348406.272001",
    "attempts": 2,
    "bytes_in": 89,
    "bytes_out": 5822,
    "client": "alice",
    "details": "via_upstream",
    "flags": "-",
    "instance": "chat-v1-0",
    "kind": "live",
    "method": "POST",
    "path": "/v1/completions",
    "request_id": "b847ddd5",
    "service": "chat",
    "status": 200,
    "tokens_in": 11,
    "tokens_out": 7,
    "total_ms": 9027,
    "total_us": 9027110,
    "ttft_us": 3563,
    "version": "1",
}


def line(request_id: str) -> str:
    """One line of the log."""
    return json.dumps({**LINE, "request_id": request_id}) + "\n"


def test_a_line_becomes_a_record() -> None:
    """Microseconds become seconds, versions numbers."""
    record = as_record(LINE)
    assert (record.at, record.version, record.arm, record.attempts) == (1795348406.272001, 1, 2, 2)
    assert (record.ttft_s, record.total_s) == (0.003563, 9.02711)
    assert (record.tokens_in, record.tokens_out, record.client) == (11, 7, "alice")


def test_what_a_request_did_not_reach_is_none() -> None:
    """A refused request has no version, no first byte, no tokens; one whose client left has its length still."""
    gone = {
        key: None for key in ("arm", "version", "instance", "client", "ttft_us", "total_us", "tokens_in", "tokens_out")
    }
    record = as_record({**LINE, **gone, "attempts": 0, "path": "/api/predict/chat/v1/models"})
    assert (record.version, record.ttft_s, record.tokens_out) == (None, None, None)
    assert (record.total_s, record.path) == (9.027, "/v1/models")


def test_a_line_still_being_written_waits(tmp_path: Path) -> None:
    """Half a line is not read, and is read whole once its end is there."""
    log = tmp_path / "records.jsonl"
    log.write_text(line("a") + line("b")[:40])
    first, cursor = read_records(log, Cursor())
    with log.open("a") as f:
        f.write(line("b")[40:])
    second, _ = read_records(log, cursor)
    assert ([r.request_id for r in first], [r.request_id for r in second]) == (["a"], ["b"])


def test_a_broken_line_is_skipped(tmp_path: Path) -> None:
    """A line that a killed Envoy left unfinished costs itself, and nothing behind it."""
    log = tmp_path / "records.jsonl"
    log.write_text(line("a") + line("lost")[:40] + line("also lost") + "[]\n" + line("b"))
    assert [r.request_id for r in read_records(log, Cursor())[0]] == ["a", "b"]


def test_reading_goes_on_over_turned_files(tmp_path: Path) -> None:
    """A cursor in a file that was turned over finishes it and goes on in the next ones, in order."""
    log = tmp_path / "records.jsonl"
    log.write_text(line("a"))
    _, cursor = read_records(log, Cursor())
    with log.open("a") as f:
        f.write(line("b"))
    log.rename(tmp_path / "records-1.jsonl")
    (tmp_path / "records-2.jsonl").write_text(line("c"))
    log.write_text(line("d"))
    records, cursor = read_records(log, cursor)
    assert [r.request_id for r in records] == ["b", "c", "d"]
    assert read_records(log, cursor) == ([], cursor)


def test_a_dropped_file_is_passed_over(tmp_path: Path) -> None:
    """A cursor in a file that is gone goes on with the oldest there is."""
    log = tmp_path / "records.jsonl"
    (tmp_path / "records-7.jsonl").write_text(line("x"))
    log.write_text(line("y"))
    assert [r.request_id for r in read_records(log, Cursor(3, 500))[0]] == ["x", "y"]


def test_no_log_no_records(tmp_path: Path) -> None:
    """Before the first request there is nothing, and the cursor stays."""
    assert read_records(tmp_path / "records.jsonl", Cursor()) == ([], Cursor())
