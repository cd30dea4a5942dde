"""``roundhouse records``: what requests did, one line each, or all of them in a row per version."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice, takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.durations import seconds
from cli.record_summary import Row, summary
from cli.screen import out, say
from configs.stack import load_stack
from gateway import records as log
from gateway.port import Record, Refusal
from gateway.refusals import chosen, has_status, last_refusals, read_refusals
from gateway.render import Layout
from rollout.errors import Refused

LOOK_S = 0.3
SLACK_S = 5.0  #: records stand in the order in which requests ended, but for what the proxy's threads hold back
_COLUMNS = ("time", "request id", "kind", "version", "instance", "client", "status", "flags", "TTFT", "total", "tokens")
_ERROR_COLUMNS = ("time", "request id", "kind", "client", "status", "flags", "request", "details", "agent")
_SUMMARY_COLUMNS = (
    *("version", "kind", "requests", "statuses", "cut", "client left"),
    *("TTFT p50 / p95", "total p50 / p95", "tokens/s"),
)


class Kind(StrEnum):
    """Which records."""

    LIVE = "live"
    MIRROR = "mirror"


@dataclass(frozen=True)
class Wanted:
    """Which records are shown; empty values let all pass."""

    service: str
    since: float = 0.0
    version: int = 0
    status: str = ""
    kind: str = ""

    def holds(self, record: Record) -> bool:
        """Whether ``record`` is one of them: answered by the service, or called at the door of that name."""
        return (
            self.service in (record.service, record.door)
            and record.at >= self.since
            and self.version in (0, record.arm, record.version)
            and self.kind in ("", record.kind)
            and has_status(record.status, self.status)
        )


def records(
    service: Annotated[str, typer.Argument(help="A service or a group, for example chat.")],
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as requests end.")] = False,
    since: Annotated[str, typer.Option("--since", help="Only of the last so long: 90s, 10m, 2h, 1d.")] = "",
    version: Annotated[int, typer.Option("--version", help="Only of this version.")] = 0,
    status: Annotated[str, typer.Option("--status", help="Only these: 5xx, 429, or 429,5xx.")] = "",
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only live requests, or only mirrored copies.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="What went wrong, with path, details, user agent.")] = False,
    totals: Annotated[
        bool, typer.Option("--summary", help="A row per version, of all that is kept or --since.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each, for a script.")] = False,
) -> None:
    """Show what requests to a service did, as the gateway recorded them. Never a token, a query string or a body.

    Example: `roundhouse records chat --since 10m --status 5xx` or `roundhouse records chat --summary --since 1h`
    """
    begin = time.time() - seconds("--since", since) if since else 0.0
    wanted = Wanted(service, begin, version, _checked(status), kind.value if kind else "")
    layout = Layout.of(load_stack().gateway())
    if errors and version:
        raise Refused("--version", version, "what went wrong is kept without a version", "leave it out, or --errors")
    if errors:
        _show_errors(layout.errors, wanted, last, follow, as_json)
    elif totals:
        _show_summary(summary(newest(layout.records, wanted)), service, as_json)
    else:
        _show_records(layout.records, wanted, last, follow, as_json)


def newest(path: Path, wanted: Wanted) -> Iterable[Record]:
    """The wanted records, the newest first; reading ends where older ones had ended before the time asked for."""
    recent = takewhile(lambda r: r.at + (r.total_s or 0.0) + SLACK_S >= wanted.since, log.newest_first(path))
    return (record for record in recent if wanted.holds(record))


def _checked(status: str) -> str:
    if status and not re.fullmatch(r"\d(xx|\d\d)(,\d(xx|\d\d))*", status):
        raise Refused("--status", status, "it is a status or a class, or some with commas", "give for example 429,5xx")
    return status


def _show_records(path: Path, wanted: Wanted, last: int, follow: bool, as_json: bool) -> None:
    cursor = log.end_of_records(path)
    found = list(islice(newest(path, wanted), last))[::-1]
    _show(found, wanted, as_json, follow)
    while follow:
        time.sleep(LOOK_S)
        fresh, cursor = log.read_records(path, cursor)
        _show([r for r in fresh if wanted.holds(r) and r not in found], wanted, as_json, follow, below=True)


def _show_errors(path: Path, wanted: Wanted, last: int, follow: bool, as_json: bool) -> None:
    cursor = log.end_of_records(path)
    wants = {"door": wanted.service, "status": wanted.status, "kind": wanted.kind}
    found = last_refusals(path, last, wanted.since, **wants)
    _show(found, wanted, as_json, follow)
    while follow:
        time.sleep(LOOK_S)
        fresh, cursor = read_refusals(path, cursor)
        _show([r for r in chosen(fresh, **wants) if r not in found], wanted, as_json, follow, below=True)


def _show_summary(rows: list[Row], service: str, as_json: bool) -> None:
    if as_json:
        sys.stdout.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    elif rows:
        _write([_SUMMARY_COLUMNS, *(summary_row(row) for row in rows)])
    else:
        say(f"no such record of {service}")


def _show(found: Sequence[Record | Refusal], wanted: Wanted, as_json: bool, more: bool, below: bool = False) -> None:
    """A line each, never folded, so that other programs can sift them; with a head unless they stand ``below`` one."""
    if as_json:
        for one in found:
            sys.stdout.write(json.dumps(one._asdict() if isinstance(one, Record) else asdict(one)) + "\n")
        sys.stdout.flush()
    elif found:
        head = _COLUMNS if isinstance(found[0], Record) else _ERROR_COLUMNS
        rows = [record_row(one) if isinstance(one, Record) else error_row(one) for one in found]
        _write(rows if below else [head, *rows])
    elif not more:
        say(f"no such record of {wanted.service}")


def _write(rows: Sequence[Sequence[Any]]) -> None:
    for text in aligned(rows):
        out.print(text, markup=False, soft_wrap=True)


def aligned(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Rows as lines, each column as wide as its longest cell."""
    cells = [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def record_row(record: Record) -> tuple[Any, ...]:
    """A record for a person: times in milliseconds, who was to answer where another one did, tokens in (of them
    cached) and out."""
    version = "" if record.version is None else f"v{record.version}"
    if record.arm not in (None, record.version):
        version = f"{version or '-'} for v{record.arm}"
    cached = f"({record.tokens_cached})" if record.tokens_cached else ""
    tokens = "" if record.tokens_out is None else f"{record.tokens_in or 0}{cached}+{record.tokens_out}"
    times = (_ms(record.ttft_s), _ms(record.total_s))
    who = (record.kind, version, record.instance, record.client)
    return (_clock(record.at), record.request_id, *who, record.status, record.flags, *times, tokens)


def error_row(refusal: Refusal) -> tuple[Any, ...]:
    """A refusal for a person; what a client sent is made harmless for a terminal."""
    who = (refusal.kind, refusal.client, refusal.status, refusal.flags)
    sent = (f"{refusal.method} {refusal.path}", refusal.details, refusal.agent)
    return (_clock(refusal.at), refusal.request_id, *who, *(_printable(text) for text in sent))


def summary_row(row: Row) -> tuple[Any, ...]:
    """A version's row for a person."""
    statuses = " ".join(f"{name}:{n}" for name, n in row.statuses.items())
    ttft, total = (
        f"{_ms(a)} / {_ms(b)}" for a, b in ((row.ttft_p50_s, row.ttft_p95_s), (row.total_p50_s, row.total_p95_s))
    )
    version = "none" if row.version is None else f"v{row.version}"
    rate = "" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}"
    return (version, row.kind, row.n, statuses, row.cut, row.client_left, ttft, total, rate)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%m-%d %H:%M:%S.%f")[:-3]


def _ms(length_s: float | None) -> str:
    return "-" if length_s is None else f"{length_s * 1000:.1f} ms"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
