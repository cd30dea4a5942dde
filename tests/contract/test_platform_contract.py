"""What every platform must do: supervisord, its twin in memory, and Docker where `make test-docker` has one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from platforms.aside import Aside
from platforms.memory import MemoryPlatform
from platforms.on_docker import DockerPlatform
from platforms.on_process import SupervisorPlatform
from platforms.port import DockerSettings, InstanceSpec, Platform, ProcessState, SupervisorSettings
from platforms.ports import is_free
from platforms.supervisor_conf import Daemon, render_daemon
from rollout.command import Container
from rollout.errors import Conflict, Refused

#: with what a minimal python3 brings
SERVER = "import socket, sys, time; s = socket.create_server((sys.argv[2], int(sys.argv[1]))); time.sleep(3600)"
IMAGE = os.environ.get("ROUNDHOUSE_TEST_IMAGE", "")  # an image with a minimal python3; set by `make test-docker`
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


KINDS = ["memory", "aside", pytest.param("supervisor", marks=pytest.mark.integration), *(["docker"] if IMAGE else [])]


class KnownMemory(MemoryPlatform):
    """One that says at once which instances it has, as what is asked aside must."""

    def known(self) -> list[str]:
        """Their ids."""
        return sorted(super().running())


@pytest.fixture(params=KINDS)
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """Each implementation in turn; what a test leaves is ended."""
    if request.param == "memory":
        platform: Platform = MemoryPlatform()
    elif request.param == "aside":
        platform = Aside(KnownMemory())
    elif request.param == "docker":
        platform = DockerPlatform(DockerSettings(str(tmp_path / "i.d"), str(tmp_path / "logs")))
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
    """An instance that listens until it is told to stop; the container is for a platform that runs one."""
    return InstanceSpec(name, (sys.executable, "-c", SERVER, str(port), "127.0.0.1"), port)


def boxed(spec: InstanceSpec) -> InstanceSpec:
    """The same in a container, in which a server listens on all addresses."""
    return replace(spec, argv=("python3", "-c", SERVER, str(spec.port), "0.0.0.0"), container=Container(IMAGE))


def start(platform: Platform, spec: InstanceSpec) -> None:
    """Start it as the platform's kind."""
    platform.start(boxed(spec) if isinstance(platform, DockerPlatform) else spec)


def state(platform: Platform, name: str = "chat-v1-0") -> ProcessState:
    """What the platform says of it now."""
    return platform.running()[name].state


def test_started_instance_runs_with_a_pid(platform: Platform, free_port: int) -> None:
    """A started instance is listed as running, with its pid and the time of its start."""
    start(platform, server(free_port))
    seen = platform.running()["chat-v1-0"]
    assert seen.state is ProcessState.RUNNING
    assert seen.pid and seen.started_at and seen.exit_status is None


def test_start_twice_changes_nothing(platform: Platform, free_port: int) -> None:
    """Starting what runs leaves the same process in place."""
    start(platform, server(free_port))
    before = platform.running()
    start(platform, server(free_port))
    assert platform.running() == before


def test_stop_ends_it_and_is_repeatable(platform: Platform, free_port: int) -> None:
    """A stopped instance exits, stays listed, and may be stopped again."""
    start(platform, server(free_port))
    if not isinstance(platform, MemoryPlatform | Aside):  # a signal before supervisord's child has its program is lost
        until(lambda: not is_free(free_port))
    platform.stop("chat-v1-0")
    until(lambda: state(platform) is ProcessState.EXITED)
    platform.stop("chat-v1-0")
    assert platform.running()["chat-v1-0"].pid is None


def test_exited_instance_starts_again_with_a_new_command(platform: Platform, free_port: int) -> None:
    """An instance that exited can be started again under its name, with another port."""
    start(platform, server(free_port))
    first = platform.running()["chat-v1-0"].pid
    platform.kill("chat-v1-0")
    until(lambda: state(platform) is ProcessState.EXITED)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = int(other.getsockname()[1])
    start(platform, server(port))
    again = platform.running()["chat-v1-0"]
    assert again.state is ProcessState.RUNNING and again.pid != first


def test_remove_forgets_only_what_exited(platform: Platform, free_port: int) -> None:
    """A running instance cannot be removed; one that exited is gone afterwards, and removing it again is harmless."""
    start(platform, server(free_port))
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
        start(platform, server(port))
    assert platform.running() == {}


def test_taken_port_is_a_conflict(platform: Platform, free_port: int) -> None:
    """Two instances cannot share a port: the error names the port and who holds it."""
    start(platform, server(free_port, "chat-v1-0"))
    pid = platform.running()["chat-v1-0"].pid
    if not isinstance(platform, MemoryPlatform | Aside):
        until(lambda: listens(free_port))
    holds = "" if isinstance(platform, DockerPlatform) else pid  # of a container, Docker's proxy holds it
    with pytest.raises(Conflict, match=f"port {free_port} is held by pid {holds}"):
        start(platform, server(free_port, "chat-v1-1"))
    assert set(platform.running()) == {"chat-v1-0"}


@pytest.mark.parametrize("name", ["", "a b", "../x", "a:b", "a]\n[program:x"])
def test_bad_name_is_refused(platform: Platform, free_port: int, name: str) -> None:
    """A name that is no plain word is refused before anything is written."""
    with pytest.raises(Refused, match="id"):
        start(platform, server(free_port, name))
    assert platform.running() == {}


def listens(port: int) -> bool:
    """Whether somebody took the port."""

    return not is_free(port)
