"""What a rule names is never kept, and a body in which it cannot be found is not kept at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.redact import MASK, Unclear, check_redact, compiled, readable, redacted
from rollout.errors import Refused

JSON = "application/json"
STREAM = "text/event-stream; charset=utf-8"
FIELD = compiled(("password",))


@pytest.mark.parametrize("rule", ["", "  ", "/", "//", "/abc", "/(/", "/[0-9]*/", "/$/"])
def test_bad_rules_are_refused_before_use(rule: str) -> None:
    """No name, no second slash, no expression, or one that matches empty text: refused, naming the rule."""
    with pytest.raises(Refused) as refused:
        check_redact(("fine", rule))
    assert refused.value.field == "redact" and refused.value.value == rule


def test_good_rules_pass() -> None:
    """Field names and expressions together."""
    check_redact(("password", "messages", r"/\b\d{16}\b/"))


@pytest.mark.parametrize(
    "document",
    [
        {"password": "hunter2"},
        {"a": [{"b": {"PassWord": ["hunter2", 1]}}]},
        {"tool": {"arguments": json.dumps({"password": "hunter2"})}},
        [[{"password": {"deep": "hunter2"}}]],
    ],
)
def test_fields_are_masked_at_any_depth(document: object) -> None:
    """In objects, lists and JSON inside strings, whatever the value is and however the name is cased."""
    kept = redacted(json.dumps(document), JSON, True, FIELD)
    assert "hunter2" not in kept and MASK in kept and json.loads(kept)


@pytest.mark.parametrize(
    "text", ["password=hunter2", '{"password": "hunter2"', '{"a": 1} {"password": "hunter2"}', "[" * 99_999]
)
def test_what_is_no_json_is_left_out(text: str) -> None:
    """With a field to hide, a body in which no field can be found is not kept."""
    with pytest.raises(Unclear, match="fields"):
        redacted(text, "text/plain", True, FIELD)


def test_a_cut_document_is_left_out_for_being_cut() -> None:
    """The reason says that it was cut, so that a person can raise the bound."""
    with pytest.raises(Unclear, match="cut before its end"):
        redacted('{"password": "hun', JSON, False, FIELD)


def test_a_pattern_is_masked_in_plain_text_and_in_decoded_json() -> None:
    """An escape in JSON does not hide what a pattern means; numbers count as text."""
    rules = compiled((r"/\w+@\w+\.example/", r"/\b\d{16}\b/"))
    assert redacted("write to ann@mail.example now", "text/plain", True, rules) == f"write to {MASK} now"
    kept = redacted('{"to": "ann\\u0040mail.example", "card": 4111111111111111, "n": 3}', JSON, True, rules)
    assert json.loads(kept) == {"to": MASK, "card": MASK, "n": 3}


def test_each_event_of_a_stream_is_redacted() -> None:
    """Every ``data`` line is a document of its own; the end mark stays, comments do not."""
    stream = 'event: token\r\ndata: {"password": "hunter2", "n": 1}\r\n\r\n: hunter2\r\n\r\ndata: [DONE]\r\n\r\n'
    kept = redacted(stream, STREAM, True, FIELD)
    assert kept.startswith('event: token\ndata: {"password": "***", "n": 1}\n\n')
    assert "hunter2" not in kept and kept.endswith("data: [DONE]\n\n")


def test_the_broken_last_event_of_a_cut_stream_is_dropped() -> None:
    """The whole events before the cut stay."""
    kept = redacted('data: {"n": 1}\n\ndata: {"password": "hunt', STREAM, False, FIELD)
    assert kept == 'data: {"n": 1}\n\n'


def test_a_stream_with_an_event_that_is_no_json_is_left_out() -> None:
    """The same rule as for whole bodies."""
    with pytest.raises(Unclear):
        redacted('data: {"n": 1}\n\ndata: hunter2\n\n', STREAM, True, FIELD)


def test_without_rules_nothing_is_touched() -> None:
    """Not a space of the text changes."""
    assert redacted('{ "a" :1}', JSON, True, compiled(())) == '{ "a" :1}'


def test_text_is_read_to_the_last_whole_character() -> None:
    """A cut through a character loses that character only; other bytes are no text."""
    assert readable("hä".encode()[:2], False) == "h"
    assert readable("hä".encode()[:2], True) is None
    assert readable(b"\xff\xfe", False) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_JSON, st.text(min_size=1).map(lambda text: f"S3CRET{text}"))
def test_no_document_lets_the_value_of_a_named_field_through(document: object, secret: str) -> None:
    """Whatever stands around it."""
    text = json.dumps({"around": document, "inner": [document, {"password": secret}]})
    assert "S3CRET" not in redacted(text, JSON, True, FIELD)
