"""What every platform must do, on the real supervisord and on its twin in memory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platforms.memory import MemoryPlatform
from platforms.on_process import SupervisorPlatform
from platforms.port import InstanceSpec, Platform, ProcessState, SupervisorSettings
from platforms.ports import is_free
from platforms.supervisor_conf import Daemon, render_daemon
from rollout.errors import Conflict, Refused

SERVER = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def supervisord() -> Iterator[SupervisorSettings]:
    """A supervisord of its own in a short folder; it ends with the module."""
    home = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
    settings = SupervisorSettings(str(home / "s.sock"), str(home / "i.d"), str(home / "logs"))
    daemon = Daemon(settings.socket, str(home / "pid"), str(home / "d.log"), settings.include_directory, str(home))
    (home / "c.conf").write_text(render_daemon(daemon))
    process = subprocess.Popen([sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(home / "c.conf")])
    until(lambda: Path(settings.socket).exists())
    yield settings
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)
    shutil.rmtree(home)


@pytest.fixture(params=["memory", pytest.param("supervisor", marks=pytest.mark.integration)])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """Each implementation in turn; what a test leaves is ended."""
    if request.param == "memory":
        platform: Platform = MemoryPlatform()
    else:
        platform = SupervisorPlatform(request.getfixturevalue("supervisord"))
    yield platform
    for each in platform.running():
        platform.kill(each)
        until(lambda each=each: platform.running()[each].state is ProcessState.EXITED)
        platform.remove(each)


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; a test that waits in vain fails here."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def server(port: int, name: str = "chat-v1-0") -> InstanceSpec:
    """An instance that listens until it is told to stop."""
    return InstanceSpec(name, (sys.executable, "-c", SERVER, str(port)), port)


def state(platform: Platform, name: str = "chat-v1-0") -> ProcessState:
    """What the platform says of it now."""
    return platform.running()[name].state


def test_started_instance_runs_with_a_pid(platform: Platform, free_port: int) -> None:
    """A started instance is listed as running, with its pid and the time of its start."""
    platform.start(server(free_port))
    seen = platform.running()["chat-v1-0"]
    assert seen.state is ProcessState.RUNNING
    assert seen.pid and seen.started_at and seen.exit_status is None


def test_start_twice_changes_nothing(platform: Platform, free_port: int) -> None:
    """Starting what runs leaves the same process in place."""
    platform.start(server(free_port))
    before = platform.running()
    platform.start(server(free_port))
    assert platform.running() == before


def test_stop_ends_it_and_is_repeatable(platform: Platform, free_port: int) -> None:
    """A stopped instance exits, stays listed, and may be stopped again."""
    platform.start(server(free_port))
    if isinstance(platform, SupervisorPlatform):  # a signal between supervisord's fork and its exec would be lost
        until(lambda: not is_free(free_port))
    platform.stop("chat-v1-0")
    until(lambda: state(platform) is ProcessState.EXITED)
    platform.stop("chat-v1-0")
    assert platform.running()["chat-v1-0"].pid is None


def test_exited_instance_starts_again_with_a_new_command(platform: Platform, free_port: int) -> None:
    """An instance that exited can be started again under its name, with another port."""
    platform.start(server(free_port))
    first = platform.running()["chat-v1-0"].pid
    platform.kill("chat-v1-0")
    until(lambda: state(platform) is ProcessState.EXITED)
    platform.start(server(free_port + 1 if free_port < 65000 else free_port - 1))
    again = platform.running()["chat-v1-0"]
    assert again.state is ProcessState.RUNNING and again.pid != first


def test_remove_forgets_only_what_exited(platform: Platform, free_port: int) -> None:
    """A running instance cannot be removed; one that exited is gone afterwards, and removing it again is harmless."""
    platform.start(server(free_port))
    with pytest.raises(Conflict, match="still runs"):
        platform.remove("chat-v1-0")
    platform.kill("chat-v1-0")
    until(lambda: state(platform) is ProcessState.EXITED)
    platform.remove("chat-v1-0")
    platform.remove("chat-v1-0")
    assert platform.running() == {}


def test_unknown_instance_is_no_error(platform: Platform) -> None:
    """Stopping, killing or removing what was never started does nothing."""
    platform.stop("nobody")
    platform.kill("nobody")
    platform.remove("nobody")
    assert platform.running() == {}


@pytest.mark.parametrize("port", [8080, 9090])
def test_reserved_port_is_refused(platform: Platform, port: int) -> None:
    """8080 and 9090 are never given to an instance, and nothing is left behind."""
    with pytest.raises(Refused, match="reserved"):
        platform.start(server(port))
    assert platform.running() == {}


def test_taken_port_is_a_conflict(platform: Platform, free_port: int) -> None:
    """Two instances cannot share a port: the error names the port and the pid that holds it."""
    platform.start(server(free_port, "chat-v1-0"))
    pid = platform.running()["chat-v1-0"].pid
    if isinstance(platform, SupervisorPlatform):
        until(lambda: listens(free_port))
    with pytest.raises(Conflict, match=f"port {free_port} is held by pid {pid}"):
        platform.start(server(free_port, "chat-v1-1"))
    assert set(platform.running()) == {"chat-v1-0"}


@pytest.mark.parametrize("name", ["", "a b", "../x", "a:b", "a]\n[program:x"])
def test_bad_name_is_refused(platform: Platform, free_port: int, name: str) -> None:
    """A name that is no plain word is refused before anything is written."""
    with pytest.raises(Refused, match="id"):
        platform.start(server(free_port, name))
    assert platform.running() == {}


def listens(port: int) -> bool:
    """Whether somebody took the port."""

    return not is_free(port)
