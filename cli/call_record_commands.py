"""``roundhouse calls``: what was asked and answered, where a service keeps call records."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.screen import out, say, show_json, show_table
from configs.stack import load_stack
from gateway.calls import Body, CallRecord, call_files, calls_folder, calls_of, last_calls, new_calls
from gateway.port import Cursor, EnvoySettings, Record, open_gateway
from rollout.errors import NotFound
from rollout.limits import SERVICE_NAME

LOOK_S = 0.3


def calls(
    service: Annotated[str, typer.Argument(help="A service with call records, for example chat.")],
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 20,
    request_id: Annotated[str, typer.Option("--id", help="Show this request, its copies, and all bodies.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as calls come.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for a script; with --follow a line a call.")
    ] = False,
) -> None:
    """Show the recorded calls of a service: who was asked what, and the answer. Exit code 3: there are none.

    Example: `roundhouse calls chat -n 5` or `roundhouse calls chat --id 6f1c2a9e-8d1b-4d52-9a43-0f9b5d1c7e10`
    """
    if not re.fullmatch(SERVICE_NAME, service):
        raise NotFound(f"{service!r} is no service's name")
    settings = load_stack().gateway()
    folder = calls_folder(settings)
    if request_id:
        _show_one(settings, folder, service, request_id, as_json)
    elif follow:
        _follow(folder, service, as_json)
    else:
        _show_last(folder, service, last, as_json)


def _show_last(folder: Path, service: str, last: int, as_json: bool) -> None:
    found = last_calls(folder, service, last)
    if as_json:
        show_json([asdict(record) for record in found])
        return
    if not found:
        raise _none(folder, service)
    columns = ("time", "request id", "", "door", "client", "version", "status", "request", "answer")
    show_table("", columns, [_row(record) for record in found])


def _show_one(settings: EnvoySettings, folder: Path, service: str, request_id: str, as_json: bool) -> None:
    found = calls_of(folder, service, request_id)
    if not found:
        raise NotFound(f"no call record of {service!r} has the id {request_id!r}; it may be gone or was not sampled")
    records = _records_of(settings, request_id)
    if as_json:
        show_json([{**asdict(call), "record": _as_dict(_pair(call, records))} for call in found])
        return
    for call in found:
        _show_bodies(call, _pair(call, records))


def _follow(folder: Path, service: str, as_json: bool) -> None:
    if not as_json:
        say(f"calls of {service} as they come; Ctrl-C ends it")
    for records in new_calls(folder, service):
        for record in records:
            if as_json:
                sys.stdout.write(json.dumps(asdict(record)) + "\n")
                sys.stdout.flush()
            else:
                out.print("  ".join(str(cell) for cell in _row(record)), markup=False)
        time.sleep(LOOK_S)


def _none(folder: Path, service: str) -> NotFound:
    if call_files(folder, service):
        return NotFound(f"the call records of {service!r} hold no call yet")
    return NotFound(f"{service!r} has no call records; switch them on in its traffic settings (`call_records`)")


def _row(record: CallRecord) -> tuple[Any, ...]:
    at = datetime.fromtimestamp(record.at).strftime("%m-%d %H:%M:%S.%f")[:-3]
    version = "" if record.version is None else f"v{record.version}"
    status = "cut" if record.status is None else record.status
    sizes = (_size(record.request), _size(record.answer))
    return (at, record.request_id, record.kind, record.door, record.client, version, status, *sizes)


def _size(body: Body) -> str:
    marks = [mark for mark, holds in (("cut", body.cut), ("left out", body.text is None)) if holds]
    return " ".join([f"{body.bytes} B", *marks])


def _records_of(settings: EnvoySettings, request_id: str) -> list[Record]:
    """The request's own records, which hold its times and tokens; as long as those are kept."""
    gateway, cursor, found = open_gateway(settings), Cursor(), list[Record]()
    while True:
        records, after = gateway.records(cursor)
        found += [record for record in records if record.request_id == request_id]
        if after == cursor:
            return found
        cursor = after


def _pair(call: CallRecord, records: list[Record]) -> Record | None:
    same = [r for r in records if r.kind == call.kind and (call.kind == "live" or r.version == call.version)]
    return same[0] if same else None


def _as_dict(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record._asdict()


def _show_bodies(call: CallRecord, record: Record | None) -> None:
    show_table(f"{call.kind} call {call.request_id}", ("", ""), [(name, value) for name, value in _facts(call, record)])
    for name, body in (("request", call.request), ("answer", call.answer)):
        out.print(f"[bold]{name}[/] {_size(body)} {body.type}")
        shown = f"left out: {body.left_out}" if body.text is None else body.text
        out.print(shown + "\n", markup=False)


def _facts(call: CallRecord, record: Record | None) -> list[tuple[str, Any]]:
    at = datetime.fromtimestamp(call.at).isoformat(sep=" ", timespec="milliseconds")
    facts = [("at", at), ("door", call.door), ("client", call.client), ("version", call.version)]
    facts += [("instance", call.instance), ("call", f"{call.method} {call.path}"), ("status", call.status)]
    if record is not None:
        took = [(n, v) for n, v in (("TTFT", record.ttft_s), ("total", record.total_s)) if v is not None]
        facts += [(name, f"{value * 1000:.1f} ms") for name, value in took]
        facts.append(("tokens", f"{record.tokens_in} in, {record.tokens_out} out"))
    return [(name, value) for name, value in facts if value not in (None, "")]
