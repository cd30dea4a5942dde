"""A client that streams completions through the gateway without a pause, in a process of its own, and counts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whole_stack import until

from configs.stack import Stack
from gateway.tokens import TokenFile

USERS = 3
RATE = 6  # requests/s of all users together


@dataclass
class Witness:
    """The running client."""

    process: subprocess.Popen[bytes]
    out: Path

    def facts(self) -> dict[str, Any]:
        """What it counted up to the last second."""
        return json.loads(self.out.read_text()) if self.out.exists() else {"requests_ended": 0}

    def stop(self) -> dict[str, Any]:
        """What it counted in all; open requests are finished first. Once is enough."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        return self.facts()


@contextlib.contextmanager
def witness(stack: Stack, service: str, folder: Path) -> Iterator[Witness]:
    """A client of that service, answered at least once before the block begins."""
    token, out = folder / "token", folder / "counts.json"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(TokenFile(stack.tokens).secret(service))
    url = f"{stack.gateway_url}/api/predict/{service}"
    command = [sys.executable, "-m", "loadtest.steady", "--url", url, "--token-file", str(token), "--out", str(out)]
    command += ["--users", str(USERS), "--rate", str(RATE), "--max-tokens", "16"]
    client = Witness(subprocess.Popen(command, cwd=stack.project, stdout=subprocess.DEVNULL), out)
    try:
        until(lambda: client.facts()["requests_ended"] > 0, 20, "a first answer")
        yield client
    finally:
        client.process.kill()
        client.process.wait()
