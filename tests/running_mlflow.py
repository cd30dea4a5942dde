"""A real MLflow server on a free port, for as long as a block lasts."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.fernet import Fernet

from model_registry.mlflow_server import mlflow_server


@dataclass(frozen=True)
class Server:
    """Where it answers, where its files lie, which process it is."""

    uri: str
    home: Path
    pid: int


@contextmanager
def running_mlflow(home: Path) -> Iterator[Server]:
    """Start with the command that the stack uses, wait until it answers, stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, environment = mlflow_server(home, "127.0.0.1", port, Fernet.generate_key().decode())
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        server = Server(f"http://127.0.0.1:{port}", home, process.pid)
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            httpx.get(f"{server.uri}/health", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"MLflow did not start:\n{(server.home / 'server.log').read_text()[-2000:]}")
