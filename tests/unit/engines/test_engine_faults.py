"""Deliberate faults as decisions: which request is hit, and when each event of a stream goes out."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.engine_file import FaultsFile
from configs.load import check
from engines.checks import check_spec
from engines.faults import Cut, FaultyPath, describe, due
from engines.port import EngineSpec, Faults
from rollout.errors import Refused

moments = st.floats(min_value=0, max_value=100)


@given(start=moments, wait=moments, since=moments)
def test_without_faults_events_go_out_as_they_come(start: float, wait: float, since: float) -> None:
    """No fault moves no event."""
    first = start + wait
    assert due(Faults(), start, first, first + since, 7) == first + since


@pytest.mark.parametrize(
    ("faults", "first_at", "last_at"),
    [
        (Faults(ttft_stretch=0.2), 11.2, 13.2),
        (Faults(token_stretch=0.5), 11.0, 14.0),
        (Faults(token_delay_s=0.1), 11.1, 13.3),
        (Faults(ttft_stretch=1.0, token_stretch=1.0), 12.0, 16.0),
    ],
)
def test_a_stretch_is_a_share_of_what_the_engine_took(faults: Faults, first_at: float, last_at: float) -> None:
    """A stream asked for at 10 whose first event comes at 11 and whose third at 13."""
    assert due(faults, 10, 11, 11, 1) == pytest.approx(first_at)
    assert due(faults, 10, 11, 13, 3) == pytest.approx(last_at)


@pytest.mark.parametrize(
    ("faults", "fate"),
    [
        (Faults(), ""),
        (Faults(error_rate=1), "error"),
        (Faults(empty_rate=1), "empty"),
        (Faults(malformed_rate=1), "malformed"),
        (Faults(hang_rate=1), "hang"),
        (Faults(longest_prompt_bytes=99), "error"),
        (Faults(longest_prompt_bytes=100), ""),
    ],
)
def test_what_becomes_of_a_request_of_100_bytes(faults: Faults, fate: str) -> None:
    """Each rate has its fate; a length that is just allowed has none."""
    assert FaultyPath(faults, random.Random(1)).fate(100) == fate


def test_a_rate_is_the_share_of_requests_that_it_hits() -> None:
    """Of 10,000 requests 2 % fail, and no others."""
    path = FaultyPath(Faults(error_rate=0.02), random.Random(1))
    fates = [path.fate(10) for _ in range(10_000)]
    assert set(fates) == {"", "error"} and 150 < fates.count("error") < 250


def test_only_what_comes_through_a_gateway_may_be_hit() -> None:
    """A gateway gives each request an id; with users_only the others are spared, and without it nobody is."""
    users = FaultyPath(Faults(error_rate=1, users_only=True), random.Random(1))
    assert users.spares({}) and not users.spares({"x-request-id": "1"})
    assert not FaultyPath(Faults(error_rate=1), random.Random(1)).spares({})


async def _events(*gaps: float) -> AsyncIterator[bytes]:
    for number, gap in enumerate(gaps):
        await asyncio.sleep(gap)
        yield b"data: %d\n\n" % number


async def _times(path: FaultyPath, *gaps: float) -> list[float]:
    start = time.monotonic()
    return [time.monotonic() - start async for _ in path.stream(_events(*gaps), start)]


def test_a_stretched_stream_keeps_its_events_in_order_and_late() -> None:
    """The first event waits as much longer as was asked, those that came with it follow it at once, none is lost."""
    path = FaultyPath(Faults(ttft_stretch=3.0), random.Random(1))
    first, *others = asyncio.run(_times(path, 0.05, 0.0, 0.0))
    assert path.touches_streams and first >= 0.2
    assert len(others) == 2 and first <= others[0] <= others[1]


def test_a_cut_stream_ends_early() -> None:
    """Three events get through, then the stream breaks."""

    async def read() -> list[bytes]:
        seen: list[bytes] = []
        with pytest.raises(Cut):
            async for event in FaultyPath(Faults(cut_rate=1), random.Random(1)).stream(_events(*[0.0] * 9), 0.0):
                seen.append(event)
        return seen

    assert len(asyncio.run(read())) == 3


def test_every_fault_is_off_at_zero_checked_and_can_be_written() -> None:
    """Defaults are no fault; the file has the same fields; below 0 is refused by name, in the file and in the spec."""
    assert not any(asdict(Faults()).values()) and describe(Faults()) == ""
    assert Faults(**FaultsFile().model_dump()) == Faults()
    for field in fields(Faults):
        assert describe(Faults(**{field.name: 1})) == f"{field.name}=1"
        with pytest.raises(Refused, match=field.name):
            check_spec(EngineSpec(faults=Faults(**{field.name: -1})), ("Q8_0",))
        with pytest.raises(Refused, match=field.name):
            check(FaultsFile, {field.name: -1}, "x.yaml")
