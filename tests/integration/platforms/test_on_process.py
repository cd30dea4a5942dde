"""Instances under a real supervisord: children, logs, restarts and a daemon that is gone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from platforms.on_process import Supervisor, SupervisorPlatform
from platforms.port import InstanceSpec, ProcessState, SupervisorSettings
from platforms.supervisor_conf import Daemon, render_daemon
from rollout.errors import NotFound, Unavailable

WITH_CHILD = "import subprocess, sys; print('hello'); subprocess.Popen(['sleep', '300']).wait()"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"


class Home:
    """A folder with a supervisord that the test can end and start again."""

    def __init__(self, home: Path) -> None:
        self.settings = SupervisorSettings(str(home / "s.sock"), str(home / "i.d"), str(home / "logs"))
        self.conf = home / "c.conf"
        daemon = Daemon(
            self.settings.socket, str(home / "pid"), str(home / "d.log"), self.settings.include_directory, str(home)
        )
        self.conf.write_text(render_daemon(daemon))
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """supervisord, ready."""
        self.process = subprocess.Popen([sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.conf)])
        until(lambda: answers(self.settings))
        return self.process

    def end(self) -> None:
        """supervisord and what it runs, stopped."""
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def home() -> Iterator[Home]:
    """A supervisord of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
    home = Home(folder)
    yield home
    home.end()
    shutil.rmtree(folder)


def answers(settings: SupervisorSettings) -> bool:
    """Whether supervisord answers."""
    try:
        return bool(Supervisor(settings.socket).call("getState"))
    except Unavailable:
        return False


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def runs_as(platform: SupervisorPlatform, name: str) -> psutil.Process:
    """The instance's process, when it has become the program asked for."""
    process = psutil.Process(platform.running()["a-v1-0"].pid)
    until(lambda: process.name() == name)
    return process


def test_children_die_with_their_instance_and_the_log_stays(home: Home, free_port: int) -> None:
    """A kill reaches the instance's children; what it wrote is in its log after it was removed."""
    platform = SupervisorPlatform(home.settings)
    platform.start(InstanceSpec("a-v1-0", (sys.executable, "-uc", WITH_CHILD), free_port))
    pid = platform.running()["a-v1-0"].pid
    until(lambda: bool(psutil.Process(pid).children()))
    child = psutil.Process(pid).children()[0]
    platform.kill("a-v1-0")
    until(lambda: platform.running()["a-v1-0"].state is ProcessState.EXITED and not child.is_running())
    platform.remove("a-v1-0")
    assert "hello" in Path(platform.log_path("a-v1-0")).read_text()


def test_deaf_instance_is_killed_after_its_time(home: Home, free_port: int) -> None:
    """An instance that ignores SIGTERM is stopping, cannot be started over, and is killed when ``stop_s`` is over."""
    platform = SupervisorPlatform(home.settings)
    spec = InstanceSpec("a-v1-0", (sys.executable, "-c", DEAF), free_port, stop_s=1.0)
    platform.start(spec)
    until(lambda: "deaf" in Path(platform.log_path("a-v1-0")).read_text())
    platform.stop("a-v1-0")
    assert platform.running()["a-v1-0"].state is ProcessState.STOPPING
    until(lambda: platform.running()["a-v1-0"].state is ProcessState.EXITED)


def test_exit_status_is_reported_and_nobody_restarts_it(home: Home, free_port: int) -> None:
    """An instance that exits by itself stays exited, with its status: restarts are the agent's decision."""
    platform = SupervisorPlatform(home.settings)
    platform.start(InstanceSpec("a-v1-0", (sys.executable, "-c", "raise SystemExit(3)"), free_port))
    until(lambda: platform.running()["a-v1-0"].state is ProcessState.EXITED)
    assert platform.running()["a-v1-0"].exit_status == 3


def test_restarted_supervisord_still_knows_its_instances(home: Home, free_port: int) -> None:
    """After a restart of supervisord instances are listed as exited and can be started again."""
    platform = SupervisorPlatform(home.settings)
    spec = InstanceSpec("a-v1-0", ("sleep", "300"), free_port, env={"WHO": "50 % ; you"})
    platform.start(spec)
    runs_as(platform, "sleep")  # a SIGTERM between supervisord's fork and exec is lost
    home.end()
    home.start()
    assert platform.running()["a-v1-0"].state is ProcessState.EXITED
    platform.start(spec)
    assert runs_as(platform, "sleep").environ()["WHO"] == "50 % ; you"


def test_missing_command_is_an_error(home: Home, free_port: int) -> None:
    """A command that does not exist is named."""
    with pytest.raises(NotFound, match="/no/such/engine"):
        SupervisorPlatform(home.settings).start(InstanceSpec("a-v1-0", ("/no/such/engine",), free_port))


def test_absent_supervisord_is_unavailable(tmp_path: Path) -> None:
    """Without a supervisord every verb says so."""
    platform = SupervisorPlatform(SupervisorSettings("/tmp/rh-none.sock", str(tmp_path), str(tmp_path)))
    with pytest.raises(Unavailable, match="does not answer"):
        platform.running()


def test_hung_supervisord_does_not_hang_the_caller(tmp_path: Path) -> None:
    """A socket that accepts and never answers ends in Unavailable."""
    path = tempfile.mktemp(prefix="rh-", suffix=".sock", dir="/tmp")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(path)
        deaf.listen()
        failed = []

        def ask() -> None:
            try:
                Supervisor(path, timeout_s=0.2).call("getState")
            except Unavailable as error:
                failed.append(error)

        caller = threading.Thread(target=ask)
        caller.start()
        caller.join(20)
    Path(path).unlink()
    assert len(failed) == 1
