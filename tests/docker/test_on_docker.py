"""Containers as instances and as steps of a build, on a real Docker engine (`make test-docker`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from configs.engine_sources import container_runner
from configs.stack import Stack
from platforms.container_run import OWNER, StepFailed, ensure_image, is_abandoned, owner_label, run_in_container
from platforms.memory import MemoryPlatform
from platforms.mixed import MixedPlatform
from platforms.on_docker import DockerPlatform, as_running
from platforms.port import DockerSettings, InstanceSpec, MixedSettings, ProcessState, SupervisorSettings, open_platform
from rollout.command import GIB, Command, Container, Mount
from rollout.errors import Corrupt, NotFound, Refused, Unavailable

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
    assert platform.running() == {}
    assert [box for box in docker.from_env().containers.list(all=True) if box.name.endswith("-chat-v1-0")] == []


def test_the_engines_reason_is_told(platform: DockerPlatform, free_port: int) -> None:
    """What the record of a container says of its end is told; a container that somebody removed is one that exited."""
    state = {"Status": "exited", "StartedAt": "2024-01-01T00:00:00Z", "ExitCode": 137, "OOMKilled": True, "Error": "x"}
    assert as_running("a", state, False).reason == "it was killed for want of memory; x"
    platform.start(instance("import time; time.sleep(600)", free_port))
    box = next(box for box in docker.from_env().containers.list() if box.name.endswith("-chat-v1-0"))
    box.remove(force=True)
    assert "no container" in platform.running()["chat-v1-0"].reason


def test_a_stop_goes_on_where_another_agent_began_it(
    platform: DockerPlatform, settings: DockerSettings, free_port: int
) -> None:
    """No second SIGTERM, which would break off what it finishes: SIGKILL, when the time of the first is over."""
    deaf = "import signal, time\nsignal.signal(15, lambda *a: print('asked'))\nwhile True: time.sleep(0.1)"
    platform.start(replace(instance(deaf, free_port), stop_s=4.0))
    time.sleep(1.0)  # a signal before Python set its handler would end it
    platform.stop("chat-v1-0")
    log = Path(platform.log_path("chat-v1-0"))
    until(lambda: log.exists() and "asked" in log.read_text())
    again = DockerPlatform(settings)
    assert again.running()["chat-v1-0"].state is ProcessState.STOPPING
    again.stop("chat-v1-0")
    text = output(again, "asked")
    assert text.count("asked") == 1 and again.running()["chat-v1-0"].exit_status == 137


def test_a_log_is_copied_once(platform: DockerPlatform, settings: DockerSettings, free_port: int) -> None:
    """However many look, at the same time or after one another, each line is there once, to the last."""
    code = "import time\nfor i in range(60):\n    print('line', i, flush=True)\n    time.sleep(0.05)"
    platform.start(instance(code, free_port))
    log = Path(platform.log_path("chat-v1-0"))
    until(lambda: log.exists() and "line 5\n" in log.read_text())
    DockerPlatform(settings).running()
    output(platform, "line 59\n")
    later = DockerPlatform(settings)
    later.running()
    until(lambda: not any(thread.name == "log-chat-v1-0" for thread in threading.enumerate()))
    assert log.read_text().splitlines() == [f"line {i}" for i in range(60)]


def test_what_a_container_wrote_while_nobody_looked_is_not_lost(
    platform: DockerPlatform, settings: DockerSettings, free_port: int
) -> None:
    """The next agent finds the rest, of a container that has ended too."""
    platform.start(instance("print('one')", free_port))
    output(platform, "one\n")
    log = Path(platform.log_path("chat-v1-0"))
    log.unlink()
    log.with_name(f"{log.name}.seen").unlink()
    DockerPlatform(settings).running()
    until(lambda: log.exists() and log.read_text() == "one\n")


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
    with pytest.raises(StepFailed, match=r"ended with 3 in .*\nno space left$") as failed:
        run_in_container(settings, step("import sys; print('no space left'); sys.exit(3)"), str(log))
    assert (failed.value.code, failed.value.said) == (3, "no space left")
    assert docker.from_env().containers.list(all=True, filters={"label": "roundhouse.owner"}) == []


def test_a_failure_is_said_in_plain_words(settings: DockerSettings, tmp_path: Path) -> None:
    """Of a container as of a process: known reasons are named, by what this step said and not an earlier one."""
    stack, log = Stack(project=tmp_path, home=tmp_path), tmp_path / "build.log"
    run = container_runner(stack, lambda what, share: None)
    log.write_text("CUDA out of memory\n")
    for code, kind, said in (
        ("print('SafetensorError: HeaderTooLarge'); raise SystemExit(1)", Corrupt, "damaged or truncated"),
        ("import os; os.kill(os.getpid(), 9)", Unavailable, "was killed"),
        ("print('whatever'); raise SystemExit(2)", Unavailable, "failed .exit 2.; its last lines:\nwhatever"),
    ):
        with pytest.raises(kind, match=said):
            run(step(code), str(log))


def test_secrets_reach_neither_log_nor_error(settings: DockerSettings, tmp_path: Path) -> None:
    """What a step prints of a secret variable is masked, over any division of its output."""
    log = tmp_path / "build.log"
    code = "import os, sys\nfor c in os.environ['HF_TOKEN']: print(c, end='', flush=True)\nsys.exit(1)"
    with pytest.raises(StepFailed) as failed:
        run_in_container(settings, replace(step(code), env={"HF_TOKEN": "hf_verysecret"}), str(log))
    assert log.read_text() == failed.value.said == "***" and "verysecret" not in str(failed.value)
    box = Container(IMAGE, mounts=(Mount(str(tmp_path), "hf_verysecret"),))
    with pytest.raises(Unavailable, match=r"invalid mount path: '\*\*\*'"):
        run_in_container(settings, replace(step("pass"), env={"HF_TOKEN": "hf_verysecret"}, container=box), str(log))


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


def test_builds_of_other_machines_are_left_alone(settings: DockerSettings, tmp_path: Path) -> None:
    """Who shares a Docker engine from another machine or container has pids of its own: they say nothing here."""
    boot, namespace, pid, born = json.loads(owner_label())
    assert is_abandoned(json.dumps([boot, namespace, 4194000, born])) and is_abandoned(
        json.dumps([boot, namespace, pid, born - 100])
    )
    labels = ([boot, namespace + 1, 4194000, 1.0], ["another boot", namespace, 4194000, 1.0], [4194000, 1.0], "?")
    engine = docker.from_env()
    others = [engine.containers.create(IMAGE, ["sleep", "600"], labels={OWNER: json.dumps(label)}) for label in labels]
    run_in_container(settings, step("pass"), str(tmp_path / "b.log"))
    for box in others:
        engine.containers.get(box.id).remove(force=True)
    assert is_abandoned(owner_label()) is False


def test_an_image_that_is_there_is_not_pulled(settings: DockerSettings) -> None:
    """However it is named, nothing is asked of a registry for it; one that cannot be had is an error that names it."""
    lines: list[str] = []
    engine = docker.from_env()
    engine.images.get(IMAGE).tag("roundhouse-untagged", "latest")
    for name in (IMAGE, "roundhouse-untagged", engine.images.get(IMAGE).id):
        ensure_image(settings, name, lambda what, share: lines.append(what))
    engine.images.remove("roundhouse-untagged:latest")
    assert lines == []
    with pytest.raises(NotFound, match="cannot be pulled by its id"):
        ensure_image(settings, f"sha256:{'0' * 64}", lambda what, share: None)
    with pytest.raises((NotFound, Unavailable), match="roundhouse-nowhere"):
        ensure_image(settings, "127.0.0.1:9/roundhouse-nowhere:1", lambda what, share: None)
