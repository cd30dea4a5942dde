"""Asks instances how they are, and warms them up, beside the main loop so that a hung one delays nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from agent.asking import REQUEST_S, SILENCE_S, NotAccepted, ask_over
from agent.warm_up import MOST_S, PLAIN, warm_up
from engines.warm_up import read_requests
from rollout.errors import RoundhouseError


@dataclass
class _Health:
    answers: bool = False
    asked_at: float = float("-inf")
    failing_since: float | None = None
    pending: Future[bool] | None = None


class Probes:
    """Health of instances by URL, asked each ``every_s``; warm-ups by instance id. Reads never wait.

    ``clock`` must not step: it measures how long an instance that *was asked* has not answered. Time in which nobody
    asked says nothing of an instance.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, every_s: float = 0.5) -> None:
        self._clock, self._every_s = clock, every_s
        self._askers = ThreadPoolExecutor(max_workers=16, thread_name_prefix="probe")
        self._warmers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="warm-up")
        self._http = httpx.Client(timeout=httpx.Timeout(2.0, connect=1.0), trust_env=False)
        self._health: dict[str, _Health] = {}
        self._warm: dict[str, tuple[Future[dict[str, float]], threading.Event]] = {}  # with what gives it up

    def health(self, url: str) -> tuple[bool, float]:
        """(whether the last probe was answered with 200, seconds since the first one in a row that was not)."""
        known, now = self._health.setdefault(url, _Health()), self._clock()
        if known.pending is not None and known.pending.done():
            known.answers, known.pending = known.pending.result(), None
            known.failing_since = None if known.answers else (known.failing_since or known.asked_at)
        if known.pending is None and now - known.asked_at >= self._every_s:
            known.asked_at, known.pending = now, self._askers.submit(self._ask, url)
        return known.answers, 0.0 if known.failing_since is None else now - known.failing_since

    def warm_up(self, instance_id: str, base_url: str, wanted: WarmUp) -> None:
        """Start a warm-up, unless one of this instance is under way."""
        if instance_id not in self._warm:
            ended = threading.Event()
            self._warm[instance_id] = self._warmers.submit(run_warm_up, base_url, wanted, ended.is_set), ended

    def warm_up_result(self, instance_id: str) -> tuple[dict[str, float] | None, str]:
        """(numbers once it is done, error)."""
        future, _ = self._warm.get(instance_id, (None, None))
        if future is None or not future.done():
            return None, ""
        del self._warm[instance_id]
        error = future.exception()
        if error is None:
            return future.result(), ""
        return None, str(error) if isinstance(error, RoundhouseError) else f"{type(error).__name__}: {error}"

    def forget(self, url: str, instance_id: str) -> None:
        """Of an instance that is started anew or gone: what was known of the old process means nothing."""
        self._health.pop(url, None)
        future, ended = self._warm.pop(instance_id, (None, None))
        if future is not None and ended is not None:
            ended.set()
            future.cancel()  # where it has not begun

    def _ask(self, url: str) -> bool:
        try:
            return self._http.get(url).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass(frozen=True)
class WarmUp:
    """What an instance is warmed up with: at least ``least`` requests, of its engine's own that fit ``context``."""

    engine_directory: str
    model: str  # as its server calls it
    least: int
    context: int = 0  # tokens of one request; 0: whatever the engine's requests are
    most_s: float = MOST_S  # after which no further request is begun


def run_warm_up(
    base_url: str, wanted: WarmUp, given_up: Callable[[], bool] = lambda: False, most_s: float = REQUEST_S
) -> dict[str, float]:
    """``warm_up.warm_up`` over HTTP, each request within ``most_s``; with plain requests where the engine accepts none
    of its own. Raises Unavailable, Corrupt."""
    own = read_requests(wanted.engine_directory, wanted.context)
    timeout = httpx.Timeout(SILENCE_S, connect=5.0)
    with httpx.Client(base_url=base_url, timeout=timeout, trust_env=False) as http:
        ask = ask_over(http, wanted.model, given_up, most_s)
        try:
            return warm_up(own or PLAIN, wanted.least, ask, most_s=wanted.most_s)
        except NotAccepted:
            if not own:
                raise
        return {**warm_up(PLAIN, wanted.least, ask, most_s=wanted.most_s), "skipped": float(len(own))}
