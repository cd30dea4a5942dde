"""How long each part of a flow takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Wraps calls and adds up their wall time by name; what lies between them is ``orchestration``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began, self._parts = clock, clock(), {}

    def __call__(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            start = self._clock()
            try:
                return call(*args, **kwargs)
            finally:
                self._parts[name] = self._parts.get(name, 0.0) + self._clock() - start

        return timed

    def seconds(self) -> dict[str, float]:
        """Seconds by name, with ``total`` and ``orchestration`` (the total less all parts)."""
        total = self._clock() - self._began
        return {**self._parts, "orchestration": total - sum(self._parts.values()), "total": total}
