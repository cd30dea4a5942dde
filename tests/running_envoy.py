"""A real Envoy in a folder of its own, and small real servers behind it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from gateway.command import envoy_command, wait_live, write_bootstrap
from gateway.envoy import EnvoyGateway
from gateway.port import Backend, Cursor, Endpoint, EnvoySettings, GatewayState, Record, ServiceRoute, Token
from gateway.render import Layout
from rollout.nouns import Lease

ALICE = Token("alice", "token-of-alice")
ALICE_HEADERS = {"Authorization": "Bearer token-of-alice"}
T = TypeVar("T")


def a_free_port() -> int:
    """A port that nobody holds at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Upstream:
    """One engine stand-in: a process that can be killed and started again on its port."""

    version: int
    port: int = field(default_factory=a_free_port)
    hosts: tuple[str, ...] = ("127.0.0.1",)
    process: subprocess.Popen | None = None
    spare: subprocess.Popen | None = None

    def prepare(self) -> Upstream:
        """Have a process ready, all it needs imported, that takes the port at once when ``start`` is called."""
        script = str(Path(__file__).parent / "integration" / "gateway" / "upstream.py")
        command = [sys.executable, script, f"v{self.version}", str(self.port), *self.hosts]
        self.spare = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.spare.stdout is not None
        assert self.spare.stdout.readline() == "ready\n"
        return self

    def start(self) -> Upstream:
        """Start it and wait for its health."""
        if self.spare is None:
            self.prepare()
        self.process, self.spare = self.spare, None
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        until(lambda: answers(f"http://127.0.0.1:{self.port}/health"))
        return self

    def open(self, gate: str, times: int = 1) -> None:
        """Let that many more events through to each request that waits at ``gate``."""
        asked = httpx.post(f"http://127.0.0.1:{self.port}/opened", params={"gate": gate, "times": times}, timeout=30)
        assert asked.status_code == 200

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            _kill(self.process)

    def stop(self) -> None:
        """Leave no process."""
        for process in (self.process, self.spare):
            if process is not None:
                _kill(process)

    def backend(self) -> Backend:
        """It as a version's only instance."""
        return Backend(self.version, (Endpoint(f"chat-v{self.version}-0", "127.0.0.1", self.port),))


@dataclass
class Proxy:
    """One Envoy and the gateway that steers it."""

    settings: EnvoySettings
    process: subprocess.Popen | None = None

    def start(self) -> Proxy:
        """Start Envoy as a process manager would, and wait until it serves."""
        write_bootstrap(self.settings)
        self.spawn()
        wait_live(self.settings, 30)
        return self

    def spawn(self) -> None:
        """Start Envoy on the folder as it is, and nothing more."""
        self.process = subprocess.Popen(envoy_command(self.settings))

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            _kill(self.process)

    @property
    def gateway(self) -> EnvoyGateway:
        """A gateway as a new process would open it."""
        return EnvoyGateway(self.settings)

    @property
    def layout(self) -> Layout:
        """Where its files lie."""
        return Layout.of(self.settings)

    @property
    def url(self) -> str:
        return f"{'https' if self.settings.tls else 'http'}://{self.settings.host}:{self.settings.port}"

    def records(self, count: int, cursor: Cursor | None = None) -> list[Record]:
        """The records of services, once there are ``count``."""
        found: list[Record] = []

        def enough() -> bool:
            found[:] = [r for r in self.gateway.records(cursor or Cursor())[0] if r.service]
            return len(found) >= count

        until(enough)
        return found


@contextlib.contextmanager
def an_envoy(**more: object) -> Iterator[Proxy]:
    """A fresh Envoy, with ``more`` settings. Its folder's path is short: a unix socket's may have 107 bytes."""
    folder = tempfile.mkdtemp(prefix="rh-")
    asked = {"directory": folder, "port": a_free_port(), "confirm_timeout_s": 30, **more}
    running = Proxy(EnvoySettings(**asked)).start()  # type: ignore[arg-type]
    try:
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until ``true()``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def _kill(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).status_code == 200
    return False


def a_lease(canary: int = 0, mirror: int = 0, seconds: float = 30.0, candidate: int = 2) -> Lease:
    """A lease from a moment ago to ``seconds`` from now."""
    now_ms = int(time.time() * 1000)
    return Lease(candidate, canary, mirror, now_ms - 2000, now_ms + int(seconds * 1000), "release-1")


def in_time(grant: Callable[[float], Lease], step: Callable[[], T]) -> tuple[Lease, T]:
    """A lease of a few seconds that ``grant`` gave and that still held after ``step``, and what that returned.

    Begun anew with a longer one where its end had passed by then.
    """
    for seconds in (1.5, 6.0, 24.0):
        lease = grant(seconds)
        done = step()
        if time.time() * 1000 < lease.until_ms:
            return lease, done
    raise AssertionError("no lease lasted as long as the step")


def a_state(*upstreams: Upstream, lease: Lease | None = None, **more: object) -> GatewayState:
    """A service ``chat`` of these versions, the first of them stable."""
    stable = upstreams[0].version if upstreams else None
    backends = tuple(upstream.backend() for upstream in upstreams)
    return GatewayState((ServiceRoute("chat", (ALICE,), backends, stable, lease, **more),))  # type: ignore[arg-type]
