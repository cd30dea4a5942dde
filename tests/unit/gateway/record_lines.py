"""Lines of the access log, made by column name."""

from __future__ import annotations

from gateway.record_line import COLUMNS

ID = "b847ddd5-8228-4958-85c5-3d71e4ebc6f0"
VALUES = {
    "at": "1795348406.272",
    "kind": "L",
    "request_id": ID,
    "route": "chat/leased/50/500",
    "cluster": "chat@v2+v1",
    "host": "v1.chat-v1-0",
    "status": "200",
    "flags": "-",
    "attempts": "2",
    "bytes_in": "89",
    "bytes_out": "5822",
    "ttft_us": "3563",
    "total_us": "9027110",
    "total_ms": "9027",
    "grpc_status": "-",
    "counts": "-",
    "client": "chat/alice",
    "usage_trailer": "11,7",
    "usage_header": "-",
    "content_type": "text/event-stream; charset=utf-8",
}


def line(**changes: str) -> str:
    """A whole line, with its end."""
    assert VALUES.keys() == {name for name, _ in COLUMNS} >= changes.keys()
    return "\t".join((VALUES | changes)[name] for name, _ in COLUMNS) + "\n"


def numbered(n: int, **changes: str) -> str:
    """A line whose request id ends with ``n``."""
    return line(request_id=f"{ID[:24]}{n:012d}", **changes)


def numbers(records) -> list[int]:
    """Those ends of the request ids."""
    return [int(r.request_id[24:]) for r in records]
