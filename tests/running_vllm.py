"""Starts vLLM's real server for a test, and asks it things."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from running_engine import CLIENT, RunningEngine, body

from engines.port import EngineSpec, Placement
from engines.vllm.engine import Vllm
from rollout.nouns import Engine

# float32: sums in another order (three ranks instead of one) then differ by 1e-5, far less than two tokens' logits do
FIRST = EngineSpec(kind="vllm", dtype="float32", slots=2, context=512, max_queue=1, drain_s=30.0)
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time there was a",
    "1 2 3 4 5 1 2 3 4 5 1 2 3",
    "The three laws of thermodynamics are",
)
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class RunningVllm(RunningEngine):
    """One server with its ranks."""

    name: str

    def greedy(self, tokens: int = 24) -> list[str]:
        """What follows each prompt, two prompts at a time: as many as there are slots."""
        texts = []
        for i in range(0, len(PROMPTS), 2):
            answer = self.complete(list(PROMPTS[i : i + 2]), model=self.name, max_tokens=tokens, timeout=None)  # type: ignore[arg-type]
            assert answer.status_code == 200, answer.text
            texts += [choice["text"] for choice in answer.json()["choices"]]
        return texts

    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """All numbers of /metrics: name -> (labels, value)."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(CLIENT.get(f"{self.base}/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def kv_tokens(self) -> tuple[int, int]:
        """Tokens that keys and values of one instance hold: as the metrics say, and as the log does."""
        labels = self.samples()["vllm:cache_config_info"][0][0]
        logged = re.search(r"KV cache size: ([\d,]+) tokens", self.log.read_text())
        assert logged
        return int(labels["kv_cache_size_tokens"]), int(logged[1].replace(",", ""))


@contextmanager
def serving(
    kind: Vllm, engine: Engine, spec: EngineSpec, log: Path, placement: Placement = Placement()
) -> Iterator[RunningVllm]:
    """The server when it is ready; ended with all its ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = kind.serve_command(engine, spec, "127.0.0.1", port, placement)
    before = set(SHARED.glob("vllm_dist_*"))
    with log.open("wb") as out:
        process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env}, stdout=out, stderr=subprocess.STDOUT, process_group=0
        )
    running = RunningVllm(process, f"http://127.0.0.1:{port}", log, engine.served_name)
    try:
        running.await_health(200, within_s=300.0)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(kind.drain(spec).stop_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        for left in set(SHARED.glob("vllm_dist_*")) - before:  # vLLM leaves 4 MiB of each rank behind
            left.unlink()


def asked(prompt: str, **options: Any) -> dict[str, Any]:
    """A greedy completion request to the sample model."""
    return {"model": "smollm2", **body(prompt, **options)}
