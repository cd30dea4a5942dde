"""Envoy's access log as records: read on from a cursor, turned over when it grows.

The file being written is ``records.jsonl``; turned over it becomes ``records-<n>.jsonl``, n counting up. So n names a
file for ever (an inode would be used again) and the current one is the next in line.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from gateway.admin import Admin
from gateway.port import Cursor, EnvoySettings, Record
from gateway.render import Layout
from gateway.routes import PREFIX
from rollout.errors import Unavailable

_NUMBERED = re.compile(r"records-(\d+)\.jsonl")
_REOPEN_S = 5.0


def read_records(current: Path, cursor: Cursor) -> tuple[list[Record], Cursor]:
    """All whole lines behind ``cursor``, oldest first, and the cursor behind them.

    A line still being written is left for the next time; one that a killed Envoy broke off is skipped.
    """
    found: list[Record] = []
    for number, path in _files(current):
        if number < cursor.file:
            continue
        content = _from(path, cursor.offset if number == cursor.file else 0)
        if content is None or _numbered(current, number).exists() != (path != current):
            break  # turned over while we looked; the next reading sees it under its number
        whole = content[: content.rfind(b"\n") + 1]
        found += _parsed(whole)
        cursor = Cursor(number, len(whole) + (cursor.offset if number == cursor.file else 0))
    return found, cursor


def rotate(settings: EnvoySettings, max_bytes: int, keep: int) -> bool:
    """Turn the log over once it holds ``max_bytes``, keep the newest ``keep`` (at least 1) old ones; whether it did.

    Returns when Envoy writes the new file, so no line is lost. An Envoy that is down opens a new one at its start.
    """
    current = Layout.of(settings).records
    if not current.exists() or current.stat().st_size < max_bytes:
        return False
    old = _rotated(current)
    number = old[-1][0] + 1 if old else 1
    current.rename(_numbered(current, number))
    _reopen(settings, current)
    for _, path in old[: max(0, len(old) + 1 - max(1, keep))]:
        path.unlink(missing_ok=True)
    return True


def as_record(line: dict[str, Any]) -> Record:
    """One line of the log as a record; microseconds become seconds."""
    total_us, ttft_us = line["total_us"], line["ttft_us"]
    service = line["service"] or ""
    return Record(
        at=float(line["at"]),
        request_id=line["request_id"] or "",
        kind=line["kind"],
        service=service,
        version=_number(line["version"]),
        instance=line["instance"],
        client=line["client"],
        method=line["method"] or "",
        path=_engine_path(line["path"] or "", service),
        status=line["status"] or 0,
        flags=line["flags"] or "-",
        details=line["details"] or "",
        ttft_s=None if ttft_us is None else ttft_us / 1e6,
        # The end of an answer whose client had left was never sent; its length is then known to the millisecond.
        total_s=line["total_ms"] / 1e3 if total_us is None else total_us / 1e6,
        bytes_in=line["bytes_in"],
        bytes_out=line["bytes_out"],
        tokens_in=_number(line["tokens_in"]),
        tokens_out=_number(line["tokens_out"]),
        arm=_number(line["arm"]),
        attempts=line["attempts"] or 0,
        streamed=(line.get("content_type") or "").startswith("text/event-stream"),
    )


def _parsed(content: bytes) -> list[Record]:
    records = []
    for line in content.splitlines():
        try:
            records.append(as_record(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return records


def _files(current: Path) -> list[tuple[int, Path]]:
    """(number, path) of each file, oldest first, the current one last."""
    old = _rotated(current)
    return [*old, ((old[-1][0] if old else 0) + 1, current)]


def _rotated(current: Path) -> list[tuple[int, Path]]:
    matches = [(_NUMBERED.fullmatch(path.name), path) for path in current.parent.glob("records-*.jsonl")]
    return sorted((int(match.group(1)), path) for match, path in matches if match)


def _numbered(current: Path, number: int) -> Path:
    return current.with_name(f"records-{number}.jsonl")


def _from(path: Path, offset: int) -> bytes | None:
    try:
        with path.open("rb") as f:
            f.seek(offset)
            return f.read()
    except FileNotFoundError:
        return None


def _reopen(settings: EnvoySettings, current: Path) -> None:
    admin = Admin(Layout.of(settings).admin)
    deadline = time.monotonic() + _REOPEN_S
    try:
        admin.reopen_logs()
        while not current.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    except Unavailable:
        return
    finally:
        admin.close()


def _engine_path(path: str, service: str) -> str:
    """The path as the engine saw it; requests that were answered before still bear the service's prefix."""
    inner = path.removeprefix(f"{PREFIX}/{service}") if service else path
    return inner or "/"


def _number(value: str | float | None) -> int | None:
    return None if value is None else int(value)
