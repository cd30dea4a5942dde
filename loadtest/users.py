"""A virtual client of the OpenAI API over a raw gevent socket. Loaded by Locust alone, in its own process.

Locust's own HTTP clients spend 3 to 14 times as much on a streamed answer and report a TTFT that is wrong under load.
Arrival times are the kernel's (SO_TIMESTAMPNS), so a busy machine or a late event loop does not lengthen TTFT or TPOT.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable
from typing import ClassVar

import gevent
from locust import User, constant, task
from locust.exception import StopUser

from loadtest.meter import UNFINISHED, Meter
from loadtest.plans import path_of, request_bytes, target
from loadtest.port import LoadPlan
from loadtest.wire import BadAnswer, Body, Events, Head, read_head

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not name it
_READ = 65536
_PAUSE_S = 0.05  # after a failure, so that a server that is down is not asked 10000 times a second


class Connection:
    """One keep-alive connection; opened when needed, closed after anything odd."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._address, self._timeout_s = (host, port), timeout_s
        self._socket: socket.socket | None = None
        self._stamped: float | None = None

    def send(self, request: bytes) -> float:
        """Send it on an open connection; the epoch second at which it was handed to the socket."""
        sock = self._socket or self._open()
        self._stamped = None
        at = time.time()
        sock.sendall(request)
        return at

    def ready(self) -> None:
        """Open, or open anew if the server has closed it meanwhile, as every connection pool does."""
        if self._socket is not None:
            self._socket.settimeout(0)
            try:
                self._socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self._socket.settimeout(self._timeout_s)
                return
            except OSError:
                pass
            self.close()
        self._open()

    def receive(self) -> tuple[float, bytes]:
        """What came next and when (epoch s, by the kernel's clock); empty at the end of the connection."""
        assert self._socket is not None
        data, extra, _, _ = self._socket.recvmsg(_READ, 64)
        for level, kind, value in extra:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= 16:
                seconds, nanoseconds = struct.unpack("qq", value[:16])
                return seconds + nanoseconds / 1e9, data
        return time.time(), data

    def close(self) -> None:
        """Forget the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        sock = socket.create_connection(self._address, timeout=min(self._timeout_s, 5.0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.settimeout(self._timeout_s)
        self._socket = sock
        return sock


def ask(connection: Connection, request: bytes, on_tokens: Callable[[int], None]) -> Meter:
    """One request to its end. Never raises for what a server or a network can do: that is in the meter."""
    meter = Meter(time.time())
    try:
        connection.ready()
        meter.start = connection.send(request)
        _follow(connection, meter, on_tokens)
    except (OSError, BadAnswer) as error:
        connection.close()
        if not meter.ended:
            meter.error = meter.error or _why(error, meter)
    except gevent.GreenletExit:
        connection.close()
        meter.error = UNFINISHED
    return meter


def _follow(connection: Connection, meter: Meter, on_tokens: Callable[[int], None]) -> None:
    """Read one answer, head and body; leave the connection open only if it can carry the next request."""
    head, at, rest = _head(connection)
    meter.status = head.status
    body, events, whole = Body(head), Events(), []
    streams = head.status == 200 and head.fields.get("content-type", "").startswith("text/event-stream")
    while True:
        content = body.feed(rest)
        if streams:
            on_tokens(sum(meter.see(at, event) for event in events.feed(content)))
        else:
            whole.append(content)
        if body.done:
            break
        at, rest = connection.receive()
        if not rest:
            break
    if not streams and (body.done or not head.framed):
        meter.see_whole(at, b"".join(whole))
        on_tokens(meter.chunks)
    if not (body.done and head.keeps_alive):
        connection.close()


def _head(connection: Connection) -> tuple[Head, float, bytes]:
    """The head, when its last byte came, and what came after it."""
    data = b""
    while True:
        at, more = connection.receive()
        if not more:
            raise ConnectionResetError("closed before an answer")
        data += more
        if (found := read_head(data)) is not None:
            return found[0], at, found[1]


def _why(error: Exception, meter: Meter) -> str:
    """The class of an error, in few words and with nothing of the request in it."""
    if isinstance(error, TimeoutError):
        return "timeout" if meter.status else "timeout before an answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if meter.status == 200 and isinstance(error, ConnectionError):
        return "cut"
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)[:80]


class OpenAIUser(User):
    """Asks, waits for the whole answer, asks again: one request open at a time."""

    wait_time = constant(0)
    plan: ClassVar[LoadPlan]
    on_tokens: ClassVar[Callable[[int], None]]
    open_requests: ClassVar[int] = 0
    numbers: ClassVar = itertools.count()

    def on_start(self) -> None:
        """Each user has its own connection."""
        parts = target(self.plan.url)
        self.connection = Connection(parts.hostname or "", parts.port or 80, self.plan.timeout_s)

    def on_stop(self) -> None:
        """Close it."""
        self.connection.close()

    @task
    def ask(self) -> None:
        """Send the next request; the sample travels as the context of Locust's own request event."""
        kind = type(self)
        kind.open_requests += 1
        meter = ask(self.connection, request_bytes(self.plan, next(self.numbers)), kind.on_tokens)
        kind.open_requests -= 1
        sample = meter.sample()
        kind.on_tokens(sample["tokens"] - meter.chunks)
        self.environment.events.request.fire(
            request_type="POST",
            name=path_of(self.plan),
            response_time=(sample["e2e_s"] or 0.0) * 1000,
            response_length=sample["tokens"],
            exception=RuntimeError(sample["error"]) if sample["error"] else None,
            context=sample,
        )
        if sample["error"] == UNFINISHED:
            raise StopUser
        if sample["error"]:
            gevent.sleep(_PAUSE_S)
