"""gRPC without its library: a server and a client of HTTP/2 frames, so that each frame's time and place is known."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Headers = list[tuple[str, str]]
SERVING = b"\0\0\0\0\2\x08\x01"  # a HealthCheckResponse with status SERVING, as one gRPC message


@dataclass
class Stream:
    """One call as the server saw it."""

    headers: dict[str, str]
    pieces: list[bytes] = field(default_factory=list)  # of the body, in the order of their coming
    ended: bool = False


@dataclass
class GrpcEcho:
    """Answers each message of a call at once with the same, and ends with trailers; healthy to who asks."""

    status: str = "0"
    calls: list[Stream] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        streams: dict[int, Stream] = {}
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                with contextlib.suppress(h2.exceptions.ProtocolError):  # the caller may have left
                    self._take(connection, streams, event)
            writer.write(connection.data_to_send())
            await writer.drain()

    def _take(self, connection: h2.connection.H2Connection, streams: dict[int, Stream], event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                streams[event.stream_id] = stream = Stream(dict(event.headers))
                if not stream.headers[":path"].startswith("/grpc.health."):
                    self.calls.append(stream)
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            case h2.events.DataReceived():
                stream = streams[event.stream_id]
                stream.pieces.append(event.data)
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                healthy = stream.headers[":path"].startswith("/grpc.health.")
                connection.send_data(event.stream_id, SERVING if healthy else event.data)
            case h2.events.StreamEnded():
                stream = streams[event.stream_id]
                stream.ended = True
                healthy = stream.headers[":path"].startswith("/grpc.health.")
                trailers = [("grpc-status", "0" if healthy else self.status), ("grpc-message", "as told")]
                connection.send_headers(event.stream_id, trailers, end_stream=True)


class Call:
    """A call by a client; each step waits for what it asks for."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        fixed = {":method": "POST", ":scheme": "http", ":authority": "gateway", ":path": path, "te": "trailers"}
        self._h2.send_headers(1, list({**fixed, "content-type": "application/grpc", **headers}.items()))
        self._flush()

    def say(self, data: bytes, last: bool = False) -> Call:
        """Send a piece of the body."""
        self._h2.send_data(1, data, end_stream=last)
        self._flush()
        return self

    def hear(self, size: int) -> bytes:
        """The answer's body once it has so many bytes."""
        while len(self.body) < size and not self.ended:
            self._read()
        return self.body

    def end(self) -> Call:
        """All of the answer."""
        while not self.ended:
            self._read()
        self._socket.close()
        return self

    def _read(self) -> None:
        data = self._socket.recv(65536)
        assert data, "the connection was closed inside the answer"
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    self.headers = dict(event.headers)
                case h2.events.TrailersReceived():
                    self.trailers = dict(event.headers)
                case h2.events.DataReceived():
                    self.body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, 1)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    self.ended = True
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())
