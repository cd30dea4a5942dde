"""Where a release's time goes, cold and with a warm cache, on the real stack.

    python benchmarks/release.py [--quick] [--json]

Phases come from the release's own record; ``start of the run`` is from the request to the first task (Prefect's worker
starts a process), the rest is measured inside the flow. Overhead is all that is neither engine work (build, start and
warm-up of instances, stress) nor waiting for evidence. ``--quick`` releases a first version twice (cold, then cached);
without it a third release goes through mirror and canary under real traffic. The physical limit beside the cached
build is a plain stat of its files; beside the cold one, a read of the model's bytes. Uses the service ``demo``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cli.demo import MODEL, SERVICE, Demo, _forget_last_time, _start_client
from cli.follow import follow_release
from cli.prefect_api import PrefectApi
from cli.stack import up
from configs.engine_sources import plan_engine
from configs.order import order
from configs.stack import Stack, load_stack
from engines.port import open_engine
from model_registry.port import open_registry
from model_registry.sample import sample_model_file
from model_registry.sources import fetch_any

ENGINE_WORK = ("build", "warm up", "stress")
WAITING = ("evidence",)


def main() -> int:
    """Run it; the figure is on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two releases, under a minute")
    parser.add_argument("--json", action="store_true", help="one object {name: number}")
    asked = parser.parse_args()
    stack = load_stack()
    up(stack, lambda step, state: None)
    uri = a_model(stack)
    forget(stack, "f16")
    rows = {"cold": one_release(stack, uri, "f16", "direct")}
    _forget_last_time(stack)
    rows["cached"] = one_release(stack, uri, "f16", "direct")
    if not asked.quick:
        rows["under traffic"] = under_traffic(stack, uri)
    numbers = figures(rows, *cached_build(uri))
    show(rows, numbers, asked.json)
    return 0


def a_model(stack: Stack) -> str:
    """A registered version of the sample model, made now if there is none."""
    registry = open_registry(stack.registry())
    try:
        known = registry.versions(MODEL)
    except Exception:  # not registered yet
        known = []
    if known:
        return known[0].uri
    source = sample_model_file(stack.cache, lambda what, share: None)
    return registry.register(MODEL, str(source.parent), "sample", lambda what, share: None).uri


def forget(stack: Stack, engine: str) -> None:
    """Make the next build cold: no service, and no engine of this quantisation (of any service on this machine)."""
    _forget_last_time(stack)
    wanted = order(SERVICE, engine=engine)
    for manifest in Path(stack.engines().directory).glob("*/manifest.json"):
        if json.loads(manifest.read_text())["spec"]["quantization"] == wanted.spec.quantization:
            shutil.rmtree(manifest.parent)


def one_release(stack: Stack, uri: str, engine: str, rollout: str) -> dict[str, float]:
    """Seconds by phase, from the request to the confirmed promotion."""
    api, asked = PrefectApi(stack), time.time()
    run = api.start("release", {"service": SERVICE, "model": uri, "engine": engine, "rollout": rollout})
    release = follow_release(stack, run.id, quiet=True)
    phases = {k: v for k, v in release.evidence["seconds"].items() if k != "total"}
    total = float(release.finished_at or 0.0) - asked
    begun = release.created_at - asked
    return {"start of the run": begun, **phases, "total": total, "overhead": overhead(phases, total)}


def overhead(phases: dict[str, float], total: float) -> float:
    """Seconds that are neither engine work nor waiting for evidence."""
    return total - sum(phases.get(name, 0.0) for name in (*ENGINE_WORK, *WAITING))


def under_traffic(stack: Stack, uri: str) -> dict[str, float]:
    """A second version against the first, while a client streams."""
    demo = Demo(stack, time.monotonic(), quiet=True)
    client = _start_client(demo)
    try:
        return one_release(stack, uri, "q8_0", "direct")
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(60)


def cached_build(uri: str) -> tuple[float, float]:
    """(seconds of plan and build of a finished engine, seconds to stat its files), medians of nine."""
    wanted = order(SERVICE, uri, "f16")
    model = fetch_any(uri, wanted.stack.registry(), lambda what, share: None)
    kind = open_engine(wanted.spec.kind, wanted.stack.engines())
    ours, limit = [], []
    for _ in range(9):
        began = time.perf_counter()
        plan = plan_engine(wanted.stack, wanted.spec, model, lambda what, share: None)
        engine = kind.build(plan, lambda what, share: None)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        for file in Path(engine.directory).iterdir():
            file.stat()
        limit.append(time.perf_counter() - began)
    assert engine.cached
    return sorted(ours)[4], sorted(limit)[4]


def figures(rows: dict[str, dict[str, float]], cached_s: float, stat_s: float) -> dict[str, float]:
    """The named numbers."""
    last = rows.get("under traffic", rows["cached"])
    return {
        "overhead_s": last["overhead"],
        "overhead_cold_s": rows["cold"]["overhead"],
        "run_start_s": last["start of the run"],
        "cached_build_s": cached_s,
        "cached_build_over_stat": cached_s / max(stat_s, 1e-9),
        "cold_build_s": rows["cold"]["build"],
    }


def show(rows: dict[str, dict[str, float]], numbers: dict[str, float], as_json: bool) -> None:
    """The table and the figure, or one JSON object."""
    if as_json:
        print(json.dumps({name: round(value, 4) for name, value in numbers.items()}))
        return
    names: list[str] = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"{'seconds':20}" + "".join(f"{name:>16}" for name in rows))
    for name in names:
        print(f"{name:20}" + "".join(_cell(row.get(name)) for row in rows.values()))
    cached_ms, ratio = numbers["cached_build_s"] * 1000, numbers["cached_build_over_stat"]
    print(f"cached build {cached_ms:.1f} ms ({ratio:.0f} x a stat of its files)")
    print(f"overhead {numbers['overhead_s']:.2f} s, neither engine work nor waiting for evidence")


def _cell(value: Any) -> str:
    return f"{'':16}" if value is None else f"{value:16.2f}"


if __name__ == "__main__":
    sys.exit(main())
