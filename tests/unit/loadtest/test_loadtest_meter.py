"""From events with times to samples, and from samples to seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.meter import Meter, Second

DONE = b"[DONE]"


def token(text: str = "a") -> bytes:
    """One chunk of a stream."""
    return json.dumps({"choices": [{"text": text}]}).encode()


def counted(tokens: int) -> bytes:
    """The chunk that says how many tokens there were."""
    return json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).encode()


def seen(*events: tuple[float, bytes], status: int = 200) -> dict:
    """The sample of a request sent at 100 s whose events came at these times."""
    meter = Meter(100.0, status)
    for at, event in events:
        meter.see(at, event)
    return meter.sample()


def test_times_run_from_the_send_and_between_the_tokens():
    """TTFT is of the first token that is not empty; TPOT divides by the server's N - 1; E2E ends with [DONE]."""
    sample = seen(
        (100.1, token("")), (100.5, token()), (100.7, token()), (101.1, token()), (101.2, counted(4)), (101.3, DONE)
    )
    assert sample["ttft_s"] == pytest.approx(0.5)
    assert sample["tpot_s"] == pytest.approx(0.6 / 3)
    assert sample["e2e_s"] == pytest.approx(1.3)
    assert (sample["tokens"], sample["chunks"], sample["error"], sample["cut"]) == (4, 3, "", False)


def test_tpot_of_one_token_is_undefined():
    """One token has no gap; a zero would flatter short answers."""
    sample = seen((100.5, token()), (100.6, DONE))
    assert sample["tpot_s"] is None and sample["tokens"] == 1 and not sample["error"]


@pytest.mark.parametrize(
    ("events", "status", "error", "cut"),
    [
        ([(100.5, token())], 200, "cut", True),
        ([], 200, "cut", True),
        ([(100.5, token()), (100.6, b'{"error": {"message": "lost"}}')], 200, "error in the stream: lost", True),
        ([(100.5, b'{"error": "lost"}'), (100.6, DONE)], 200, "error in the stream: lost", True),
        ([(100.5, DONE)], 200, "no token", False),
        ([], 503, "HTTP 503", False),
    ],
)
def test_an_answer_that_does_not_end_well_is_an_error(events, status, error, cut):
    """No [DONE], an error object, no token or another status: each has its own name."""
    sample = seen(*events, status=status)
    assert (sample["error"], sample["cut"]) == (error, cut)


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (200, b'{"choices": [{"text": "a b"}], "usage": {"completion_tokens": 2}}', ""),
        (200, b'{"error": {"message": "bad"}}', "error in the answer: bad"),
        (429, b'{"error": {"message": "slow down"}}', "HTTP 429: slow down"),
        (504, b"upstream\n timeout", "HTTP 504: upstream timeout"),
    ],
)
def test_a_whole_answer_is_judged_by_status_and_content(status, answer, error):
    """Without a stream there is no TTFT, and a refusal says why."""
    meter = Meter(100.0, status)
    meter.see_whole(100.4, answer)
    sample = meter.sample()
    assert sample["error"] == error and sample["ttft_s"] is None and sample["e2e_s"] == pytest.approx(0.4)


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=40))
def test_a_seconds_quantiles_are_numpys(values):
    """The line of a second shows quantiles of raw samples, as numpy computes them."""
    samples = [{"error": "", "cut": False, "ttft_s": v, "tpot_s": None, "e2e_s": v} for v in values]
    line = Second(3, samples).line(1.0, 1.0, 2, 0.1, 0.0)
    assert line["ttft_p50"] == pytest.approx(np.percentile(values, 50), abs=1e-6)
    assert line["ttft_p95"] == pytest.approx(np.percentile(values, 95), abs=1e-6)
    assert "tpot_p50" not in line


def test_a_second_counts_what_failed_and_times_what_succeeded():
    """A failed request is counted and its times are left out."""
    good = {"error": "", "cut": False, "ttft_s": 1.0, "tpot_s": 0.1, "e2e_s": 2.0}
    bad = {"error": "cut", "cut": True, "ttft_s": 9.0, "tpot_s": 9.0, "e2e_s": None}
    line = Second(5, [good, bad]).line(3.0, 1.0, 2, 0.1, 0.0)
    assert (line["requests"], line["failed"], line["cut"], line["tokens"], line["in_flight"]) == (2, 1, 1, 5, 2)
    assert (line["ttft_p50"], line["e2e_p95"]) == (1.0, 2.0)
