"""Deliberate defects of an engine process: late, slow, failing, odd and cut answers, to try what a release does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Literal

from engines.port import Faults

_CUT_AFTER = 3  # events of a stream that still get through

Fate = Literal["", "error", "empty", "malformed", "hang"]  # of one request; "": it goes to the model


class Cut(Exception):
    """The stream ends here, without its end."""


def describe(faults: Faults) -> str:
    """The faults that are on, '' when none is."""
    on = {name: value for name, value in vars(faults).items() if value}
    return ", ".join(f"{name}={value}" for name, value in on.items())


def due(faults: Faults, start: float, first: float, at: float, number: int) -> float:
    """When event ``number`` (from 1) of a stream goes out, all in seconds of one clock.

    The request came at ``start``, its stream's first event at ``first``, this one at ``at``. The wait for the first is
    stretched, the time since then is stretched, and each event adds its delay.
    """
    begun = first + faults.ttft_stretch * (first - start)
    return begun + (1 + faults.token_stretch) * (at - first) + number * faults.token_delay_s


class FaultyPath:
    """Applies faults to the requests of one process. ``chance`` decides which requests are hit."""

    def __init__(self, faults: Faults, chance: random.Random) -> None:
        self._faults, self._chance = faults, chance

    def spares(self, headers: Mapping[str, str]) -> bool:
        """Whether a request is left alone: one without the id that a gateway gives, where only users are hit."""
        return self._faults.users_only and "x-request-id" not in headers

    @property
    def touches_streams(self) -> bool:
        """Whether streams must be taken apart; without faults they pass as they come."""
        faults = self._faults
        return bool(faults.token_delay_s or faults.cut_rate or faults.ttft_stretch or faults.token_stretch)

    def fate(self, bytes_in: int) -> Fate:
        """What becomes of a request with a body of that many bytes."""
        longest = self._faults.longest_prompt_bytes
        if longest and bytes_in > longest:
            return "error"
        rates: tuple[tuple[Fate, float], ...] = (
            ("error", self._faults.error_rate),
            ("empty", self._faults.empty_rate),
            ("malformed", self._faults.malformed_rate),
            ("hang", self._faults.hang_rate),
        )
        return next((fate for fate, rate in rates if self._chance.random() < rate), "")

    async def hold(self) -> None:
        """Wait before the first byte."""
        if self._faults.ttft_delay_s:
            await asyncio.sleep(self._faults.ttft_delay_s)

    async def stream(self, chunks: AsyncIterator[bytes], start: float) -> AsyncIterator[bytes]:
        """The events of a stream whose request came at ``start`` (time.monotonic), each when it is due. Raises Cut."""
        cut = self._chance.random() < self._faults.cut_rate
        arrived: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        reader = asyncio.create_task(_note_arrivals(chunks, arrived))
        number, first = 0, 0.0
        try:
            while (item := await arrived.get()) is not None:
                at, event = item
                number, first = number + 1, first or at
                if cut and number > _CUT_AFTER:
                    raise Cut
                await asyncio.sleep(due(self._faults, start, first, at, number) - time.monotonic())
                yield event
            await reader  # an error of the upstream is an error here
        finally:
            reader.cancel()


async def _note_arrivals(chunks: AsyncIterator[bytes], arrived: asyncio.Queue[tuple[float, bytes] | None]) -> None:
    try:
        rest = b""
        async for chunk in chunks:
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                arrived.put_nowait((time.monotonic(), event + b"\n\n"))
        if rest:
            arrived.put_nowait((time.monotonic(), rest))
    finally:
        arrived.put_nowait(None)
