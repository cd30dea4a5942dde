"""The records of requests: read on from a cursor, or backwards from the newest; turned over when the log grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway import log_files
from gateway.port import Cursor, EnvoySettings, Record
from gateway.record_line import parse_all
from gateway.render import Layout
from gateway.slots import admins


class Batch(NamedTuple):
    """A stretch of the log. ``skipped`` lines were no records: a killed Envoy broke them off, or somebody forged."""

    records: list[Record]
    cursor: Cursor  # behind them
    skipped: int


def batches(current: Path, cursor: Cursor) -> Iterator[Batch]:
    """All records behind ``cursor``, oldest first, some thousand at a time, so that any log fits into memory."""
    for content, after in log_files.chunks(current, cursor):
        records, skipped = parse_all(content.decode("latin-1"))
        yield Batch(records, after, skipped)


def read_records(current: Path, cursor: Cursor) -> tuple[list[Record], Cursor]:
    """All records behind ``cursor`` in one list, oldest first, and the cursor behind them."""
    found: list[Record] = []
    for batch in batches(current, cursor):
        found += batch.records
        cursor = batch.cursor
    return found, cursor


def newest_first(current: Path) -> Iterator[Record]:
    """Records in the order in which they ended, the last one first."""
    for content in log_files.newest_first(current):
        yield from reversed(parse_all(content.decode("latin-1"))[0])


def end_of_records(current: Path) -> Cursor:
    """Where the records end now, without reading them."""
    return log_files.end_of(current)


def rotate(settings: EnvoySettings, max_bytes: int, keep: int) -> bool:
    """Turn the records and the log of errors over where they hold ``max_bytes``; whether any was."""
    layout = Layout.of(settings)
    return log_files.turn_over((layout.records, layout.errors), lambda: admins(layout), max_bytes, keep)
