"""Call records: what Envoy is asked for, what becomes of its answer, and the files."""

from __future__ import annotations

import base64
import json
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.calls import (
    Body,
    CallFiles,
    CallRecord,
    as_line,
    call_files,
    calls_of,
    from_line,
    last_calls,
    new_calls,
    record_of,
)
from gateway.port import Backend, CallRecords, Endpoint, GatewayState, GroupRoute, Member, ServiceRoute, Traffic
from gateway.recorder import LEAST_PART, MOST_BYTES_S, Share, next_part
from gateway.tap import call_of, origins, sampled, split, tap_request, wanted
from gateway.tap_stream import Inbox

ALL = CallRecords()
DOORS = frozenset({"chat", "prod"})


def a_service(name: str = "chat", records: CallRecords | None = ALL) -> ServiceRoute:
    """A service with one instance of version 2."""
    backend = Backend(2, (Endpoint(f"{name}-v2-0", "127.0.0.1", 9001),))
    return ServiceRoute(name, (), (backend,), 2, traffic=Traffic(call_records=records))


def a_trace(**changes: Any) -> dict[str, Any]:
    """A message of the tap, as Envoy 1.40 writes it."""
    given = {
        "request": b'{"prompt": "hi"}',
        "answer": b'{"text": "ho"}',
        "client": "chat/alice",
        "listener": {"socket_address": {"address": "127.0.0.1", "port_value": 8800}},
        "port": 9001,
        "cut": False,
        "type": "application/json",
        **changes,
    }
    request = {
        ":method": "POST",
        ":path": "/v1/completions?key=in-the-query",
        "user-agent": "curl",
        "cookie": "session=in-the-cookie",
        "x-api-key": "in-a-header",
        "x-request-id": "8e2c-01ff",
        "x-client-id": given["client"],
        "content-type": given["type"],
    }
    answer = {":status": "200", "content-type": given["type"], "set-cookie": "in-the-answer"}
    return {
        "http_buffered_trace": {
            "request": {
                **_part(request, given["request"], given["cut"]),
                "headers_received_time": "2026-11-22T17:17:03.5Z",
            },
            "response": _part(answer, given["answer"], given["cut"]),
            "downstream_connection": {"local_address": given["listener"]},
            "upstream_connection": {
                "remote_address": {"socket_address": {"address": "127.0.0.1", "port_value": given["port"]}}
            },
        }
    }


def _part(headers: dict[str, str], content: bytes, cut: bool) -> dict[str, Any]:
    listed = [{"key": key, "value": value, "raw_value": ""} for key, value in headers.items()]
    return {
        "headers": listed,
        "body": {"as_bytes": base64.b64encode(content).decode(), "truncated": cut},
        "trailers": [],
    }


def a_record(asked: CallRecords = ALL, **changes: Any) -> CallRecord:
    """The record of a trace."""
    call = call_of(a_trace(**changes), origins(GatewayState((a_service(),))))
    return record_of(call, "chat", asked, DOORS)


def test_nothing_is_asked_for_where_nobody_wants_records() -> None:
    """Without a wish, or with a share of 0, the tap stays idle."""
    assert tap_request(GatewayState((a_service(records=None), a_service("b", CallRecords(percent=0))))) is None


def test_the_doors_of_a_service_are_matched_exactly() -> None:
    """Its own path and those of its groups, but no service whose name only begins like it."""
    state = GatewayState(
        (a_service(), a_service("chat2", None)),
        (GroupRoute("prod", (), (Member("chat", 1),)), GroupRoute("other", (), (Member("chat2", 1),))),
    )
    patterns = _patterns(tap_request(state), ":path")
    paths = ["/api/predict/chat", "/api/predict/chat/v1?x=1", "/api/predict/chat?x=1", "/api/predict/prod/v1"]
    assert all(any(p.fullmatch(path) for p in patterns) for path in paths)
    for path in ("/api/predict/chat2/v1", "/api/predict/other/", "/api/predict/chatter", "/x/api/predict/chat"):
        assert not any(p.fullmatch(path) for p in patterns), path
    copies = _patterns(tap_request(state), "x-roundhouse-mirror")
    assert any(p.fullmatch("chat@v2") for p in copies) and not any(p.fullmatch("chat2@v2") for p in copies)


def _patterns(request: dict[str, Any] | None, header: str) -> list[re.Pattern[str]]:
    assert request is not None
    rules = [r["http_request_headers_match"]["headers"] for r in request["tap_config"]["match"]["or_match"]["rules"]]
    return [re.compile(h["string_match"]["safe_regex"]["regex"]) for rule in rules for h in rule if h["name"] == header]


@pytest.mark.parametrize("percent", [0.001, 0.1, 1.0, 12.5, 50.0, 99.9])
def test_envoy_and_the_recorder_choose_the_same_requests(percent: float) -> None:
    """The expression given to Envoy holds for just the ids that the recorder counts in, as many as the share says."""
    state = GatewayState((a_service(records=CallRecords(percent=percent)),))
    pattern = _patterns(tap_request(state), "x-request-id")[0]
    ids = [f"c83899b7-1706-48b0-a729-b2e15728{tail:04x}" for tail in range(0, 65536, 7)]
    chosen = [i for i in ids if sampled(i, percent)]
    assert chosen == [i for i in ids if pattern.fullmatch(i)]
    assert abs(len(chosen) / len(ids) - percent / 100) < 0.001


def test_the_largest_bound_is_asked_for() -> None:
    """One bound holds for all in Envoy; with rules there is room to redact before the cut."""
    plain = tap_request(GatewayState((a_service(records=CallRecords(max_body_bytes=10)), a_service("b"))))
    assert plain is not None and plain["tap_config"]["output_config"]["max_buffered_tx_bytes"] == 65536
    state = GatewayState((a_service(records=CallRecords(max_body_bytes=10, redact=("a",))),))
    redacting = tap_request(state)
    assert redacting is not None and redacting["tap_config"]["output_config"]["max_buffered_rx_bytes"] > 65536


def test_messages_are_split_at_their_own_ends() -> None:
    """A message that has not wholly come waits for the rest."""
    one = json.dumps({"a": {"b": 1}}, indent=1).encode()
    found, rest = split(one + b"\n" + one + b"\n" + one[:9])
    assert [json.loads(m) for m in found] == [{"a": {"b": 1}}] * 2 and rest == one[:9]


def test_a_live_call_bears_its_door_client_and_server() -> None:
    """The door from the client's id, the version and instance from the address that was asked."""
    record = a_record(client="prod/bob")
    assert (record.kind, record.door, record.client) == ("live", "prod", "bob")
    assert (record.service, record.version, record.instance) == ("chat", 2, "chat-v2-0")
    assert (record.method, record.path, record.status) == ("POST", "/v1/completions", 200)
    assert (record.request.text, record.answer.text) == ('{"prompt": "hi"}', '{"text": "ho"}')


def test_a_copy_is_told_from_a_live_call_by_its_listener() -> None:
    """No header can make a live call look like a copy."""
    record = a_record(listener={"envoy_internal_address": {"server_listener_name": "mirror"}}, client="")
    assert (record.kind, record.door, record.client, record.version) == ("mirror", "", "", 2)


def test_the_client_of_a_web_token_has_no_door_in_front() -> None:
    """Its subject is kept whole, even with a slash in it."""
    record = a_record(client="realm/ann")
    assert (record.door, record.client) == ("chat", "realm/ann")


def test_no_header_but_the_named_ones_is_kept() -> None:
    """Cookies, keys under any name and the query never reach the disk."""
    line = as_line(a_record())
    for secret in (b"in-the-query", b"in-the-cookie", b"in-a-header", b"in-the-answer"):
        assert secret not in line


def test_a_body_is_redacted_before_it_is_cut() -> None:
    """So a bound that goes through the document does not spare what a rule names."""
    body = json.dumps({"password": "hunter2", "text": "x" * 100}).encode()
    record = a_record(CallRecords(max_body_bytes=40, redact=("password",)), request=body, answer=body)
    assert record.request.text is not None and record.request.text.startswith('{"password": "***", "text": "xxx')
    assert len(record.request.text) == 40 and record.request.cut and record.request.bytes == len(body)


def test_a_body_that_cannot_be_redacted_is_left_out_and_marked() -> None:
    """Never raw: no JSON, no text, or compressed."""
    asked = CallRecords(redact=("password",))
    for body in (b"password=hunter2", b"\xff\xfehunter2"):
        kept = a_record(asked, request=body).request
        assert kept.text is None and kept.left_out


def test_bytes_that_are_no_text_are_kept_as_base64() -> None:
    """Marked so, and bounded before they are encoded."""
    kept = a_record(CallRecords(max_body_bytes=3), request=b"\xff\xfe\x00\x01").request
    assert kept.base64 and kept.cut and base64.b64decode(kept.text or "") == b"\xff\xfe\x00"


def test_a_lone_surrogate_in_a_document_does_not_stop_the_writer() -> None:
    """JSON may spell what UTF-8 cannot."""
    record = a_record(CallRecords(redact=("x",)), request=b'{"a": "\\ud800"}')
    assert from_line(as_line(record)) is not None


def test_files_are_private_bounded_and_read_back_in_order(tmp_path: Path) -> None:
    """The oldest go when a service has its share of the disk; nobody else can read them."""
    folder = tmp_path / "calls"
    writing = CallFiles(folder, service_bytes=20_000)
    for n in range(200):
        writing.append("chat", [as_line(replace(a_record(), request_id=f"r{n}"))])
    writing.append("chat-2", [as_line(a_record())])
    files = call_files(folder, "chat")
    assert len(files) == 4 and sum(f.stat().st_size for f in files) <= 20_000
    assert folder.stat().st_mode & 0o777 == 0o700 and {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert [r.request_id for r in last_calls(folder, "chat", 12)] == [f"r{n}" for n in range(188, 200)]
    assert [r.request_id for r in calls_of(folder, "chat", "r199")] == ["r199"]
    assert len(call_files(folder, "chat-2")) == 1


def test_a_broken_line_costs_only_itself(tmp_path: Path) -> None:
    """A writer killed amid a line: the next one begins a line of its own."""
    writing = CallFiles(tmp_path)
    writing.append("chat", [as_line(a_record())])
    with (tmp_path / "chat.jsonl").open("ab") as f:
        f.write(b'{"at": 1, "requ')
    writing.append("chat", [as_line(a_record())])
    assert len(last_calls(tmp_path, "chat", 10)) == 2


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """What was not wholly written is taken back, the failure is told, and writing goes on once there is room."""
    writing, line = CallFiles(tmp_path), as_line(a_record())
    writing.append("chat", [line])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 10, before[1]))  # no file may grow beyond
    try:
        with pytest.raises(OSError):
            writing.append("chat", [line])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "chat.jsonl").read_bytes() == line
    writing.append("chat", [line])
    assert len(last_calls(tmp_path, "chat", 9)) == 2


def test_following_sees_new_records_across_a_turn_over(tmp_path: Path) -> None:
    """From the moment it is begun, none twice and none left out."""
    writing = CallFiles(tmp_path, service_bytes=8_000)
    writing.append("chat", [as_line(a_record())])
    following = new_calls(tmp_path, "chat")
    assert next(following) == []
    seen: list[str] = []
    for n in range(12):
        writing.append("chat", [as_line(replace(a_record(), request_id=f"r{n}"))])
        seen += [r.request_id for r in next(following)]
    seen += [r.request_id for r in next(following)]
    assert seen == [f"r{n}" for n in range(12)] and len(call_files(tmp_path, "chat")) > 1


def test_only_services_that_want_records_are_written() -> None:
    """A share of 0 is no wish."""
    state = GatewayState((a_service(), a_service("b", None), a_service("c", CallRecords(percent=0))))
    assert list(wanted(state)) == ["chat"]


def test_a_call_that_no_instance_saw_has_no_server() -> None:
    """Refused by the gateway: recorded under its door, without a version."""
    record = a_record(port=1)
    assert (
        record.version is None
        and record.instance is None
        and record.answer == Body('{"text": "ho"}', 14, "application/json")
    )


def test_a_full_inbox_drops_and_counts_without_waiting() -> None:
    """What is in stays; a message larger than all of it still passes an empty one."""
    inbox = Inbox(max_bytes=10)
    inbox.put([b"123456", b"1234567", b"1234"])
    assert inbox.dropped == 1 and inbox.take(100, 0) == [b"123456", b"1234"]
    inbox.put([b"x" * 50])
    assert inbox.take(100, 0) == [b"x" * 50] and inbox.take(100, 0) == []


@pytest.mark.parametrize("rate", [MOST_BYTES_S * 1.01, MOST_BYTES_S * 40])
def test_less_is_asked_for_when_calls_come_too_fast(rate: float) -> None:
    """At once as much less as the rate is too high; also where the disk is what is slow."""
    part = next_part(1.0, rate, False)
    assert part * rate <= MOST_BYTES_S / 2 and next_part(0.4, 1.0, True) == 0.2
    assert next_part(LEAST_PART, rate, True) == LEAST_PART


def test_all_is_asked_for_again_when_it_is_calm() -> None:
    """By doubling, so that it never overshoots; between calm and too fast nothing changes."""
    share = Share()
    assert share.look(MOST_BYTES_S * 8, 0, 1.0) < 0.1
    parts = [share.look(MOST_BYTES_S * 8, 0, 1.0 + n) for n in range(1, 9)]
    assert parts == sorted(parts) and parts[-1] == 1.0
    assert next_part(0.3, MOST_BYTES_S / 2, False) == 0.3


def test_a_smaller_part_is_asked_for_among_the_same_requests() -> None:
    """What the smaller share holds, the larger one held too: live requests and copies stay paired."""
    state = GatewayState((a_service(),))
    whole, part = (_patterns(tap_request(state, p), "x-request-id") for p in (1.0, 0.1))
    assert whole == [] and part[0].fullmatch("8e2c-0100") and not part[0].fullmatch("8e2c-ff00")
