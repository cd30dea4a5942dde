"""Bytes to events: the same for any split, and only what the formats allow."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.wire import BadAnswer, Body, Events, Head, error_in, has_token, read_head, tokens_in

TEXT = st.text(max_size=20)


def sse(pieces: list[str], newline: str) -> bytes:
    """A stream as servers send it, with a comment and a field that is to be ignored."""
    events = [json.dumps({"choices": [{"text": piece}]}) for piece in pieces] + ["[DONE]"]
    return (f": hello{newline}" + "".join(f"event: x{newline}data: {e}{newline}{newline}" for e in events)).encode()


def chunked(content: bytes, sizes: list[int]) -> bytes:
    """RFC 9112 chunks of these sizes, with an extension and a trailer."""
    out, rest = b"", content
    for size in [*sizes, len(content) + 1]:
        piece, rest = rest[:size], rest[size:]
        out += b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) if piece else b""
    return out + b"0\r\nX-Trailer: 1\r\n\r\n"


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in parts, some of them empty."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


def events_of(parts: list[bytes]) -> tuple[Head, list[bytes], bool]:
    """What a client makes of an answer that arrives in these parts."""
    data, body, events, found = b"", None, Events(), []
    for part in parts:
        if body is None:
            data += part
            if (read := read_head(data)) is None:
                continue
            head, part = read
            body = Body(head)
        found += events.feed(body.feed(part))
    assert body is not None
    return head, found, body.done


@given(
    st.lists(TEXT, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(1, 60), max_size=8),
    st.lists(st.integers(0, 5000), max_size=12),
)
def test_any_split_of_a_chunked_stream_gives_the_same_events(pieces, newline, sizes, places):
    """Where packets and chunks end never changes what was said."""
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + chunked(sse(pieces, newline), sizes)
    found, events, done = events_of(cut_up(data, places))
    assert found.status == 200 and found.keeps_alive and done
    assert [json.loads(e)["choices"][0]["text"] for e in events[:-1]] == pieces
    assert events[-1] == b"[DONE]"


@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(0, 10**6))
def test_a_stream_that_stops_anywhere_before_its_end_is_not_done(pieces, place):
    """A cut stream is never taken for a whole one."""
    data = chunked(sse(pieces, "\n"), [7, 20])
    body = Body(Head(200, {"transfer-encoding": "chunked"}))
    body.feed(data[: place % len(data)])
    assert not body.done


@given(st.binary(max_size=50), st.lists(st.integers(0, 100), max_size=5))
def test_a_body_with_a_length_ends_there(content, places):
    """Content-Length counts; bytes after it belong to nobody."""
    body = Body(Head(200, {"content-length": str(len(content))}))
    assert b"".join(body.feed(part) for part in cut_up(content + b"more", places)) == content
    assert body.done


@given(TEXT, st.sampled_from(["text", "content", "reasoning_content", "arguments"]), st.booleans())
def test_scanning_for_a_token_agrees_with_parsing(text, key, compact):
    """A token is a non-empty string under one of the keys, whatever the string itself looks like."""
    event = {"other": f'"{key}": "{text}', "choices": [{"delta": {key: text}}], "empty": {"text": "", "content": None}}
    data = json.dumps(event, separators=(",", ":") if compact else None).encode()
    assert has_token(data) == bool(text)


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 70000],
    ids=["another protocol", "no status", "no end"],
)
def test_a_head_that_is_no_http_is_refused(data):
    """Another protocol at the port is an error, not an answer."""
    with pytest.raises(BadAnswer):
        read_head(data)


@pytest.mark.parametrize("data", [b"zz\r\n", b"-1\r\n", b"+5\r\n", b"3\r\nabcXX"])
def test_a_broken_chunk_is_refused(data):
    """Sizes are plain hexadecimal digits and chunks end with CR LF."""
    with pytest.raises(BadAnswer):
        Body(Head(200, {"transfer-encoding": "chunked"})).feed(data)


@pytest.mark.parametrize(
    ("fields", "version", "alive"),
    [
        ("Content-Length: 2", "1.1", True),
        ("Content-Length: 2\r\nConnection: close", "1.1", False),
        ("Content-Length: 2", "1.0", False),
        ("Content-Type: text/plain", "1.1", False),
    ],
)
def test_a_connection_is_kept_only_where_a_second_answer_can_follow(fields, version, alive):
    """Keep-alive needs HTTP/1.1, a body that says where it ends, and no word against it."""
    read = read_head(f"HTTP/{version} 200 OK\r\n{fields}\r\n\r\n".encode())
    assert read is not None and read[0].keeps_alive is alive


@pytest.mark.parametrize(
    ("event", "tokens"),
    [
        ({"usage": {"completion_tokens": 7}, "timings": {"predicted_n": 9}}, 7),
        ({"usage": None, "timings": {"predicted_n": 9}}, 9),
        ({"usage": {}}, None),
        ([1], None),
    ],
)
def test_tokens_are_those_that_the_server_counted(event, tokens):
    """OpenAI's usage first, llama.cpp's timings where there is none."""
    assert tokens_in(json.dumps(event).encode()) == tokens


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"message": "no\n slot"}}, "no slot"),
        ({"error": {"type": "overloaded"}}, "overloaded"),
        ({"error": "plain " * 40}, ("plain " * 40)[:80]),
        ({"choices": [{"text": '"error": {"message": "told, not meant"}'}]}, None),
        ({"error": None}, None),
    ],
)
def test_an_error_object_gives_its_message_in_short(event, message):
    """Errors inside a stream are found; a text that speaks of errors is none."""
    assert error_in(json.dumps(event).encode()) == message
