"""Deliberate defects of an engine process: late, slow, failing and cut answers, to try what a release does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

from engines.port import Faults

_CUT_AFTER = 3  # events of a stream that still get through


class Cut(Exception):
    """The stream ends here, without its end."""


def describe(faults: Faults) -> str:
    """The faults that are on, '' when none is."""
    on = {name: value for name, value in vars(faults).items() if value}
    return ", ".join(f"{name}={value}" for name, value in on.items())


class FaultyPath:
    """Applies faults to the requests of one process. ``chance`` decides which requests are hit."""

    def __init__(self, faults: Faults, chance: random.Random) -> None:
        self._faults, self._chance = faults, chance

    @property
    def touches_streams(self) -> bool:
        """Whether streams must be taken apart; without faults they pass as they come."""
        return bool(self._faults.token_delay_s or self._faults.cut_rate)

    def fails(self) -> bool:
        """Whether this request is to be answered with an error."""
        return self._chance.random() < self._faults.error_rate

    async def hold(self) -> None:
        """Wait before the first byte."""
        if self._faults.ttft_delay_s:
            await asyncio.sleep(self._faults.ttft_delay_s)

    async def stream(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The events of a stream, each later than it came by the sum of the delays so far. Raises Cut."""
        cut = self._chance.random() < self._faults.cut_rate
        arrived: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        reader = asyncio.create_task(_note_arrivals(chunks, arrived))
        try:
            number = 0
            while (item := await arrived.get()) is not None:
                number += 1
                if cut and number > _CUT_AFTER:
                    raise Cut
                await asyncio.sleep(item[0] + number * self._faults.token_delay_s - time.monotonic())
                yield item[1]
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
