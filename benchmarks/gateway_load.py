"""Load on one case, and what it cost: wrk for whole answers (closed loop, or paced), our own clients for streams."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_parts import HOST, QUESTION, Served

CONNECTIONS = 64
STREAM_CLIENTS = 200

#: Requests are made once, one per token; ``delay`` (in milliseconds, before each request) is exponential around its
#: mean, so that arrivals are as good as independent and the rate holds whatever the answers take.
_SCRIPT = """
local requests, n = {}, 0
init = function(args)
  wrk.method, wrk.body = "POST", %(body)s
  wrk.headers["content-type"] = "application/json"
  for i, token in ipairs(%(tokens)s) do
    wrk.headers["authorization"] = "Bearer " .. token
    requests[i] = wrk.format(nil, %(path)s)
  end
  math.randomseed(%(seed)d)
end
request = function() n = n %% #requests + 1; return requests[n] end
%(delay)s
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format('{"requests": %%d, "us": %%d, "errors": %%d, "p50": %%f, "p99": %%f}', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
_DELAY = "delay = function() return math.floor(-%f * math.log(1 - math.random()) + math.random()) end"


@dataclass(frozen=True)
class Run:
    """One run of load. ``cpu_us`` is the proxy's own processor time per request (or stream)."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int


def plain(served: Served, seconds: int, rate: float | None = None) -> Run:
    """POSTs of a chat over 64 open connections; as fast as answers come, or ``rate`` per second in all."""
    served.prepare()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(served, rate))
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script.name]
        before = served.cpu_s()
        out = subprocess.run([*command, f"http://{HOST}:{served.port}/"], capture_output=True, text=True, check=True)
        cpu_s = served.cpu_s() - before
    told = json.loads(next(line for line in out.stdout.splitlines() if line.startswith("{")))
    count = max(1, told["requests"])
    return Run(count / told["us"] * 1e6, told["p50"] / 1e3, told["p99"] / 1e3, cpu_s / count * 1e6, told["errors"])


def streams(served: Served, seconds: float) -> Run:
    """200 clients, each asking for a stream of 64 chunks as soon as its last one ended. Latency: the first byte's."""
    served.prepare()
    script = Path(__file__).with_name("gateway_streams.py")
    words = ["ask", served.port, served.path, served.tokens[0], STREAM_CLIENTS, seconds]
    before = served.cpu_s()
    command = [sys.executable, str(script), *map(str, words)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu_s = served.cpu_s() - before
    told = json.loads(out.stdout)
    count = max(1, told["streams"])
    cpu_us = cpu_s / count * 1e6
    return Run(count / told["seconds"], told["first_p50_ms"], told["first_p99_ms"], cpu_us, told["broken"])


def alternating(
    cases: list[Served], rounds: int, load: Callable[[Served], Run], tell: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Every case once a round, forward and backward by turns; runs by the case's name, in the order of rounds."""
    found: dict[str, list[Run]] = {case.name: [] for case in cases}
    for turn in range(rounds):
        for case in cases if turn % 2 == 0 else reversed(cases):
            run = load(case)
            found[case.name].append(run)
            tell(f"round {turn + 1}/{rounds} {case.name}: {run.per_s:,.0f}/s, p99 {run.p99_ms:.2f} ms")
            time.sleep(0.3)
    return found


def middle(runs: Iterable[Run], what: str) -> float:
    """The median of one of the runs' numbers."""
    return statistics.median(getattr(run, what) for run in runs)


def paired(above: list[Run], below: list[Run], what: str) -> float:
    """The median over rounds of a ratio: neighbours in time share the machine's mood."""
    pairs = zip(above, below, strict=True)
    return statistics.median(getattr(a, what) / max(getattr(b, what), 1e-9) for a, b in pairs)


def added_ms(above: list[Run], below: list[Run], what: str) -> float:
    """The median over rounds of a difference of latencies, in milliseconds."""
    return statistics.median(getattr(a, what) - getattr(b, what) for a, b in zip(above, below, strict=True))


def missing_tools() -> list[str]:
    """Programs that the benchmark cannot do without."""
    return [name for name in ("nginx", "wrk") if shutil.which(name) is None]


def _script(served: Served, rate: float | None) -> str:
    tokens = "{" + ",".join(json.dumps(token) for token in served.tokens) + "}"
    delay = _DELAY % (CONNECTIONS / rate * 1000) if rate else ""
    told = {"body": json.dumps(QUESTION), "path": json.dumps(served.path), "tokens": tokens, "delay": delay}
    return _SCRIPT % {**told, "seed": int(time.time() * 1000) % 2**31}
