"""Starts a real engine process for a test, and ends it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engines.port import EngineKind, EngineSpec, Placement
from rollout.nouns import Engine

#: making a client costs more than a request: it reads all certificates
CLIENT = httpx.Client(verify=False, trust_env=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(frozen=True)
class RunningEngine:
    """One engine process."""

    process: subprocess.Popen[bytes]
    base: str
    log: Path

    def health(self) -> int | None:
        """The status of /health, None where nobody listens."""
        try:
            return CLIENT.get(f"{self.base}/health", timeout=2).status_code
        except httpx.TransportError:
            return None

    def await_health(self, status: int | None, within_s: float = 60.0) -> None:
        """Wait until /health answers that."""
        end = time.monotonic() + within_s
        while self.health() != status:
            assert time.monotonic() < end, f"health is {self.health()}, not {status}:\n{self.log.read_text()}"
            time.sleep(0.02)

    def complete(self, prompt: str = "Once upon a time", **options: Any) -> httpx.Response:
        """One completion that is not streamed."""
        return CLIENT.post(f"{self.base}/v1/completions", json=body(prompt, **options))

    def metric(self, name: str) -> float:
        """One number of /metrics."""
        lines = CLIENT.get(f"{self.base}/metrics", timeout=5).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))

    def children(self) -> list[int]:
        """The pids of its child processes."""
        return [
            int(p)
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
            for p in (task / "children").read_text().split()
        ]


def body(prompt: str = "Once upon a time", **options: Any) -> dict[str, Any]:
    """A greedy completion request."""
    return {"prompt": prompt, "max_tokens": 8, "temperature": 0, **options}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON events of a stream's text, without [DONE]."""
    lines = [line[6:] for line in text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@contextmanager
def running_engine(
    kind: EngineKind,
    engine: Engine,
    spec: EngineSpec,
    log: Path,
    ready: bool = True,
    placement: Placement = Placement(),
) -> Iterator[RunningEngine]:
    """The process, ready or just started; killed at the end if it still runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = kind.serve_command(engine, spec, "127.0.0.1", port, placement)
    with log.open("wb") as out:
        process = subprocess.Popen(command.argv, stdout=out, stderr=subprocess.STDOUT)
    running = RunningEngine(process, f"http://127.0.0.1:{port}", log)
    try:
        if ready:
            running.await_health(200)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
