"""Envoy's tap filter: what it is asked for, and what its answer says. Pure.

The filter stands in both listeners, switched on by the routes of services that want call records, and is idle until
somebody holds ``POST /tap`` on the admin socket
(https://www.envoyproxy.io/docs/envoy/latest/operations/traffic_tapping). What is asked for is chosen inside Envoy, by
door and by share, so a request that no record is wanted of is never copied.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from gateway.filters import CALLS
from gateway.names import CLIENT_HEADER, MIRROR_HEADER, SERVICE_HEADER, VERSION_HEADER
from gateway.port import CallRecords, GatewayState
from gateway.routes import PREFIX

Doc = dict[str, Any]
#: Bytes that Envoy is asked for at least where rules are to be applied: before the cut, on the whole document.
REDACTED_BYTES = 1 << 18
#: Bytes beyond the bound at least, so that the cut never goes through the middle of what a rule would have found.
MARGIN_BYTES = 4096
_TAIL = 16**4  # the share is decided by the last four hexadecimal digits of the request's id
_HEX = "0123456789abcdef"

Address = tuple[str, int]


@dataclass(frozen=True)
class Origin:
    """Who listens on an address."""

    service: str
    version: int
    instance: str


@dataclass(frozen=True)
class Message:
    """A request or an answer as tapped: at most as many bytes as Envoy was asked for."""

    headers: dict[str, str]
    content: bytes
    cut: bool


@dataclass(frozen=True)
class Call:
    """One request with its answer, as tapped. It still holds secrets: nothing of it may be written as it is."""

    at: float
    kind: Literal["live", "mirror"]
    origin: Origin | None  # None: no instance was asked
    request: Message
    answer: Message

    @property
    def request_id(self) -> str:
        return self.request.headers.get("x-request-id", "")

    @property
    def service(self) -> str:
        """Who served it, or was to; empty where no instance was asked and no group chose."""
        return self.origin.service if self.origin else self.answer.headers.get(SERVICE_HEADER, "")

    @property
    def version(self) -> int | None:
        """Who served, as the answer says where the address does not."""
        told = self.answer.headers.get(VERSION_HEADER, "")
        return self.origin.version if self.origin else int(told) if told.isdecimal() else None

    def caller(self, doors: frozenset[str]) -> tuple[str, str]:
        """(door, client) of a live call; a web token's client bears no door in front. Empty for a copy."""
        told = self.request.headers.get(CLIENT_HEADER, "") if self.kind == "live" else ""
        door, slash, client = told.partition("/")
        return (door, client) if slash and door in doors else ("", told)


def wanted(state: GatewayState) -> dict[str, CallRecords]:
    """The services that want call records."""
    asked = {s.name: s.traffic.call_records for s in state.services}
    return {name: records for name, records in asked.items() if records is not None and records.percent > 0}


def tap_request(state: GatewayState, part: float = 1.0) -> Doc | None:
    """What to ask Envoy for; None where no service wants call records. ``part``: of each service's share only this."""
    services = wanted(state)
    if not services:
        return None
    percents = {name: records.percent * part for name, records in services.items()}
    doors = dict(percents)
    for group in state.groups:
        shares = [percents[m.service] for m in group.members if m.service in percents]
        if shares:
            doors[group.name] = max(shares)
    live = [_match(":path", f"{PREFIX}/{re.escape(door)}([/?].*)?", p) for door, p in doors.items()]
    grpc = [_match(SERVICE_HEADER, re.escape(door), p) for door, p in doors.items()]
    copies = [_match(MIRROR_HEADER, f"{re.escape(name)}@.*", p) for name, p in percents.items()]
    bound = max(asked_bytes(records) for records in services.values())
    output = {
        "sinks": [{"format": "JSON_BODY_AS_BYTES", "streaming_admin": {}}],
        "max_buffered_rx_bytes": bound,
        "max_buffered_tx_bytes": bound,
    }
    match = {"or_match": {"rules": [*live, *grpc, *copies]}}
    return {"config_id": CALLS, "tap_config": {"match": match, "output_config": output}}


def asked_bytes(records: CallRecords) -> int:
    """How much of each body Envoy is asked for."""
    if not records.redact:
        return records.max_body_bytes
    return max(records.max_body_bytes + MARGIN_BYTES, REDACTED_BYTES)


def _match(header: str, pattern: str, percent: float) -> Doc:
    headers = [_header_is(header, pattern)]
    if percent < 100:
        headers.append(_header_is("x-request-id", f".*({_below(_threshold(percent))})"))
    return {"http_request_headers_match": {"headers": headers}}


def _header_is(name: str, pattern: str) -> Doc:
    return {"name": name, "string_match": {"safe_regex": {"regex": pattern}}}


def sampled(request_id: str, percent: float) -> bool:
    """Whether this request is in the share; a live one and its copy bear one id, so both are or neither is."""
    if percent >= 100:
        return True
    tail = request_id[-4:]
    return bool(re.fullmatch("[0-9a-f]{4}", tail)) and int(tail, 16) < _threshold(percent)


def _threshold(percent: float) -> int:
    return max(1, round(percent / 100 * _TAIL))


def _below(threshold: int) -> str:
    """A regular expression for the four hexadecimal digits of numbers below ``threshold``.

    >>> _below(0x0290)
    '00[0-9a-f][0-9a-f]|01[0-9a-f][0-9a-f]|02[012345678][0-9a-f]'
    """
    if threshold >= _TAIL:
        return "[0-9a-f]{4}"
    digits = f"{threshold:04x}"
    lower = [_HEX[: _HEX.index(digit)] for digit in digits]
    choices = [digits[:i] + f"[{lower[i]}]" + "[0-9a-f]" * (3 - i) for i in range(4) if lower[i]]
    return "|".join(choices)


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages in ``buffer`` and the rest. A line that is only a brace ends one: none inside begins so."""
    *found, rest = buffer.split(b"\n}\n")
    return [message + b"\n}" for message in found], rest


def origins(state: GatewayState) -> dict[Address, Origin]:
    """Who listens where."""
    return {
        (endpoint.host, endpoint.port): Origin(service.name, backend.version, endpoint.instance)
        for service in state.services
        for backend in service.backends
        for endpoint in backend.endpoints
    }


def call_of(trace: Doc, known: dict[Address, Origin]) -> Call:
    """A message of the tap as a call. Raises KeyError, ValueError, TypeError for what is none."""
    tapped = trace["http_buffered_trace"]
    request = tapped["request"]
    downstream = tapped.get("downstream_connection") or {}
    kind = "mirror" if "envoy_internal_address" in (downstream.get("local_address") or {}) else "live"
    address = ((tapped.get("upstream_connection") or {}).get("remote_address") or {}).get("socket_address") or {}
    origin = known.get((address.get("address", ""), address.get("port_value", 0)))
    at = datetime.fromisoformat(request["headers_received_time"]).timestamp()
    return Call(at, kind, origin, _message(request), _message(tapped.get("response") or {}))


def _message(part: Doc) -> Message:
    headers = {h["key"]: h["value"] for h in part.get("headers") or []}
    body = part.get("body") or {}
    return Message(headers, base64.b64decode(body.get("as_bytes") or ""), bool(body.get("truncated")))
