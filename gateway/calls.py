"""Call records on disk: what is written of a request and its answer, where, and how it is read back.

One folder for all, a run of files per service: ``calls/chat.jsonl`` is being written, ``chat.7.jsonl`` was turned over.
They hold what people wrote, so only the gateway's user can read them, and they never mix with the records of requests.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.port import CallRecords, EnvoySettings
from gateway.redact import Unclear, compiled, readable, redacted
from gateway.routes import PREFIX
from gateway.tap import Call, Message

SERVICE_BYTES = 64 << 20  #: of one service's call records on disk; beyond them the oldest file goes
FILES = 4  #: files per service, the one being written included
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


@dataclass(frozen=True)
class Body:
    """What was kept of one body. ``text`` is None where it was left out, for the reason in ``left_out``."""

    text: str | None
    bytes: int  # of the body as it came, as far as it is known; the text may be shorter
    type: str = ""  # its content type
    cut: bool = False
    base64: bool = False  # the text is base64, for it was none
    left_out: str = ""


@dataclass(frozen=True)
class CallRecord:
    """One request with its answer, redacted. ``request_id`` is that of the request's records."""

    at: float
    request_id: str
    kind: Literal["live", "mirror"]
    door: str  # the service or group that was called; empty for a copy
    service: str
    version: int | None
    instance: str | None
    client: str
    method: str
    path: str  # as the engine saw it, without its query
    agent: str
    status: int | None  # None: the client left before there was an answer
    request: Body
    answer: Body


def calls_folder(settings: EnvoySettings) -> Path:
    """Where the call records of all services lie."""
    return Path(settings.directory).absolute() / "calls"


def record_of(call: Call, service: str, asked: CallRecords, doors: frozenset[str]) -> CallRecord:
    """What is kept of ``call``. Of the headers only the named ones, whatever else there may be."""
    door, client = call.caller(doors)
    door = door or (service if call.kind == "live" else "")
    headers, status = call.request.headers, call.answer.headers.get(":status", "")
    return CallRecord(
        at=call.at,
        request_id=call.request_id,
        kind=call.kind,
        door=door,
        service=service,
        version=call.version,
        instance=call.origin.instance if call.origin else None,
        client=client,
        method=headers.get(":method", ""),
        path=headers.get(":path", "").partition("?")[0].removeprefix(f"{PREFIX}/{door}"),
        agent=headers.get("user-agent", ""),
        status=int(status) if status.isdecimal() else None,
        request=kept(call.request, asked),
        answer=kept(call.answer, asked),
    )


def kept(message: Message, asked: CallRecords) -> Body:
    """What is kept of one body: redacted, then cut to the bound."""
    kind, rules = message.headers.get("content-type", ""), compiled(asked.redact)
    known = message.headers.get("content-length", "")
    size = max(len(message.content), int(known) if known.isdecimal() else 0)
    encoding = message.headers.get("content-encoding", "identity")
    text = readable(message.content, not message.cut) if encoding == "identity" else None
    if text is None:
        if rules:
            return Body(None, size, kind, message.cut, left_out="not plain text, so nothing can be redacted in it")
        content = message.content[: asked.max_body_bytes]
        cut = message.cut or len(content) < len(message.content)
        return Body(base64.b64encode(content).decode(), size, kind, cut, base64=True)
    try:
        clean = redacted(text, kind, not message.cut, rules)
    except Unclear as reason:
        return Body(None, size, kind, message.cut, left_out=str(reason))
    bounded = readable(clean.encode("utf-8", "replace")[: asked.max_body_bytes], False) or ""
    return Body(bounded, size, kind, message.cut or len(bounded) < len(clean))


def as_line(record: CallRecord) -> bytes:
    """A record as one line of its file."""
    text = json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def from_line(line: bytes) -> CallRecord | None:
    """The record in a line; None for one that a killed writer broke off."""
    try:
        doc: dict[str, Any] = json.loads(line)
        return CallRecord(**{**doc, "request": Body(**doc["request"]), "answer": Body(**doc["answer"])})
    except (ValueError, TypeError, KeyError):
        return None


class CallFiles:
    """The files of all services, written by one process."""

    def __init__(self, folder: Path, service_bytes: int = SERVICE_BYTES) -> None:
        self._folder, self._file_bytes = folder, service_bytes // FILES

    def append(self, service: str, lines: list[bytes]) -> None:
        """Write whole lines, turning the file over where it would grow too large. Raises OSError: none is written."""
        content = b"".join(lines)
        self._folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        path = self._folder / f"{service}.jsonl"
        if path.exists() and path.stat().st_size + len(content) > self._file_bytes:
            self._turn_over(path, service)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _PRIVATE_FILE)
        try:
            size = os.fstat(handle).st_size
            broken = size and os.pread(handle, 1, size - 1) != b"\n"  # a killed writer's half line stays by itself
            _write(handle, b"\n" + content if broken else content, size)
        finally:
            os.close(handle)

    def _turn_over(self, path: Path, service: str) -> None:
        old = _numbered(self._folder, service)
        path.rename(path.with_name(f"{service}.{old[-1][0] + 1 if old else 1}.jsonl"))
        for _, oldest in old[: max(0, len(old) + 2 - FILES)]:
            oldest.unlink(missing_ok=True)


def _write(handle: int, content: bytes, size: int) -> None:
    """All of it or, on a full disk, nothing."""
    written = 0
    try:
        while written < len(content):
            written += os.write(handle, content[written:])
    except OSError:
        os.ftruncate(handle, size)
        raise


def call_files(folder: Path, service: str) -> list[Path]:
    """The files of a service's call records, oldest first; the last is being written."""
    current = folder / f"{service}.jsonl"
    return [*(path for _, path in _numbered(folder, service)), *([current] if current.exists() else [])]


def last_calls(folder: Path, service: str, count: int) -> list[CallRecord]:
    """The newest ``count`` call records of a service, oldest first."""
    found: list[CallRecord] = []
    for path in reversed(call_files(folder, service)):
        if len(found) >= count:
            break
        found = [*_records(path), *found]
    return found[-count:] if count else []


def calls_of(folder: Path, service: str, request_id: str) -> list[CallRecord]:
    """The call records of one request: the live one, and those of its copies."""
    needle = json.dumps(request_id).encode()
    lines = (line for path in call_files(folder, service) for line in _lines(path) if needle in line)
    return [r for r in map(from_line, lines) if r is not None and r.request_id == request_id]


def new_calls(folder: Path, service: str) -> Iterator[list[CallRecord]]:
    """What was written since the last step, from now on, a step each time it is asked for; never ends."""
    path = folder / f"{service}.jsonl"
    file, rest = path.open("rb") if path.exists() else None, b""
    if file:
        file.seek(0, os.SEEK_END)
    while True:
        if file is None:
            file = path.open("rb") if path.exists() else None
        turned_over = file is not None and not _same(file.fileno(), path)
        content = rest + (file.read() if file else b"")
        *lines, rest = content.split(b"\n")
        yield [r for r in map(from_line, lines) if r is not None]
        if file is not None and turned_over:
            file.close()
            file, rest = None, b""


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _records(path: Path) -> list[CallRecord]:
    return [r for r in map(from_line, _lines(path)) if r is not None]


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return []  # turned over and gone while we looked


def _numbered(folder: Path, service: str) -> list[tuple[int, Path]]:
    name = re.compile(re.escape(service) + r"\.(\d+)\.jsonl")
    matches = [(name.fullmatch(path.name), path) for path in folder.glob(f"{service}.*.jsonl")]
    return sorted((int(match.group(1)), path) for match, path in matches if match)
