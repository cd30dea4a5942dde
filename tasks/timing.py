"""How long each part of a flow takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Wraps calls and adds up their wall time by name; what lies between them is ``orchestration``.

    ``clock`` must not step; ``date`` is the time of day, for what is to be looked up in others' records.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, date: Callable[[], float] = time.time) -> None:
        self._clock, self._date, self._began = clock, date, clock()
        self._parts: dict[str, float] = {}
        self._spans: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            start, began = self._clock(), self._date()
            try:
                return call(*args, **kwargs)
            finally:
                self._parts[name] = self._parts.get(name, 0.0) + self._clock() - start
                self._spans[name] = (self._spans.get(name, (began, 0.0))[0], self._date())

        return timed

    def seconds(self) -> dict[str, float]:
        """Seconds by name, with ``total`` and ``orchestration`` (the total less all parts)."""
        total = self._clock() - self._began
        return {**self._parts, "orchestration": total - sum(self._parts.values()), "total": total}

    def spans(self) -> dict[str, tuple[float, float]]:
        """From when to when by name, epoch seconds; of a part that ran several times from the first to the last."""
        return dict(self._spans)
