"""Token counts are read off the end of an answer, and off nothing that a user wrote."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.llama_front import end_to_end
from engines.usage import KEPT, tokens_told

USAGE = {
    "completion_tokens": 3,
    "prompt_tokens": 32,
    "total_tokens": 35,
    "prompt_tokens_details": {"cached_tokens": 31},
}
TIMINGS = {"cache_n": 5, "prompt_n": 1, "prompt_ms": 7.1, "predicted_n": 4}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ({"usage": USAGE, "timings": TIMINGS}, (32, 3, 31)),
        ({"usage": {**USAGE, "prompt_tokens_details": None}}, (32, 3, None)),
        ({"timings": TIMINGS}, (6, 4, 5)),
        ({"usage": {"cache_read_input_tokens": 31, "input_tokens": 1, "output_tokens": 3}}, (32, 3, 31)),
        ({"usage": {"output_tokens": 3}}, (None, 3, None)),  # the end of a stream of Anthropic's API
        ({"usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}}, (9, 3, 4)),
        ({"usage": {"input_tokens": 9}}, None),
        ({"usage": None}, None),
        ({"error": {"message": "no"}}, None),
    ],
)
def test_counts_are_the_whole_prompt_and_the_answer(answer: object, counts: tuple[int, int, int | None] | None) -> None:
    """Usage goes before timings, cached tokens count and are told, and what is not told is not guessed."""
    assert tokens_told(_json(answer)) == counts
    assert tokens_told(b"data: " + _json(answer) + b"\n\ndata: [DONE]\n\n") == counts


def test_an_end_that_starts_within_the_counts_tells_nothing() -> None:
    """Half an object is no count."""
    assert tokens_told(_json({"usage": USAGE})[-40:]) is None
    assert tokens_told(_json({"usage": USAGE})[:-9]) is None


@given(
    st.text(), st.sampled_from(['"usage":{"prompt_tokens":9,"completion_tokens":9}', '"timings":{"cache_n":1}', "ü"])
)
def test_text_never_counts(text: str, bait: str) -> None:
    """Whatever users or models write, the counts are the engine's."""
    answer = {"content": text + bait, "usage": USAGE, "prompt": bait + text}
    assert tokens_told(_json(answer)[-KEPT:]) == (32, 3, 31)
    assert tokens_told(_json({"content": text + bait})) is None


def test_a_trace_is_passed_on_and_a_connection_s_headers_are_not() -> None:
    """W3C trace context reaches llama.cpp."""
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=1"}
    assert end_to_end({**trace, "Connection": "close", "Trailer": "x"}) == trace
