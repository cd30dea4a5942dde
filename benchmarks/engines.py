"""What our engine process costs beside llama.cpp alone, and how long builds, starts and look-ups take.

    python benchmarks/engines.py [--quick] [--json]

All with the sample model, on the processor. ``server_over_bare_tokens``: tokens/s of our server process over those of
the wheel's own server, same settings, same streamed requests, two at a time, by turns; the median of the ratios of
neighbours, for machines drift. ``ready_over_read``: from the start of the process to the first 200 of /health, over the
time to read its file, both with the file's pages dropped from memory before (cold; ``warm`` without that); the bound is
2 times + 1 s. ``cache_hit_ms``: look at the machine, plan, and find the finished engine. Builds go to a new directory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this file bears the name of the package that it measures

from engines.evaluate import serving  # noqa: E402
from engines.hardware import read_hardware  # noqa: E402
from engines.llama_build import MODEL_FILE  # noqa: E402
from engines.llama_params import params_of  # noqa: E402
from engines.local_model import read_local_model  # noqa: E402
from engines.port import EngineSpec, LocalSettings, open_engine  # noqa: E402
from model_registry.sample import sample_model_file  # noqa: E402
from rollout.nouns import Engine, ModelVersion  # noqa: E402

SPEC = EngineSpec(quantization="Q8_0", slots=2, context=1024)
QUICK, WHOLE = ("F16", "Q8_0", "Q4_0"), ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0", "Q4_K")
TOKENS, TWO = 32, 2
AIMS = {"server_over_bare_tokens": 0.97, "ready_over_bound": 1.0, "cache_hit_ms": 100.0}
Numbers = dict[str, float]


def main() -> int:
    """Run it; the figure is on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one object {name: number}")
    asked = parser.parse_args()
    cache = Path(os.environ.get("ROUNDHOUSE_CACHE", ROOT / ".roundhouse" / "cache"))
    model = read_local_model(sample_model_file(cache, lambda what, share: None), "smollm2")
    with tempfile.TemporaryDirectory(prefix="engines-") as place:
        numbers, engine = builds(model, place, QUICK if asked.quick else WHOLE)
        numbers |= cache_hit(model, place)
        numbers |= starts(engine, 3 if asked.quick else 9)
        numbers |= speed(engine, 12 if asked.quick else 40)
    show(numbers, asked.json)
    return 0


def builds(model: ModelVersion, place: str, quantizations: Sequence[str]) -> tuple[Numbers, Engine]:
    """Seconds and megabytes by quantisation, and the engine that the rest is measured with."""
    numbers, kept = {}, None
    kind, hardware = open_engine("llama_cpp", LocalSettings(place)), read_hardware(place)
    for quantization in quantizations:
        plan = kind.plan(model, replace(SPEC, quantization=quantization), hardware)
        engine = kind.build(plan, lambda what, share: None)
        name = quantization.lower()
        numbers |= {f"build_{name}_s": engine.build_s, f"size_{name}_mb": engine.size / 1e6}
        kept = engine if quantization == SPEC.quantization else kept
    assert kept is not None
    return numbers, kept


def cache_hit(model: ModelVersion, place: str) -> Numbers:
    """Median of fifteen look-ups, in milliseconds."""
    times = []
    for _ in range(15):
        began = time.perf_counter()
        kind = open_engine("llama_cpp", LocalSettings(place))
        engine = kind.build(kind.plan(model, SPEC, read_hardware(place)), lambda what, share: None)
        times.append(time.perf_counter() - began)
        assert engine.cached
    return {"cache_hit_ms": statistics.median(times) * 1000}


def starts(engine: Engine, rounds: int) -> Numbers:
    """Start-to-ready and read times, by turns; medians."""
    file, seen = Path(engine.directory) / MODEL_FILE, {"read": [], "ready": [], "warm_read": [], "warm_ready": []}
    for _ in range(rounds):
        for prefix, prepare in (("", forget), ("warm_", touch)):
            prepare(file)
            seen[f"{prefix}read"].append(seconds(lambda: touch(file)))
            prepare(file)
            seen[f"{prefix}ready"].append(seconds(lambda: _start(engine)))
    found = {f"{name}_s": statistics.median(times) for name, times in seen.items()}
    ready, read = found["ready_s"], found["read_s"]
    return {**found, "ready_over_read": ready / read, "ready_over_bound": ready / (2 * read + 1)}


def _start(engine: Engine) -> None:
    """Until it is ready; ending it is not counted, since a new one may begin before that."""
    _running.append(serving(engine, SPEC))
    _running[-1].__enter__()


_running: list = []


def seconds(work: Callable[[], object]) -> float:
    """How long it takes; what it started is ended afterwards."""
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    while _running:
        _running.pop().__exit__(None, None, None)
    return took


def forget(file: Path) -> None:
    """Drop the file's pages from the page cache (Linux; needs no privilege, and the file must be on disk)."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def touch(file: Path) -> None:
    """Read it from beginning to end."""
    buffer = bytearray(1 << 20)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


@contextmanager
def bare(engine: Engine) -> Iterator[str]:
    """The wheel's own server in a process of its own, with the same settings."""
    params = params_of(SPEC, str(Path(engine.directory) / MODEL_FILE))
    words = ("--params", json.dumps(params), "--name", engine.served_name, "--parent", str(os.getpid()))
    command = [sys.executable, "-m", "engines.llama_child", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    try:
        yield process.stdout.readline().decode().strip()
    finally:
        process.stdin.close()
        process.wait(20)


def speed(engine: Engine, rounds: int) -> Numbers:
    """Tokens/s of both, by turns, forward and backward."""
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    with serving(engine, SPEC) as ours, bare(engine) as alone:
        addresses = {"ours": ours, "bare": alone}
        for address in addresses.values():
            tokens_per_s(address, 0)
        for number in range(rounds):
            for name in sorted(addresses, reverse=number % 2 == 1):
                rates[name].append(tokens_per_s(addresses[name], number))
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    return {
        "server_tokens_per_s": statistics.median(rates["ours"]),
        "bare_tokens_per_s": statistics.median(rates["bare"]),
        "server_over_bare_tokens": statistics.median(ratios),
    }


def tokens_per_s(address: str, number: int) -> float:
    """Two streams at once, begun together; a prompt of their own each, so that nothing of them is kept already."""
    clients = [threading.Thread(target=_stream, args=(address, f"{number} {n} is a number that")) for n in range(TWO)]
    began = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return TWO * TOKENS / (time.perf_counter() - began)


def _stream(address: str, prompt: str) -> None:
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    text = connection.getresponse().read()
    connection.close()
    assert text.endswith(b"data: [DONE]\n\n") and text.count(b"data: ") >= TOKENS, text[-200:]


def show(numbers: Numbers, as_json: bool) -> None:
    """The table and the figure, or one JSON object."""
    if as_json:
        print(json.dumps({name: round(value, 4) for name, value in numbers.items()}))
        return
    for name, value in numbers.items():
        aim = f"   aim {'>=' if name.endswith('tokens') else '<='} {AIMS[name]:g}" if name in AIMS else ""
        print(f"{name:28}{value:12.3f}{aim}")
    print(
        f"our server gives {numbers['server_over_bare_tokens']:.1%} of the bare server's tokens/s; ready in "
        f"{numbers['ready_s']:.2f} s cold, the file is read in {numbers['read_s']:.2f} s; "
        f"cache hit {numbers['cache_hit_ms']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
