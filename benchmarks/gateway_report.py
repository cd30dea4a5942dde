"""What the gateway's benchmark found, as named numbers and as tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import gateway_changes as changing
from benchmarks import gateway_load as load
from benchmarks.gateway_changes import Changes
from benchmarks.gateway_instructions import Count
from benchmarks.gateway_load import Run
from gateway.command import envoy_binary

Runs = dict[str, list[Run]]
#: What was wanted: name, sentence, bound, whether more is better.
AIMS = (
    ("full_over_bare_rps", "requests/s, full / bare", 0.85, True),
    ("full_over_bare_instructions", "instructions per request, full / bare", 1.30, False),
    ("added_p99_ms", "p99 at half load, full - bare, ms", 0.3, False),
    ("full_over_bare_streams", "streams/s, full / bare", 1.0, True),
    ("full_over_litellm_rps", "requests/s, full / LiteLLM", 15, True),
    ("full_over_vllm_router_rps", "requests/s, full / vllm-router", 1, True),
    ("full_over_sglang_router_rps", "requests/s, full / sglang-router", 1, True),
    ("change_p50_ms", "change of weights in force, p50, ms", 15, False),
    ("change_p99_ms", "change of weights in force, p99, ms", 50, False),
    ("rollback_p99_ms", "rollback in force, p99, ms", 50, False),
    ("add_version_ms", "a version added, median, ms", 300, False),
    ("records_read_per_s", "records/s to the judge, one core", 100_000, True),
)


_HEAD = "# The gateway, measured\n\nMade by `python benchmarks/gateway.py --write`; numbers are of this one run."
_CASES = """Cases, by turns in front of the same nginx (one worker, 203 bytes of JSON; for streams a server of ours):

- `direct`: no proxy. `bare`: Envoy with one listener and one cluster, no log, two workers as all others.
- `full`: our whole configuration, set through our own API: 1,000 tokens in use, a lease of 90/10 between two versions
  of which each may answer for the other, limits per service and token, a record of each request, token counts from the
  engine. `mirror`: the same with 10 % of the requests copied.
- peers as they are by default: `nginx` as a plain reverse proxy without a log, `traefik`, `vllm_router`,
  `sglang_router` (writes a line per request), `litellm` with one key. None but the last looks at the token.

Requests are POSTs of 290 bytes. "Of bare" and "over bare" are medians over rounds of ratios and differences between
neighbours; clients, upstream and proxy share the cores, so ratios and CPU time say more than requests/s. Instructions
are those in user space, which a busy machine does not change."""


@dataclass(frozen=True)
class Plan:
    """How much is measured. ``seconds`` of each run."""

    rounds: int
    seconds: int
    paced_rounds: int
    changes: int
    rollbacks: int
    versions: int


@dataclass
class Results:
    """All that was found; empty where a mode did not ask for it."""

    plan: Plan
    machine: dict[str, str]
    plain: Runs = field(default_factory=dict)
    paced: Runs = field(default_factory=dict)
    rate: float = 0.0  # requests/s of the paced runs
    streams: Runs = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    changes: Changes | None = None
    read_per_s: float | None = None
    missing: dict[str, str] = field(default_factory=dict)  # what was not measured, and why


def machine() -> dict[str, str]:
    """Where this runs, and how busy it was just before."""
    version = subprocess.run([envoy_binary(), "--version"], capture_output=True, text=True).stdout
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, shared by clients, upstream and proxy",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Envoy": next((word for word in version.strip().split("/") if word.count(".") == 2), version.strip()),
        "busy before": f"{psutil.cpu_percent(1.0):.0f} %",
    }


def figures(results: Results) -> dict[str, float]:
    """The named numbers, those that were measured."""
    numbers: dict[str, float] = {}
    ours = results.plain.get("full", [])
    for name, runs in results.plain.items():
        if name not in ("full", "mirror"):
            numbers[f"full_over_{name}_rps"] = load.paired(ours, runs, "per_s")
    if results.plain:
        numbers["mirror_over_full_rps"] = load.paired(results.plain["mirror"], ours, "per_s")
        numbers["full_over_bare_cpu"] = load.paired(ours, results.plain["bare"], "cpu_us")
    if results.paced:
        numbers["added_p50_ms"] = load.added_ms(results.paced["full"], results.paced["bare"], "p50_ms")
        numbers["added_p99_ms"] = load.added_ms(results.paced["full"], results.paced["bare"], "p99_ms")
    for name, runs in results.streams.items():
        if name not in ("full", "mirror"):
            numbers[f"full_over_{name}_streams"] = load.paired(results.streams["full"], runs, "per_s")
    if results.streams:
        bare = results.streams["bare"]
        numbers["full_over_bare_stream_cpu"] = load.paired(results.streams["full"], bare, "cpu_us")
    if "full" in results.counts:
        whole = results.counts["full"].per_request
        for name, counted in results.counts.items():
            if name != "full":
                numbers[f"full_over_{name}_instructions"] = whole / counted.per_request
    if results.changes:
        numbers |= changing.figures(results.changes)
    if results.read_per_s:
        numbers["records_read_per_s"] = results.read_per_s
    return {name: round(value, 4) for name, value in numbers.items()}


def show(results: Results, as_json: bool) -> None:
    """The tables, or one JSON object."""
    print(json.dumps(figures(results)) if as_json else "\n\n".join(tables(results)))


def headline(results: Results) -> str:
    """The figure."""
    numbers = figures(results)
    change = f"a change is in force after {numbers['change_p50_ms']:.1f} ms, p99 {numbers['change_p99_ms']:.1f} ms"
    if "full_over_bare_rps" not in numbers:
        return change
    kept = f"full keeps {numbers['full_over_bare_rps']:.0%} of bare's requests/s"
    kept += f" and adds {numbers['added_p99_ms']:.2f} ms at p99"
    counted = numbers.get("full_over_bare_instructions")
    return f"{kept}; {change}" + (f"; {counted:.2f} x bare's instructions" if counted else "")


def write(results: Results, where: Path) -> None:
    """``gateway.md`` and ``gateway.json`` in the folder of results."""
    described = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    put(where / "gateway.md", "\n\n".join([_HEAD, described, _CASES, *tables(results)]) + "\n")
    put(where / "gateway.json", json.dumps({"machine": results.machine, **figures(results)}, indent=1) + "\n")


def put(path: Path, text: str) -> None:
    """Write one file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tables(results: Results) -> list[str]:
    """All that was measured, in Markdown."""
    plan = results.plan
    parts = [_aims(figures(results))]
    if results.plain:
        often = f"{plan.rounds} x {plan.seconds} s"
        title = f"Whole answers, {load.CONNECTIONS} connections, as fast as they come ({often})"
        parts.append(_runs(title, results.plain, "requests/s"))
        title = f"Whole answers at half of our own rate, {results.rate:,.0f} requests/s ({plan.paced_rounds} rounds)"
        parts.append(_runs(title, results.paced, "requests/s"))
    if results.streams:
        title = f"Streams of 64 chunks 10 ms apart, {load.STREAM_CLIENTS} open; latency is the first byte's"
        parts.append(_runs(title, results.streams, "streams/s"))
    if results.counts:
        parts.append(_counts(results.counts))
    if results.changes:
        parts.append(_changes(results.changes))
    if results.missing:
        parts.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in results.missing.items()))
    return parts


def profile(found: dict[str, Count]) -> str:
    """The table of an ablation: what a request costs without each part of our configuration, dearest first."""
    whole, bare = found["nothing"].per_request, found["bare"].per_request
    parts = sorted((c.per_request, name) for name, c in found.items() if name not in ("bare", "nothing"))
    rows = [["bare Envoy", f"{bare / 1000:.1f}", "", ""]]
    rows.append(["full", f"{whole / 1000:.1f}", "", f"{whole / bare:.3f}"])
    for each, name in parts:
        numbers = [f"{each / 1000:.1f}", f"{(each - whole) / 1000:+.1f}", f"{each / bare:.3f}"]
        rows.append([f"full without {name}", *numbers])
    return _table("k instructions per request", ["", "k", "difference", "of bare"], rows)


def profile_page(table: str) -> str:
    """The profile as a page of its own."""
    head = "# What a request costs in the gateway\n\nMade by `python benchmarks/gateway.py --ablate --write`."
    described = "\n".join(f"- {name}: {value}" for name, value in machine().items())
    return "\n\n".join([head, described, table]) + "\n"


def _aims(numbers: dict[str, float]) -> str:
    rows = []
    for name, sentence, bound, more in AIMS:
        if name in numbers:
            met = numbers[name] >= bound if more else numbers[name] <= bound
            aim = f"{'at least' if more else 'at most'} {bound:,g}"
            rows.append([sentence, f"`{name}`", f"{numbers[name]:,.4g}", aim, "yes" if met else "no"])
    return _table("Aims", ["", "name", "measured", "aim", "met"], rows)


def _runs(title: str, runs: Runs, unit: str) -> str:
    rows = []
    for name, found in runs.items():
        ratio = load.paired(found, runs["bare"], "per_s")
        slowest, fastest = min(r.per_s for r in found), max(r.per_s for r in found)
        cpu = load.middle(found, "cpu_us")
        rows.append(
            [
                name,
                f"{load.middle(found, 'per_s'):,.0f}",
                f"{slowest:,.0f} to {fastest:,.0f}",
                f"{ratio:.2f}",
                f"{load.middle(found, 'p50_ms'):.2f}",
                f"{load.middle(found, 'p99_ms'):.2f}",
                f"{load.added_ms(found, runs['bare'], 'p50_ms'):+.2f}",
                f"{load.added_ms(found, runs['bare'], 'p99_ms'):+.2f}",
                f"{cpu:,.0f}" if cpu else "",
                str(sum(r.errors for r in found)),
            ]
        )
    head = [unit, "range", "of bare", "p50 ms", "p99 ms", "p50 over bare", "p99 over bare", "CPU us each", "errors"]
    return _table(title, ["case", *head], rows)


def _counts(counts: dict[str, Count]) -> str:
    bare = counts["bare"].per_request
    rows = [[name, f"{c.per_request / 1000:.1f}", f"{c.per_request / bare:.3f}"] for name, c in counts.items()]
    return _table("Instructions per request (callgrind, one worker)", ["case", "k", "of bare"], rows)


def _changes(found: Changes) -> str:
    rows = []
    for kind, times in found.in_force.items():
        for what, values in (("call", found.calls[kind]), ("first", found.first[kind]), ("in force", times)):
            quantiles = [f"{changing.quantile(values, share):.1f}" for share in (0.5, 0.95, 0.99, 1.0)]
            rows.append([kind, what, str(len(values)), *quantiles])
    added = [f"{changing.quantile(found.add_version, share):.1f}" for share in (0.5, 0.95, 0.99, 1.0)]
    rows.append(["version added", "call", str(len(found.add_version)), *added])
    title = f"Changes under {found.requests_per_s:,.0f} requests/s on open connections, ms ({found.failed} failed"
    title += f", {found.unsettled} not in force before the next)" if found.unsettled else ")"
    return _table(title, ["change", "until", "count", "p50", "p95", "p99", "most"], rows)


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
