"""The load test's interface: a plan, a report, one verb. Locust itself runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class LoadPlan:
    """What to send and for how long. ``headers`` may hold a token and is never written to a file or shown."""

    url: str  # base, for example http://127.0.0.1:18100 or http://127.0.0.1:8800/api/predict/chat
    users: int = 2  # virtual clients, each with one request open at a time
    duration_s: float = 10.0
    max_tokens: int = 16
    api: Literal["chat", "completions"] = "completions"
    stream: bool = True
    ramp_s: float = 0.0  # spread the start of the users over this time
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    prompts: tuple[str, ...] = ()  # empty: the bundled ones, each made unique so that no prefix cache helps
    model: str = ""  # the body's ``model``; empty: left out, the server takes the one it serves
    timeout_s: float = 60.0  # a request fails when no byte came for this long


@dataclass(frozen=True)
class Quantiles:
    """Of raw samples, in seconds, never of rounded ones."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    n: int


@dataclass(frozen=True)
class LoadReport:
    """What was measured. Rates per second, of requests that succeeded; files are absolute paths in ``directory``.

    ``failed`` holds every request that did not end well, the ``cut`` ones too (an answer that began and did not end).
    TTFT, TPOT = (t_n - t_1) / (N - 1) and E2E are of the requests that succeeded, timed from the send.
    """

    requests: int
    failed: int
    cut: int
    seconds: float
    requests_per_s: float
    tokens_per_s: float
    ttft: Quantiles | None
    tpot: Quantiles | None
    e2e: Quantiles | None
    errors: tuple[tuple[str, int], ...]
    directory: str
    seconds_file: str  # one JSON line per second
    samples_file: str  # one JSON line per request
    page: str  # HTML
    tokens: int = 0  # output tokens received
    warnings: tuple[str, ...] = ()  # why the numbers may be worse than the server: the client itself was short of time


OnSecond = Callable[[dict[str, float]], None]


class LoadTest(Protocol):
    """The verb. Implementations: ``run.LocustLoadTest``, ``memory.MemoryLoadTest``."""

    def run(self, plan: LoadPlan, directory: str, on_second: OnSecond) -> LoadReport:
        """Run to the end; ``on_second`` sees each second as it passes. Raises Refused, Unavailable.

        A second has ``t`` (s since the start), ``span_s``, ``requests`` (ended), ``failed``, ``cut``, ``tokens``,
        ``in_flight``, ``client_cpu`` (share of a core), ``lag_s``, and ``{ttft,tpot,e2e}_{p50,p95}`` (s) where a
        request ended well.
        """


@dataclass(frozen=True)
class LocustSettings:
    """Locust, headless, in a process of its own."""

    nice: int = 10
    kind: Literal["locust"] = "locust"


@dataclass(frozen=True)
class MemorySettings:
    """A load test that sends nothing, for tests: a server of these latencies, some of whose requests fail."""

    ttft_s: float = 0.02
    tpot_s: float = 0.01
    fail_every: int = 0  # each n-th request fails; 0: none
    unreachable: tuple[str, ...] = ()  # URLs at which nothing answers
    kind: Literal["memory"] = "memory"


LoadTestSettings = LocustSettings | MemorySettings


def open_loadtest(settings: LoadTestSettings) -> LoadTest:
    """The implementation that ``settings`` asks for, by its type; an unknown one fails loudly."""
    match settings:
        case LocustSettings():
            from loadtest.run import LocustLoadTest

            return LocustLoadTest(settings)
        case MemorySettings():
            from loadtest.memory import MemoryLoadTest

            return MemoryLoadTest(settings)
    raise TypeError(f"no load test for settings of type {type(settings).__name__}")
