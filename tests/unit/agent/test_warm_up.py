"""Warm-up as a loop over answers with given times: what is asked, when it ends, what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.asking import ANSWER_BYTES, LINE_BYTES, NotAccepted, Timing, lines_of, read_stream
from agent.warm_up import MOST_ROUNDS, PLAIN, by_length, unsettled, warm_up
from engines.warm_up import WarmUpRequest, size_of
from rollout.errors import Unavailable
from rollout.nouns import Health
from store.port import InstanceState

SHORT, LONG = WarmUpRequest("a b", 8, tokens=8), WarmUpRequest("c d", 8, tokens=512)


def timing(total_s, tokens=8, prompt_tokens=0):
    return Timing(total_s / 2, total_s, tokens, prompt_tokens)


class Engine:
    """Answers each prompt with its own times in turn, the last of them from then on; a clock that they move."""

    def __init__(self, times):
        self.times, self.asked, self.now = {p: list(t) for p, t in times.items()}, [], 0.0

    def ask(self, request):
        times = self.times[request.prompt]
        total = times.pop(0) if len(times) > 1 else times[0]
        self.asked.append(request.prompt)
        self.now += total
        return timing(total)

    def clock(self):
        return self.now


def test_each_length_is_asked_until_its_own_latency_has_settled():
    """The short prompt settles soon and is left alone; the long one goes on."""
    engine = Engine({"a b": [1.0], "c d": [9.0, 7.0, 5.0, 4.0, 3.0, 2.0]})
    numbers = warm_up((SHORT, LONG), 1, engine.ask, engine.clock)
    assert numbers["settled"] == 1.0
    assert engine.asked.count("a b") == 4 < engine.asked.count("c d") == numbers["p512_requests"]
    assert (numbers["p512_first_s"], numbers["p512_last_s"]) == (9.0, 2.0)
    assert (numbers["p512_ttft_first_s"], numbers["p512_ttft_s"]) == (4.5, 1.0)
    assert numbers["p512_tpot_s"] == pytest.approx(1.0 / 7)
    assert numbers["requests"] == len(engine.asked) and numbers["seconds"] == engine.now


def test_at_least_so_many_requests_are_made():
    """Also of an engine whose latency never changes."""
    engine = Engine({"a b": [1.0]})
    assert warm_up((SHORT,), 11, engine.ask, engine.clock)["requests"] == 11


def test_an_engine_that_never_settles_is_left_after_a_bound_of_requests():
    """Each answer slower than all before: it is said that it did not settle."""
    slower = count(1)
    numbers = warm_up((SHORT,), 1, lambda request: timing(1.5 ** next(slower)), lambda: 0.0)
    assert (numbers["requests"], numbers["settled"]) == (MOST_ROUNDS, 0.0)


def test_no_request_begins_after_the_bound_in_seconds():
    """What was measured up to then is told."""
    engine = Engine({"a b": [60.0], "c d": [60.0]})
    numbers = warm_up((SHORT, LONG), 4, engine.ask, engine.clock, most_s=100.0)
    assert (numbers["requests"], numbers["settled"], engine.now) == (2, 0.0, 120.0)


def test_an_engine_that_says_nothing_at_all_is_refused():
    """One empty answer may be the model's; only empty ones are a defect."""
    with pytest.raises(Unavailable, match="all 4 answers were empty"):
        warm_up(PLAIN, 8, lambda request: timing(1.0, tokens=0), lambda: 0.0)
    answers = iter([0] + [8] * 1000)
    assert warm_up(PLAIN, 8, lambda request: timing(1.0, tokens=next(answers)), lambda: 0.0)["settled"] == 1.0


def test_a_request_that_is_not_accepted_is_left_out():
    """The others of its length and the other lengths go on; it is counted. With none left the refusal is the answer."""
    bad, engine = WarmUpRequest("bad", 8, tokens=9), Engine({"a b": [1.0], "c d": [1.0]})

    def ask(request):
        if request.prompt == "bad":
            raise NotAccepted("answered 400: too long")
        return engine.ask(request)

    numbers = warm_up((SHORT, bad, LONG), 1, ask, engine.clock)
    assert (numbers["skipped"], numbers["settled"], numbers["requests"]) == (1.0, 1.0, 8.0)
    with pytest.raises(NotAccepted, match="too long"):
        warm_up((bad, bad), 1, ask, engine.clock)
    assert "skipped" not in warm_up((SHORT,), 1, ask, engine.clock)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9))
def test_however_many_are_not_accepted_the_warm_up_ends(accepted, least):
    """Also when one is refused that was accepted before: with numbers, or with the refusal."""
    turns, samples = count(), [WarmUpRequest(f"{n}", tokens=8 * n) for n in range(1, 5)]

    def ask(request):
        if not accepted[next(turns) % len(accepted)]:
            raise NotAccepted("400")
        return timing(1.0)

    ticks = count()
    try:
        assert warm_up(samples, least, ask, lambda: float(next(ticks)), most_s=30.0)["requests"] >= 1
    except NotAccepted:
        assert not all(accepted)


def test_a_warm_up_that_did_not_settle_is_told_of_a_ready_instance():
    """And that requests of the model's own were not accepted; else nothing."""
    instance = InstanceState("i", "chat", 1, 0, "127.0.0.1", 18100, Health.READY)
    bad = {"settled": 0.0, "requests": 16.0, "seconds": 180.0, "skipped": 2.0}
    told = unsettled(replace(instance, warm_up=bad))
    assert "not settled after 16 requests in 180 s" in told and "2 of its model's" in told
    assert unsettled(replace(instance, warm_up={"settled": 1.0})) == unsettled(instance) == ""
    assert unsettled(replace(instance, warm_up=bad, health=Health.BACKOFF)) == ""


def test_lines_are_bounded():
    """Across chunks, whichever way they are cut; one without an end, or an answer without one, is an error."""
    assert list(lines_of([b"a: 1\r\nb", b": 2\n", b"", b"\nlast"])) == ["a: 1", "b: 2", "", "last"]
    with pytest.raises(Unavailable, match=f"a line of more than {LINE_BYTES}"):
        list(lines_of(b"x" * 65536 for _ in count()))
    with pytest.raises(Unavailable, match=f"more than {ANSWER_BYTES} bytes"):
        list(lines_of(b"x\n" * 32768 for _ in count()))


@given(
    st.lists(st.builds(WarmUpRequest, st.text(min_size=1), tokens=st.integers(0, 4096)), min_size=1, max_size=9),
    st.integers(1, 30),
    st.lists(st.floats(0.001, 9.0), min_size=1, max_size=40),
)
def test_every_warm_up_ends_within_its_bounds(samples, least, times):
    """Whatever an engine does: at least as many as asked for, no more than the rounds, numbers only."""
    turns = count()
    numbers = warm_up(samples, least, lambda r: timing(times[next(turns) % len(times)]), lambda: 0.0)
    assert least <= numbers["requests"] <= least + (1 + MOST_ROUNDS) * len(samples)
    assert all(isinstance(value, float) for value in numbers.values())
    assert json.loads(json.dumps(numbers)) == numbers


def test_prompts_of_like_length_are_compared_with_one_another_only():
    """Lengths by the factor of two, shortest first; where nobody counted tokens, by letters."""
    groups = by_length([LONG, SHORT, WarmUpRequest("x", tokens=9), WarmUpRequest("y" * 2000)])
    assert [[size_of(request) for request in group.requests] for group in groups] == [[8, 9], [500], [512]]


def event(**fields):
    return f"data: {json.dumps(fields)}"


def read(*lines):
    ticks = count(1)
    return read_stream(iter(lines), lambda: float(next(ticks)))


def test_the_first_token_is_the_first_with_text():
    """A chat's opening event has none; the engine's own counts are taken where it tells them."""
    role, text = event(choices=[{"delta": {"role": "assistant"}}]), event(choices=[{"delta": {"content": "a"}}])
    counts = event(choices=[], usage={"completion_tokens": 7, "prompt_tokens": 5})
    assert read(role, text, text, "", counts, "data: [DONE]") == Timing(1.0, 2.0, 7, 5)
    assert read(event(choices=[{"text": "a"}]), "data: [DONE]") == Timing(1.0, 1.0, 1)
    assert read(counts, "data: [DONE]").tokens == 7 and read("data: [DONE]").tokens == 0


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([event(choices=[{"text": "a"}])], r"without \[DONE\]"),
        ([event(error={"message": "slot lost"})], "slot lost"),
        (["data: {oops"], "no JSON"),
    ],
)
def test_a_stream_that_does_not_end_well_is_an_error(lines, why):
    """Cut, an error in the middle, or no JSON: with the engine's own words."""
    with pytest.raises(Unavailable, match=why):
        read(*lines)
