"""Bytes from a socket to what an OpenAI server said: pure, incremental, and the same for any split of the bytes.

Three layers, each fed with whatever came: ``Head`` (RFC 9112 status line and fields), ``Body`` (chunked, by length,
or until close) and ``Events`` (server-sent events, data only). Tokens are recognised by scanning an event, not by
parsing it: inside a JSON string a quote is always escaped, so ``"text": "x`` can only be the key it looks like.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_TOKEN = re.compile(rb'"(?:text|content|reasoning_content|reasoning|arguments)"\s*:\s*"[^"]')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')
_COUNTS = re.compile(rb'"(?:usage|timings)"\s*:\s*\{')
MOST_HEAD = 65536  # bytes; a longer head is no answer of an HTTP server


class BadAnswer(ValueError):
    """The bytes are not HTTP as we know it."""


@dataclass(frozen=True)
class Head:
    """Status and fields (names in lower case) of one answer."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can carry a second request (RFC 9112, section 9.3; HTTP/1.1 only)."""
        return self.fields.get("connection", "").lower() != "close" and self.framed

    @property
    def framed(self) -> bool:
        """Whether the body says where it ends; otherwise it ends with the connection."""
        return self.chunked or "content-length" in self.fields

    @property
    def chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower().endswith("chunked")


def read_head(data: bytes) -> tuple[Head, bytes] | None:
    """The head and what follows it, or ``None`` while it is incomplete. Interim (1xx) answers are skipped."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MOST_HEAD:
            raise BadAnswer("no end of the head")
        return None
    first, *lines = data[:end].split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise BadAnswer("no HTTP status line")
    rest, status = data[end + 4 :], int(words[1])
    if 100 <= status < 200:
        return read_head(rest)
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    fields = {name.lower(): value.strip() for name, _, value in pairs}
    if words[0] == b"HTTP/1.0":
        fields.setdefault("connection", "close")
    return Head(status, fields), rest


class Body:
    """The content of one answer's body; ``done`` once its end was seen."""

    def __init__(self, head: Head) -> None:
        self.done = False
        self._rest = b""
        self._chunked = head.chunked
        self._state = "size"
        self._left = -1
        if not self._chunked and head.framed:
            self._left = _length(head.fields["content-length"], 10)
            self.done = self._left == 0

    def feed(self, data: bytes) -> bytes:
        """The content in ``data``. Bytes after the end are dropped: one request is open at a time."""
        if self._chunked:
            return self._unchunk(data)
        if self._left < 0:
            return data
        content = data[: self._left]
        self._left -= len(content)
        self.done = self._left == 0
        return content

    def _unchunk(self, data: bytes) -> bytes:
        """Chunked transfer coding, RFC 9112 section 7.1: hexadecimal size line, that many bytes, CR LF, again."""
        self._rest += data
        content: list[bytes] = []
        while not self.done:
            if self._state == "data":
                content.append(self._rest[: self._left])
                self._rest, self._left = self._rest[self._left :], self._left - len(content[-1])
                if self._left:
                    break
                self._state = "end"
            elif self._state == "end":
                if len(self._rest) < 2:
                    break
                if not self._rest.startswith(b"\r\n"):
                    raise BadAnswer("chunk does not end with CR LF")
                self._rest, self._state = self._rest[2:], "size"
            elif not self._line():
                break
        return b"".join(content)

    def _line(self) -> bool:
        """Take one line, a chunk's size or a trailer; whether there was one."""
        line, mark, after = self._rest.partition(b"\r\n")
        if not mark:
            return False
        self._rest = after
        if self._state == "trailer":
            self.done = not line
        else:
            self._left = _length(line.partition(b";")[0].decode("latin-1"), 16)
            self._state = "data" if self._left else "trailer"
        return True


def _length(text: str, base: int) -> int:
    """A length, refused unless it is plain digits: ``int`` also takes signs, spaces and underscores."""
    if not re.fullmatch(r"[0-9a-fA-F]+" if base == 16 else r"[0-9]+", text.strip()):
        raise BadAnswer("no length where one must be")
    return int(text, base)


class Events:
    """Server-sent events (WHATWG HTML, section 9.2): the data of each event; comments and other fields dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        events = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


def has_token(event: bytes) -> bool:
    """Whether an event (or a whole answer) carries a non-empty piece of text, reasoning or tool call."""
    return _TOKEN.search(event) is not None


def has_counts(event: bytes) -> bool:
    """Whether it carries the numbers of tokens."""
    return _COUNTS.search(event) is not None


def error_in(event: bytes) -> str | None:
    """The message of an error object, ``None`` where there is none; at most 80 characters, on one line."""
    if _ERROR.search(event) is None:
        return None
    answer = _object(event)
    error = answer.get("error") or (answer if answer.get("object") == "error" else None)
    if not error:
        return None
    message = error.get("message") or error.get("type") if isinstance(error, dict) else error
    return " ".join(str(message).split())[:80]


def tokens_in(event: bytes) -> int | None:
    """Output tokens: ``usage.completion_tokens`` (OpenAI) or ``timings.predicted_n`` (llama.cpp), else ``None``."""
    answer = _object(event)
    for group, key in (("usage", "completion_tokens"), ("timings", "predicted_n")):
        numbers = answer.get(group)
        if isinstance(numbers, dict) and isinstance(numbers.get(key), int):
            return int(numbers[key])
    return None


def _object(event: bytes) -> dict:
    try:
        answer = json.loads(event)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
