"""The access log's line: what it says, and that nobody can make it say something else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_lines import ID, VALUES, line

from gateway.port import Record
from gateway.record_line import COLUMNS, error_format, parse, parse_all, text_format

FRONT = [name for name, _ in COLUMNS[:16]]
TAIL = [name for name, _ in COLUMNS[16:]]
WHOLE = Record(
    at=1795348406.272,
    request_id=ID,
    kind="live",
    door="chat",
    service="chat",
    route="leased",
    arm=2,
    version=1,
    instance="chat-v1-0",
    client="alice",
    status=200,
    flags="-",
    attempts=2,
    ttft_s=0.003563,
    total_s=9.02711,
    bytes_in=89,
    bytes_out=5822,
    tokens_in=11,
    tokens_out=7,
    streamed=True,
    canary_permille=50,
    mirror_permille=500,
    grpc_status=None,
)


def test_a_line_becomes_a_record():
    """Each column lands in its field; microseconds become seconds."""
    assert parse(line()) == parse(line().encode()) == parse(line().rstrip("\n")) == WHOLE


def test_the_format_has_the_columns_that_are_read():
    """What Envoy is told to write has a column for each that is read, and the kind as it is."""
    live, copies = text_format("L"), text_format("M")
    assert live.endswith("\n") and live.count("\t") == len(VALUES) - 1
    assert (live.split("\t")[1], copies.split("\t")[1]) == ("L", "M")
    assert live.replace("\tL\t", "\tM\t") == copies


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"request_id": "-"}, "request_id", ""),
        ({"host": "-"}, "version", None),
        ({"host": "-"}, "instance", None),
        ({"ttft_us": "-"}, "ttft_s", None),
        ({"total_us": "-"}, "total_s", 9.027),  # the client had left: known to the millisecond
        ({"total_us": "-", "total_ms": "-"}, "total_s", None),
        ({"flags": "URX,UF"}, "flags", "URX,UF"),
        ({"content_type": "application/json"}, "streamed", False),
        ({"grpc_status": "14"}, "grpc_status", 14),
        ({"cluster": "-"}, "arm", None),
        ({"cluster": "-", "route": "chat/closed"}, "service", "chat"),
        ({"cluster": "small@v4", "route": "prod/group"}, "service", "small"),
        ({"cluster": "small@v4", "route": "prod/group"}, "door", "prod"),
        ({"cluster": "-", "route": "prod/group"}, "service", ""),
        ({"cluster": "small@v4+v3", "route": "prod/group/chat/50/small/250"}, "canary_permille", 250),
        ({"cluster": "small@v4+v3", "route": "prod/group/chat/50/small/250"}, "route", "group"),
        ({"cluster": "small@v4+v3", "route": "prod/group/chat/50/small/250"}, "door", "prod"),
        ({"cluster": "large@v4", "route": "prod/group/chat/50/small/250"}, "canary_permille", 0),
        ({"cluster": "-", "route": "prod/group/chat/50"}, "service", ""),
        ({"cluster": "-", "route": "health"}, "door", ""),
        ({"cluster": "-", "route": "-"}, "route", ""),
        ({"client": "-"}, "client", None),
        ({"client": "chat/auth0|a.b@c"}, "client", "auth0|a.b@c"),
        ({"client": "other/alice"}, "client", None),  # a client of another door cannot have come in here
        ({"client": "chat/alice", "status": "401"}, "client", None),  # nobody has checked who says so
        ({"client": "chat/a b"}, "client", None),
    ],
)
def test_what_columns_mean(change, field, value):
    """Missing is "-"; the door comes from the route's name, the service and the arm from the cluster's."""
    assert getattr(parse(line(**change)), field) == value


@pytest.mark.parametrize(
    ("trailer", "header", "counts", "tokens"),
    [
        ("11,64", "3,4", '{"in":1,"out":2}', (11, 64)),
        ("-", "3,4", '{"in":1,"out":2}', (3, 4)),
        ("-", "-", '{"in":1,"out":2}', (1, 2)),
        ("-", "-", '{"out":2.0,"in":1}', (1, 2)),
        ("-", "-", '{"out":2}', (None, 2)),
        ("-", "-", '{"odd":1,"out":2}', (None, 2)),
        ("-", "-", '{"in":1}', (1, None)),
        (",7", "3,4", '{"in":1,"out":2}', (None, 7)),
        ("-", ",4", '{"in":1,"out":2}', (None, 4)),
        ("-", "-", "-", (None, None)),
        ("-5,3", "3,4", "-", (3, 4)),
        ("1e3,4", "9999999999,1", "{}", (None, None)),
        ("٣,٤", "1,2,3,4", '{"in":"7"}', (None, None)),
    ],
)
def test_tokens_come_from_the_trailer_else_the_header_else_the_proxy(trailer, header, counts, tokens):
    """Plain bounded digits only; what else an engine says there is as if it said nothing."""
    record = parse(line(usage_trailer=trailer, usage_header=header, counts=counts))
    assert (record.tokens_in, record.tokens_out) == tokens


@pytest.mark.parametrize(
    ("trailer", "header", "counts", "cached"),
    [
        ("11,7,0", "3,4,2", '{"cached":1,"in":1,"out":2}', 0),
        ("-", "3,4,2", '{"cached":1,"in":1,"out":2}', 2),
        ("-", "3,4", '{"cached":1,"in":1,"out":2}', None),  # who counted did not say
        ("-", "-", '{"cached":1,"in":1,"out":2}', 1),
        ("-", "-", '{"cached":9,"in":12,"odd":1,"out":2}', 9),
        ("-", "-", '{"cached":1,"out":2}', 1),
        ("-", "-", '{"out":2.0,"in":3,"cached":1.0}', 1),
        ("-", "-", '{"cached":4}', 4),
        ("11,7,x", "-", "-", None),
        ("11,7,9999999999", "-", "-", None),
    ],
)
def test_cached_tokens_come_from_whoever_counted(trailer, header, counts, cached):
    """The third number of the engine's own, or what the proxy read; where nobody says, unknown."""
    assert parse(line(usage_trailer=trailer, usage_header=header, counts=counts)).tokens_cached == cached


@pytest.mark.parametrize(
    ("counts", "kind", "unreadable"),
    [
        ('{"odd":1}', "application/json", True),
        ('{"odd":1}', "application/json; charset=utf-8", True),
        ('{"odd":1}', "text/event-stream", False),  # the reader of JSON looks at whatever comes
        ('{"odd":1}', "text/plain", False),
        ('{"in":1,"out":2}', "application/json", False),
        ("-", "application/json", False),
    ],
)
def test_an_answer_that_is_not_the_json_it_claims_to_be_is_unreadable(counts, kind, unreadable):
    """Only what calls itself JSON can fail to be it."""
    record = parse(line(usage_trailer="-", counts=counts, content_type=kind))
    assert record.unreadable is unreadable


def test_a_copy_is_named_by_the_cluster_it_was_meant_for():
    """A mirrored copy's record: its route bears the name of the target, which is its arm even if nobody answered."""
    record = parse(line(kind="M", route="chat@v2", cluster="chat@v2", host="-", status="503", flags="UH", client="-"))
    named = (record.kind, record.door, record.service, record.route, record.arm, record.version)
    assert named == ("mirror", "chat", "chat", "mirror", 2, None)
    assert parse(line(kind="M", route="chat@v2", cluster="other@v2")) is None


@pytest.mark.parametrize("name", FRONT)
@pytest.mark.parametrize("value", ["", "x y", "a\tb", "é", "{", "9" * 200])
def test_a_front_that_is_not_right_is_no_record(name, value):
    """Each column that Envoy makes is checked; a line with anything else there is skipped and counted."""
    assert parse(line(**{name: value})) is None
    assert parse_all(line() + line(**{name: value}) + line()) == ([WHOLE, WHOLE], 1)


@settings(deadline=None)
@given(st.sampled_from(TAIL), st.text(st.characters(codec="latin-1", exclude_characters="\n")))
def test_no_header_can_change_the_front_or_hide_a_record(name, text):
    """Whatever a client or an engine writes into its header, tabs too: the record stays, and its front as it was."""
    found = parse(line(**{name: text}))
    unknown = {"client": None, "tokens_in": None, "tokens_out": None, "streamed": False, "tokens_cached": None}
    assert found is not None and found._replace(**unknown) == WHOLE._replace(**unknown)
    if "\t" in text:
        assert found == WHOLE._replace(**unknown)


@settings(deadline=None)
@given(st.integers(0, len(line()) - 1))
def test_half_a_line_with_another_glued_to_it_is_never_read_as_the_other(at):
    """What a killed Envoy broke off: the first one's record where its front was whole, else none."""
    other = line(at="1795348499.001", request_id=ID[::-1], status="500", client="chat/bob")
    records, skipped = parse_all(line()[:at] + other)
    assert len(records) + skipped == 1
    assert at == 0 or all((r.request_id, r.status, r.client) == (ID, 200, None) for r in records)


@settings(deadline=None)
@given(st.text(st.characters(codec="latin-1")))
def test_any_text_is_read_without_an_error(text):
    """Garbage is counted, line by line."""
    records, skipped = parse_all(text)
    assert records == [] and skipped == text.count("\n")


def test_errors_never_hold_the_query_string_or_the_key():
    """The path without its query; no header but the request id, the client's name and the user agent."""
    told = error_format("M")
    assert told["kind"] == "mirror" and told["path"].startswith("%PATH(NQ)")
    assert "AUTHORIZATION" not in str(told).upper() and ":PATH" not in str(told)
