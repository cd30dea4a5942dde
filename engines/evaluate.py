"""A small, repeatable look at a built engine: how fast it answers, and whether its answers are still sane.

Twelve prompts are decoded greedily, one after the other, through the real server. ``expected_share`` is the share of
answers that hold a word that a right answer must hold; ``clean_share`` the share that are neither empty nor stuck in a
loop. Twelve questions tell a broken quantisation from a working one. They do not rank good models.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import artifacts
from engines.port import EngineSpec, LocalSettings, open_engine
from rollout.answers import is_loop
from rollout.errors import Unavailable
from rollout.nouns import Engine

PROMPTS = Path(__file__).with_name("prompts.jsonl")
_TOKENS = 48


@dataclass(frozen=True)
class Answer:
    """One decoded answer; seconds by this client's clock."""

    text: str
    expect: str
    ttft_s: float
    tokens: int
    tokens_per_s: float


def is_clean(text: str) -> bool:
    """Not empty, and no four words in a row more than twice."""
    return bool(text.strip()) and not is_loop(text)


def is_expected(text: str, expect: str) -> bool:
    """Whether one of the words in ``expect``, separated by |, is in the text as a word."""
    return re.search(rf"\b({expect})", text, re.IGNORECASE) is not None


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """The figures for ``dvc metrics``."""
    return {
        "prompts": len(answers),
        "expected_share": round(sum(is_expected(a.text, a.expect) for a in answers) / len(answers), 4),
        "clean_share": round(sum(is_clean(a.text) for a in answers) / len(answers), 4),
        "ttft_s_mean": round(statistics.fmean(a.ttft_s for a in answers), 4),
        "tokens_per_s": round(statistics.fmean(a.tokens_per_s for a in answers), 2),
        "tokens": sum(a.tokens for a in answers),
    }


def engine_at(place: Path) -> Engine:
    """The engine in ``place``, or the only one in a folder of engines, its files hashed again. Raises Corrupt."""
    inside = [p.parent for p in sorted(place.glob(f"*/{artifacts.MANIFEST}"))]
    directory = inside[0] if len(inside) == 1 and not (place / artifacts.MANIFEST).exists() else place
    manifest = artifacts.verify(directory)
    size = sum(f["size"] for f in manifest["files"])
    return Engine(manifest["kind"], manifest["digest"], str(directory), manifest["model"]["name"], size, 0.0, True)


def evaluate(place: Path, spec: EngineSpec) -> dict[str, float]:
    """Start the engine in ``place``, decode the prompts, stop it. Raises Corrupt, Unavailable."""
    engine = engine_at(place)
    lines = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    with serving(engine, spec) as base:
        _ask(base, "Hello", "")  # the first answer also pays for touching the weights
        figures = summary([_ask(base, line["prompt"], line["expect"]) for line in lines])
    return {**figures, "bytes": engine.size}


@contextmanager
def serving(engine: Engine, spec: EngineSpec) -> Iterator[str]:
    """The address of a ready instance. Raises Unavailable when it does not become ready."""
    kind = open_engine(engine.kind, LocalSettings(str(Path(engine.directory).parent)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, ready = kind.serve_command(engine, spec, "127.0.0.1", port), kind.readiness(spec)
    process = subprocess.Popen(command.argv, stdout=subprocess.DEVNULL)
    try:
        _await_ready(process, f"http://127.0.0.1:{port}{ready.path}", ready.load_s)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(command.stop_s)


def _await_ready(process: subprocess.Popen[bytes], url: str, within_s: float) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise Unavailable(f"the engine did not become ready within {within_s:g} s (exit status {process.poll()})")


def _ask(base: str, prompt: str, expect: str) -> Answer:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": _TOKENS, "temperature": 0, "stream": True}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    start, first, text, timings = time.monotonic(), None, "", {}
    with urllib.request.urlopen(request, timeout=120) as response:
        for event in _events(response):
            delta = event["choices"][0]["delta"].get("content") if event.get("choices") else None
            if delta:
                first = first or time.monotonic()
                text += delta
            timings = event.get("timings", timings)
    return Answer(
        text, expect, (first or time.monotonic()) - start, timings["predicted_n"], timings["predicted_per_second"]
    )


def _events(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])
