"""One line of the access log a request: how Envoy writes it, and how it is read back. Pure.

Lines are tab-separated text, because that costs Envoy least, and Envoy escapes nothing in them. So the columns stand in
two parts. The front holds only what Envoy itself or our configuration makes; it is checked character by character, and
a line whose front is not right is no record (a killed Envoy may leave half a line, with the next one glued to it).
The tail holds what a client's or an engine's header says and may hold tabs: with one too many, all of it is unknown.
So nobody can forge a front, nor make his own record vanish. Header values never hold a line feed (RFC 9110, 5.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from gateway.names import CLIENT_HEADER, USAGE, arm_of, group_canary
from gateway.port import Record

Kind = Literal["L", "M"]
KINDS: Mapping[str, Literal["live", "mirror"]] = {"L": "live", "M": "mirror"}
_NUMBER = r"(?:([0-9]{1,15})|-)"  # missing is "-"
#: In (none where the engine does not know), out and, where it says it, cached.
_TOKENS = r"(?:([0-9]{0,9}),([0-9]{1,9})(?:,([0-9]{1,9}))?|[^\t\n]*)"
#: JSON, in which a tab is escaped; as it mostly is, else any other. "odd": the answer is no JSON (nor is any stream).
_COUNTS = (
    r'(?:-|\{(?:"cached":([0-9]{1,9}),)?(?:"in":([0-9]{1,9}),)?(?:"odd":1,)?"out":([0-9]{1,9})\}|(\{[^\t\n]{0,4000}\}))'
)
#: (name, Envoy's operator, what may stand there); the kind of record is written in place of its operator.
_FRONT = (
    ("at", "%START_TIME(%s.%3f)%", r"([0-9]{10}\.[0-9]{3})"),  # of one length: half of one and a whole one are too long
    ("kind", "", r"([LM])"),
    ("request_id", "%REQ(X-REQUEST-ID)%", r"([0-9a-f-]{36}|-)"),  # Envoy's own: it replaces a client's
    ("route", "%ROUTE_NAME%", r"([0-9A-Za-z@+/._-]{1,160})"),
    ("cluster", "%UPSTREAM_CLUSTER%", r"([0-9A-Za-z@+._-]{1,160})"),
    ("host", "%UPSTREAM_HOST_NAME%", r"([0-9A-Za-z@:._-]{1,160})"),
    ("status", "%RESPONSE_CODE%", r"([0-9]{1,3})"),
    ("flags", "%RESPONSE_FLAGS%", r"([A-Z,]{1,80}|-)"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", _NUMBER),
    ("bytes_in", "%BYTES_RECEIVED%", _NUMBER),
    ("bytes_out", "%BYTES_SENT%", _NUMBER),
    ("ttft_us", "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%", _NUMBER),
    ("total_us", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", _NUMBER),
    ("total_ms", "%DURATION%", _NUMBER),  # the only length known of a request that its client left
    ("grpc_status", "%GRPC_STATUS_NUMBER%", _NUMBER),  # of trailer or header; "-" for all but gRPC requests
    ("counts", f"%DYNAMIC_METADATA({USAGE})%", _COUNTS),
)
_TAIL = (
    ("client", f"%REQ({CLIENT_HEADER.upper()})%", r"([^\t\n]*)"),
    ("usage_trailer", "%TRAILER(X-USAGE)%", _TOKENS),
    ("usage_header", "%RESP(X-USAGE)%", _TOKENS),
    ("content_type", "%RESP(CONTENT-TYPE)%", r"([^\t\n]*)"),
)
COLUMNS: tuple[tuple[str, str], ...] = tuple((name, operator) for name, operator, _ in (*_FRONT, *_TAIL))
_LINE = re.compile(
    "^" + r"\t".join(p for *_, p in _FRONT) + r"\t(?:" + r"\t".join(p for *_, p in _TAIL) + "|[^\n]*)\n", re.MULTILINE
)
_ROUTE = re.compile(r"([a-z0-9][a-z0-9._-]*)/([a-z]+)(?:/(\d{1,4})/(\d{1,4}))?")
_GROUP = re.compile(r"([a-z0-9][a-z0-9._-]*)/group(?:/[a-z0-9][a-z0-9._-]*/\d{1,4})*")
_HOST = re.compile(r"v(\d{1,9})\.([\w.@-]+)", re.ASCII)
_COUNT = re.compile(r'"(cached|in|odd|out)":(\d{1,9})(?:\.0+)?[,}]')
_CLIENT = re.compile(r"[!-~]{1,128}")  # of a token a name of ours; of a JWT what its issuer says


def text_format(kind: Kind) -> str:
    """The whole ``inline_string`` of the access log: "L" in the public listener, "M" in the one for copies."""
    return "\t".join(operator or kind for _, operator in COLUMNS) + "\n"


def error_format(kind: Kind) -> dict[str, str]:
    """The ``json_format`` of the second log, for requests that went wrong: more of each, for people.

    JSON escapes what clients send. No query string: it may hold secrets. Lengths are bounded.
    """
    return {
        "at": "%START_TIME(%s.%6f)%",
        "kind": KINDS[kind],
        "request_id": "%REQ(X-REQUEST-ID)%",
        "route": "%ROUTE_NAME%",
        "client": f"%REQ({CLIENT_HEADER.upper()}):200%",
        "method": "%REQ(:METHOD):20%",
        "path": "%PATH(NQ):300%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "agent": "%REQ(USER-AGENT):200%",
    }


def parse(line: bytes | str) -> Record | None:
    """The record of one line, with or without its end; None for a line that is none."""
    text = line.decode("latin-1") if isinstance(line, bytes) else line
    records, _ = parse_all(text.removesuffix("\n") + "\n")
    return records[0] if len(records) == 1 else None


def parse_all(text: str) -> tuple[list[Record], int]:
    """The records of many whole lines, in their order, and how many lines were none.

    Microseconds become seconds. One expression reads all columns, names are looked up in caches, and tuples are made
    without ``Record``'s own constructor: together four times faster than a line at a time.
    """
    found = [_record(columns) for columns in _LINE.findall(text)]
    records = [record for record in found if record is not None]
    return records, text.count("\n") - len(records)


def _record(columns: tuple[str, ...]) -> Record | None:
    at, kind, request_id, route, cluster, host, status, flags, attempts, bytes_in, bytes_out = columns[:11]
    ttft, total, total_ms, grpc, cached_p, in_p, out_p, counts, client = columns[11:20]
    in_t, out_t, cached_t, in_h, out_h, cached_h, content_type = columns[20:]
    where = _where(kind, route, cluster, host)
    if where is None:
        return None
    door, service, name, arm, version, instance, canary, mirror = where
    cached, odd = cached_t if out_t else cached_h if out_h else cached_p, False
    if told := out_t or out_h or out_p:
        asked = in_t if out_t else in_h if out_h else in_p
        tokens_in, tokens_out, tokens_cached = (
            int(asked) if asked else None,
            int(told),
            int(cached) if cached else None,
        )
    else:
        tokens_in, tokens_out, tokens_cached, odd = _counts(counts)
    fields = (
        float(at),
        "" if request_id == "-" else request_id,
        KINDS[kind],
        door,
        service,
        name,
        arm,
        version,
        instance,
        client_name(client, door, status) if client else None,
        int(status),
        flags,
        int(attempts or 0),
        int(ttft) / 1e6 if ttft else None,
        int(total) / 1e6 if total else int(total_ms) / 1e3 if total_ms else None,
        int(bytes_in or 0),
        int(bytes_out or 0),
        tokens_in,
        tokens_out,
        content_type.startswith("text/event-stream"),
        canary,
        mirror,
        int(grpc) if grpc else None,
        odd and content_type.startswith("application/json"),
        tokens_cached,
    )
    return tuple.__new__(Record, fields)  # Record's own constructor would take half as long again


Where = tuple[str, str, str, int | None, int | None, str | None, int, int]


@lru_cache(4096)
def _where(kind: str, route: str, cluster: str, host: str) -> Where | None:
    """(door, service, route's kind, arm, version, instance, canary, mirror); None for what our names cannot say."""
    arm, served = arm_of(cluster), _HOST.fullmatch(host)
    if (arm is None and cluster != "-") or (served is None and host != "-"):
        return None
    version, instance = (int(served.group(1)), served.group(2)) if served else (None, None)
    if kind == "M":
        named = arm_of(route)
        if named is None or arm not in (named, None):
            return None
        return named[0], named[0], "mirror", named[1], version, instance, 0, 0
    door, name, canary, mirror = route_parts(route)
    if not door:
        return "", "", name, None, version, instance, 0, 0
    service, chosen = arm or ("" if name == "group" else door, None)
    if name == "group":
        canary = group_canary(route, service)
    return door, service, name, chosen, version, instance, canary, mirror


def route_parts(name: str) -> tuple[str, str, int, int]:
    """Door, kind, canary and mirror permille of a route's name; no door for a route that leads to none.

    >>> route_parts("chat/leased/50/500"), route_parts("health")
    (('chat', 'leased', 50, 500), ('', 'health', 0, 0))
    """
    found = _ROUTE.fullmatch(name)
    if found is None and (group := _GROUP.fullmatch(name)):
        return group.group(1), "group", 0, 0
    if found is None:
        return "", "" if name == "-" else name, 0, 0
    return found.group(1), found.group(2), int(found.group(3) or 0), int(found.group(4) or 0)


@lru_cache(4096)
def client_name(text: str, door: str, status: str) -> str | None:
    """The client's own name. Before authentication the header is only what somebody claims to be."""
    name = text.removeprefix(f"{door}/")
    known = status != "401" and name != text and _CLIENT.fullmatch(name)
    return name if known else None


@lru_cache(4096)
def _counts(text: str) -> tuple[int | None, int | None, int | None, bool]:
    """Tokens in, out and cached, and whether the answer could not be read."""
    found = {key: int(number) for key, number in _COUNT.findall(text)}
    return found.get("in"), found.get("out"), found.get("cached"), "odd" in found
