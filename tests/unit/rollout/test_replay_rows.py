"""The recorded requests in the order in which they began, a few at a time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.nouns import Sample
from rollout.replay_rows import AT_ONCE, BLOCK, looks, ordered, spans, staged


def request(at: float, version: int = 1, name: str = "") -> Sample:
    return Sample(at, version, False, False, 0.1, 0.5, 8, request_id=name)


def told(rows, pause_s=10.0):
    """Name, requests in order, and span of each stage."""
    known = iter(spans(rows, "before", 2, pause_s))
    return [(span, list(ordered(samples, span.floors))) for _, samples in staged(rows) for span in [next(known)]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(1, 2)), max_size=60))
def test_each_stage_comes_in_order_whatever_was_recorded_first(values):
    """As sorted, ties as they were recorded; with its first and last moment, and every long pause between two calls."""
    rows = [(stage, request(float(at), version, str(n))) for n, (stage, at, version) in enumerate(values)]
    for (span, found), (name, samples) in zip(told(rows), staged(rows), strict=True):
        wanted = sorted(samples, key=lambda s: s.at)
        assert (span.name, found, span.begin, span.last) == (name, wanted, wanted[0].at, wanted[-1].at)
        called = [s.at for s in wanted if s.version == 2]
        pauses = [(a, b) for a, b in pairwise(called) if b - a > 10]
        assert [(a[1], b[0]) for a, b in pairwise(span.calls) if b[0] - a[1] > 10] == pauses


def test_only_what_a_later_one_may_precede_is_held():
    """Requests recorded ten late are handed on once the next block cannot come before them."""
    rows = [("a", request(float(n - n % 10))) for n in range(20 * BLOCK)]
    (span,) = spans(rows, "before", 2, 10.0)
    read = iter(staged(rows))
    _, samples = next(read)
    taken, handed = 0, 0

    def counted():
        nonlocal taken
        for sample in samples:
            taken += 1
            yield sample

    for _ in ordered(counted(), span.floors):
        handed += 1
        assert taken - handed < BLOCK + 20
    assert handed == taken == 20 * BLOCK


def test_many_at_one_look_come_in_parts():
    """A burst is no reason to hold it whole; the look is at its last part."""
    samples = [request(n / 1e6) for n in range(3 * AT_ONCE)] + [request(100.0)]
    parts = list(looks(iter(samples), 0.0, 101.0, 50.0, ()))
    assert [until for until, _ in parts if until is not None] == [50.0, 100.0, 101.0]
    assert max(len(new) for _, new in parts) == AT_ONCE and [s for _, new in parts for s in new] == samples
