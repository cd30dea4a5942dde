"""Containers as instances and as steps of a build, on a real Docker engine (`make test-docker`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from platforms.container_run import ensure_image, run_in_container
from platforms.memory import MemoryPlatform
from platforms.mixed import MixedPlatform
from platforms.on_docker import DockerPlatform
from platforms.port import DockerSettings, InstanceSpec, MixedSettings, ProcessState, SupervisorSettings, open_platform
from rollout.command import GIB, Command, Container, Mount
from rollout.errors import NotFound, Refused, Unavailable

IMAGE = os.environ.get("ROUNDHOUSE_TEST_IMAGE", "")
pytestmark = pytest.mark.skipif(not IMAGE, reason="needs a Docker engine: make test-docker")
PATIENCE_S = 30.0
TELL = """import json, os
shm = os.statvfs('/dev/shm')
told = {'env': dict(os.environ), 'uid': os.getuid(), 'cores': len(os.sched_getaffinity(0))}
print(json.dumps({**told, 'shm': shm.f_blocks * shm.f_frsize}))
print(open('/models/f').read())
open('/models/g', 'w')
"""


@pytest.fixture
def settings(tmp_path: Path) -> DockerSettings:
    return DockerSettings(str(tmp_path / "i.d"), str(tmp_path / "logs"))


@pytest.fixture
def platform(settings: DockerSettings) -> Iterator[DockerPlatform]:
    """A platform; what a test leaves is ended."""
    platform = DockerPlatform(settings)
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


def instance(code: str, port: int, **box: object) -> InstanceSpec:
    """One that runs a Python program."""
    return InstanceSpec("chat-v1-0", ("python3", "-uc", code), port, container=Container(IMAGE, **box))


def output(platform: DockerPlatform, last: str) -> str:
    """Its log once it has ended and ``last``, which it writes, has arrived."""
    until(lambda: platform.running()["chat-v1-0"].state is ProcessState.EXITED)
    path = Path(platform.log_path("chat-v1-0"))
    until(lambda: path.exists() and last in path.read_text())
    return path.read_text()


def test_it_runs_as_asked(platform: DockerPlatform, free_port: int, tmp_path: Path) -> None:
    """Its environment is the spec's alone, its user ours, shared memory, processors and mounts as stated."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_text("weights")
    box = {"shm_bytes": GIB // 8, "ulimits": {"stack": 67108864}, "mounts": (Mount(str(tmp_path / "m"), "/models"),)}
    platform.start(replace(instance(TELL, free_port, **box), env={"A": "b"}, cores=(0,)))
    text = output(platform, "Read-only file system")
    told = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    assert told["env"]["A"] == "b" and "ROUNDHOUSE_TEST_IMAGE" not in told["env"]
    assert (told["uid"], told["cores"], told["shm"]) == (os.getuid(), 1, GIB // 8)
    assert "weights" in text
    assert platform.running()["chat-v1-0"].exit_status == 1


def test_sigterm_lets_it_finish_and_sigkill_ends_what_does_not(platform: DockerPlatform, free_port: int) -> None:
    """SIGTERM reaches the program, which may finish; one that ignores it is killed after ``stop_s``."""
    polite = "import signal, sys, time\nsignal.signal(15, lambda *a: (print('finished'), sys.exit(0)))\ntime.sleep(600)"
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)"
    for code, status, text in ((polite, 0, "finished"), (deaf, 137, "deaf")):
        platform.start(replace(instance(code, free_port), stop_s=2.0))
        time.sleep(1.0)  # a signal before Python set its handler would end it
        platform.stop("chat-v1-0")
        platform.stop("chat-v1-0")
        assert platform.running()["chat-v1-0"].state in (ProcessState.STOPPING, ProcessState.EXITED)
        output(platform, text)
        assert platform.running()["chat-v1-0"].exit_status == status
        platform.remove("chat-v1-0")


def test_another_agent_finds_what_runs(platform: DockerPlatform, settings: DockerSettings, free_port: int) -> None:
    """A new platform object over the same folder sees the instance, its log goes on, and it is started only once."""
    code = "import time\nfor i in range(600):\n    print('line', i)\n    time.sleep(0.2)"
    platform.start(instance(code, free_port))
    before, again = platform.running(), DockerPlatform(settings)
    assert again.running() == before
    again.start(instance(code, free_port))
    assert again.running() == before
    log = Path(again.log_path("chat-v1-0"))
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size + 30)


def test_what_is_missing_is_named(platform: DockerPlatform, free_port: int) -> None:
    """No such image, no such mount, no GPU runtime, no container: each says what, and leaves nothing that runs."""
    spec = instance("", free_port)
    with pytest.raises(NotFound, match="docker pull"):
        platform.start(replace(spec, container=Container("roundhouse-nowhere:1")))
    with pytest.raises(NotFound, match="no /nowhere/at/all"):
        platform.start(instance("", free_port, mounts=(Mount("/nowhere/at/all", "/m"),)))
    with pytest.raises(Unavailable, match="gpu"):
        platform.start(instance("", free_port, gpus=("GPU-0",)))
    with pytest.raises(Refused, match="container"):
        platform.start(replace(spec, container=None))
    assert all(seen.state is ProcessState.EXITED for seen in platform.running().values())


def test_a_silent_docker_stops_no_process(settings: DockerSettings, platform: DockerPlatform, free_port: int) -> None:
    """While Docker does not answer, processes are still seen, and containers are as they were last seen."""
    platform.start(instance("import time; time.sleep(600)", free_port))
    processes = MemoryPlatform()
    processes.start(InstanceSpec("other-v1-0", ("x",), 18199))
    silent = DockerPlatform(replace(settings, url="unix:///nowhere/docker.sock"))
    seen = MixedPlatform(processes, silent).running()
    assert {each: s.state for each, s in seen.items()} == dict.fromkeys(
        ("chat-v1-0", "other-v1-0"), ProcessState.RUNNING
    )
    with pytest.raises(Unavailable, match="does not answer"):
        silent.running()


def test_instances_go_where_they_belong(settings: DockerSettings, platform: DockerPlatform, free_port: int) -> None:
    """A spec with a container is Docker's, one without is the process manager's, under one set of verbs."""
    processes = MemoryPlatform()
    mixed = MixedPlatform(processes, platform)
    mixed.start(instance("import time; time.sleep(600)", free_port))
    mixed.start(InstanceSpec("other-v1-0", ("x",), 18199))
    assert (set(platform.running()), set(processes.running())) == ({"chat-v1-0"}, {"other-v1-0"})
    assert set(mixed.running()) == {"chat-v1-0", "other-v1-0"}
    mixed.kill("other-v1-0")
    mixed.remove("other-v1-0")
    assert set(mixed.running()) == {"chat-v1-0"}
    assert mixed.log_path("chat-v1-0") == platform.log_path("chat-v1-0")
    settled = open_platform(MixedSettings(SupervisorSettings("/nowhere", "/nowhere", "/nowhere"), settings))
    assert isinstance(settled, MixedPlatform)


def step(code: str) -> Command:
    """A step of a build."""
    return Command(("python3", "-uc", code), container=Container(IMAGE))


def test_a_step_runs_to_its_end(settings: DockerSettings, tmp_path: Path) -> None:
    """Its output is appended to the log; a failure says the status and the last lines; no container is left."""
    log = tmp_path / "build.log"
    log.write_text("before\n")
    run_in_container(settings, step("print('made')"), str(log))
    assert log.read_text() == "before\nmade\n"
    with pytest.raises(Unavailable, match=r"ended with 3 in .*\n(.*\n)*no space left"):
        run_in_container(settings, step("import sys; print('no space left'); sys.exit(3)"), str(log))
    assert docker.from_env().containers.list(all=True, filters={"label": "roundhouse.owner"}) == []


def test_a_killed_build_leaves_nothing_to_the_next(settings: DockerSettings, tmp_path: Path) -> None:
    """The container of a build that was killed (SIGKILL) is ended by the next build; that of a living one is not."""
    program = textwrap.dedent(f"""
        from platforms.container_run import run_in_container
        from platforms.port import DockerSettings
        from rollout.command import Command, Container
        box = Container({IMAGE!r})
        run_in_container(DockerSettings("", ""), Command(("sleep", "600"), container=box), {str(tmp_path / "b.log")!r})
    """)
    ours = {"filters": {"label": "roundhouse.owner"}}
    builder = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: len(docker.from_env().containers.list(**ours)) == 1)
    run_in_container(settings, step("pass"), str(tmp_path / "n.log"))
    assert len(docker.from_env().containers.list(**ours)) == 1
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    run_in_container(settings, step("pass"), str(tmp_path / "n.log"))
    assert docker.from_env().containers.list(all=True, **ours) == []


def test_an_image_that_is_there_is_not_pulled(settings: DockerSettings) -> None:
    """Nothing is asked of a registry for it; one that cannot be had is an error that names it."""
    lines: list[str] = []
    ensure_image(settings, IMAGE, lambda what, share: lines.append(what))
    assert lines == []
    with pytest.raises((NotFound, Unavailable), match="roundhouse-nowhere"):
        ensure_image(settings, "127.0.0.1:9/roundhouse-nowhere:1", lambda what, share: None)
