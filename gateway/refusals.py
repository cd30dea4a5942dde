"""The log of requests that went wrong, for people: what was asked, and why it was refused, failed or cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway import log_files
from gateway.names import arm_of
from gateway.port import Cursor, Refusal
from gateway.record_line import client_name, route_parts
from gateway.routes import PREFIX

Refusals = list[Refusal]


def last_refusals(errors: Path, most: int, since: float = 0.0, **wants: str) -> list[Refusal]:
    """The newest ``most`` refusals since ``since`` (epoch seconds), oldest first; ``wants`` as for ``chosen``."""
    found: list[Refusal] = []
    for content in log_files.newest_first(errors):
        batch = [r for line in reversed(content.splitlines()) if (r := parse(line)) is not None]
        found += [r for r in chosen(batch, **wants) if r.at >= since]
        if len(found) >= most or all(r.at < since for r in batch):
            break
    return found[:most][::-1]


def chosen(refusals: Iterable[Refusal], door: str = "", client: str = "", status: str = "", kind: str = "") -> Refusals:
    """Those of a door, client, kind and status (see ``has_status``), in their order; an empty value lets all pass."""
    return [
        r
        for r in refusals
        if door in ("", r.door) and client in ("", r.client) and kind in ("", r.kind) and has_status(r.status, status)
    ]


def read_refusals(errors: Path, cursor: Cursor) -> tuple[list[Refusal], Cursor]:
    """All refusals behind ``cursor``, oldest first, and the cursor behind them."""
    found: list[Refusal] = []
    for content, after in log_files.chunks(errors, cursor):
        found += [r for line in content.splitlines() if (r := parse(line)) is not None]
        cursor = after
    return found, cursor


def parse(line: bytes | str) -> Refusal | None:
    """One line of the log; None for one that is none (a killed Envoy may leave half a line)."""
    try:
        entry = json.loads(line)
        return _refusal(entry) if isinstance(entry, dict) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def has_status(status: int, wanted: str) -> bool:
    """Whether ``status`` is among ``wanted``, statuses and classes with commas between them; empty lets all pass.

    >>> has_status(503, "429,5xx"), has_status(404, "5xx"), has_status(200, "")
    (True, False, True)
    """
    return not wanted or any(str(status) == one or f"{status // 100}xx" == one for one in wanted.split(","))


def _refusal(entry: dict[str, Any]) -> Refusal:
    route, kind = entry["route"] or "-", entry["kind"]
    if kind not in ("live", "mirror"):
        raise ValueError(kind)
    door = route_parts(route)[0] if kind == "live" else (arm_of(route) or ("",))[0]
    status = int(entry["status"] or 0)
    path = entry["path"] or ""
    return Refusal(
        at=float(entry["at"]),
        request_id=entry["request_id"] or "",
        kind=kind,
        door=door,
        client=client_name(entry["client"] or "", door, str(status)),
        method=entry["method"] or "",
        path=(path.removeprefix(f"{PREFIX}/{door}") or "/") if door else path,  # as the engine sees it
        status=status,
        flags=entry["flags"] or "-",
        details=entry["details"] or "",
        agent=entry["agent"] or "",
    )
