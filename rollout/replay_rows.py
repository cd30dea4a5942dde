"""The recorded requests of a release, stage by stage in the order in which they began, however many there are. Pure.

They are kept in about the order in which they ended. So they are gone through twice: once to see when each block of
them begins, and again to hand them on, holding only those that one of a later block may still precede. These are about
as many as begin while the slowest request is under way.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count, groupby, islice

from rollout.nouns import Sample

Row = tuple[str, Sample]

BLOCK = 1024  # requests that are read at a time
AT_ONCE = 8192  # requests that are handed on at a time
_MOST_LOOKS = 200  # at one stage; a longer one is looked at more seldom


@dataclass(frozen=True)
class Span:
    """One recorded stage. Epoch seconds.

    ``floors``: for each block the earliest beginning in those after it. ``calls``: the candidate's first and last
    request of each stretch without a pause as long as asked for, in order.
    """

    name: str
    begin: float
    last: float
    floors: tuple[float, ...]
    calls: tuple[tuple[float, float], ...]


def spans(rows: Iterable[Row], before: str, candidate: int, pause_s: float) -> tuple[Span, ...]:
    """The stages in the order in which they were recorded, without the one named ``before``."""
    return tuple(_span(name, samples, candidate, pause_s) for name, samples in staged(rows) if name != before)


def staged(rows: Iterable[Row]) -> Iterator[tuple[str, Iterator[Sample]]]:
    """Each stage with its requests as they were recorded; they are there until the next stage is asked for."""
    for name, group in groupby(rows, lambda row: row[0]):
        yield name, (sample for _, sample in group)


def blocks(samples: Iterator[Sample], size: int = BLOCK) -> Iterator[list[Sample]]:
    """So many at a time, fewer at the end."""
    while block := list(islice(samples, size)):
        yield block


def _span(name: str, samples: Iterator[Sample], candidate: int, pause_s: float) -> Span:
    """Two requests in one stretch of ``pause_s`` have no longer pause between them: its first and last tell all."""
    firsts, last, calls = list[float](), -math.inf, dict[float, tuple[float, float]]()
    for block in blocks(samples):
        times = [s.at for s in block]
        firsts.append(min(times))
        last = max(last, *times)
        for at in (s.at for s in block if s.version == candidate):
            low, high = calls.get(at // pause_s, (at, at))
            calls[at // pause_s] = (min(low, at), max(high, at))
    floors = [*accumulate([math.inf, *reversed(firsts[1:])], min)][::-1]
    return Span(name, min(firsts), last, tuple(floors), tuple(calls[key] for key in sorted(calls)))


def ordered(samples: Iterator[Sample], floors: Iterable[float]) -> Iterator[Sample]:
    """In the order in which they began; of those that began at once, in that in which they were recorded."""
    held, number = list[tuple[float, int, Sample]](), count()
    for block, floor in zip(blocks(samples), floors, strict=False):
        for sample in block:
            heapq.heappush(held, (sample.at, next(number), sample))
        while held and held[0][0] <= floor:
            yield heapq.heappop(held)[2]


def looks(
    samples: Iterator[Sample], begin: float, end: float, look_s: float, moments: Iterable[float]
) -> Iterator[tuple[float | None, list[Sample]]]:
    """When, and what began since the look before: every ``look_s`` seconds or more, at ``moments``, and at the end.

    ``samples`` come in the order in which they began. Many are handed on in parts: None in place of the time says that
    more of the same look follow.
    """
    every = max(look_s, (end - begin) / _MOST_LOOKS)
    grid = (begin + number * every for number in range(1, int((end - begin) / every) + 1))
    sample = next(samples, None)
    for until in sorted({*(at for at in (*grid, *moments) if begin < at < end), end}):
        new = list[Sample]()
        while sample is not None and sample.at < until:
            new.append(sample)
            sample = next(samples, None)
            if len(new) == AT_ONCE:
                yield None, new
                new = []
        yield until, new
