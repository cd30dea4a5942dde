"""The stream of a tap: read in a thread of its own, as fast as Envoy writes it, into an inbox that is bounded."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway import files
from gateway.tap import split

INBOX_BYTES = 8 << 20  # held in memory until they are written
READ_BYTES = 1 << 18
MESSAGE_COST = 2048  # bytes that a message counts beside its own, for the work of making it
MAX_BACKOFF_S = 5.0
log = logging.getLogger("roundhouse.calls")


class Inbox:
    """Messages on their way from the reader to the writer, bounded in bytes: a full one drops what comes."""

    def __init__(self, max_bytes: int = INBOX_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._messages: deque[bytes] = deque()
        self._change = threading.Condition()
        self.dropped = self.bytes_in = 0

    def put(self, messages: list[bytes]) -> None:
        """Take what there is room for; never waits."""
        with self._change:
            for message in messages:
                self.bytes_in += len(message) + MESSAGE_COST
                if self._messages and self._bytes + len(message) > self._max_bytes:
                    self.dropped += 1
                    continue
                self._messages.append(message)
                self._bytes += len(message)
            self._change.notify()

    def take(self, max_bytes: int, timeout_s: float) -> list[bytes]:
        """Messages of about ``max_bytes``, at least one; none after ``timeout_s`` seconds without any."""
        taken, size = [], 0
        with self._change:
            self._change.wait_for(lambda: bool(self._messages), timeout_s)
            while self._messages and size < max_bytes:
                taken.append(self._messages.popleft())
                size += len(taken[-1])
            self._bytes -= size
        return taken


class Tap:
    """The stream from Envoy's admin socket, in a thread of its own; it comes back whenever it ends."""

    def __init__(self, admin: Path, inbox: Inbox) -> None:
        self._admin, self._inbox = admin, inbox
        self._asked: tuple[bytes, object] | None = None
        self._change = threading.Condition()
        self._socket: socket.socket | None = None
        self.calm = threading.Event()  # all that Envoy wrote is read
        threading.Thread(target=self._hold, name="tap", daemon=True).start()

    def ask(self, request: dict[str, Any] | None, envoy: object) -> None:
        """Ask for this from now on; None for nothing. ``envoy``: whose admin socket it is; another one's is new."""
        asked = None if request is None else (files.as_json(request), envoy)
        with self._change:
            if asked == self._asked:
                return
            self._asked = asked
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._change.notify()

    def _hold(self) -> None:
        backoff_s = 0.0
        while True:
            with self._change:
                self._change.wait_for(lambda: self._asked is not None)
            began = time.monotonic()
            try:
                self._read()
            except (OSError, http.client.HTTPException) as error:
                backoff_s = _longer(backoff_s) if time.monotonic() - began < MAX_BACKOFF_S else _longer(0.0)
                if backoff_s == _longer(0.0):  # told once, not at each try
                    log.info("the tap ended, and is asked for again: %s", error)
                time.sleep(backoff_s)

    def _read(self) -> None:
        """Hold the tap until it ends or another is asked for."""
        with contextlib.closing(_Stream(self.calm)) as stream:
            stream.connect(str(self._admin))
            with self._change:
                self._socket, asked = stream, self._asked
            try:
                for messages in _messages(stream, asked[0] if asked else b""):
                    self._inbox.put(messages)
                raise ConnectionResetError("Envoy ended it")
            except (OSError, http.client.HTTPException):
                if asked == self._asked:  # else it was shut down for what is asked for now
                    raise
            finally:
                self._let_go(stream)

    def _let_go(self, stream: socket.socket) -> None:
        with self._change:
            self._socket = None
        self.calm.set()
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)


def _longer(backoff_s: float) -> float:
    return min(MAX_BACKOFF_S, backoff_s * 2 or 0.05)


class _Stream(socket.socket):
    """Says whether there is something to be read; room for much at once, for each read costs a turn of the threads."""

    def __init__(self, calm: threading.Event) -> None:
        super().__init__(socket.AF_UNIX)
        self._calm = calm

    def makefile(self, mode: str = "r", buffering: int | None = None, **more: Any) -> Any:  # type: ignore[override]
        return super().makefile(mode, READ_BYTES, **more)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._calm.set()
            return super().recv_into(buffer, nbytes, flags)
        finally:
            self._calm.clear()


def _messages(stream: socket.socket, asked: bytes) -> Iterator[list[bytes]]:
    """The whole messages of each read, until Envoy or ``shutdown`` ends the stream. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("admin")
    connection.sock = stream
    connection.request("POST", "/tap", asked)
    answer = connection.getresponse()
    if answer.status != 200:
        raise ConnectionRefusedError(f"Envoy refused the tap: {answer.read(500)!r}")
    rest = b""
    while content := answer.read1(READ_BYTES):
        found, rest = split(rest + content)
        yield found
    raise ConnectionResetError("Envoy ended it")
