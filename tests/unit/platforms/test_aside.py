"""A platform that is slow or hangs: what its caller gets, and when."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platforms.aside import Aside, Patience
from platforms.memory import MemoryPlatform
from platforms.mixed import MixedPlatform
from platforms.on_docker import DockerPlatform
from platforms.port import DockerSettings, InstanceSpec, ProcessState, Running
from rollout.command import Container
from rollout.errors import NotFound, Unavailable

SOON = Patience(verb=0.05, first_look=0.05, look=0.05)
SPEC = InstanceSpec("chat-v1-0", ("x",), 18100)


class Gated(MemoryPlatform):
    """One whose answers wait until its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.fails = False
        self.gate.set()

    def known(self) -> list[str]:
        """The ids."""
        return sorted(super().running())

    def start(self, spec: InstanceSpec) -> None:
        """When the gate is open."""
        self.gate.wait()
        if self.fails:
            raise NotFound("no such image")
        super().start(spec)

    def kill(self, instance_id: str) -> None:
        """When the gate is open."""
        self.gate.wait()
        super().kill(instance_id)

    def remove(self, instance_id: str) -> None:
        """When the gate is open."""
        self.gate.wait()
        super().remove(instance_id)

    def running(self) -> dict[str, Running]:
        """When the gate is open."""
        self.gate.wait()
        return super().running()


@pytest.fixture
def slow() -> Iterator[Gated]:
    """Its gate is opened in the end, so that no thread is left."""
    slow = Gated()
    yield slow
    slow.gate.set()


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; a test that waits in vain fails here."""
    deadline = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_while_it_hangs_instances_are_as_they_were_seen(slow: Gated) -> None:
    """The caller is not kept; what happened meanwhile is seen as soon as it answers."""
    aside = Aside(slow, SOON)
    aside.start(SPEC)
    before = aside.running()
    slow.gate.clear()
    slow.die(SPEC.id)
    assert aside.running() == aside.running() == before
    slow.gate.set()
    until(lambda: aside.running()[SPEC.id].state is ProcessState.EXITED)


def test_a_start_that_hangs_goes_on_by_itself(slow: Gated) -> None:
    """It counts as running without a pid, is not started twice, and nothing else is done to it until it is there."""
    aside = Aside(slow, SOON)
    slow.gate.clear()
    aside.start(SPEC)
    aside.start(SPEC)
    assert aside.running() == {SPEC.id: Running(SPEC.id, ProcessState.RUNNING, None, None)}
    with pytest.raises(Unavailable, match="has not answered yet to its start"):
        aside.kill(SPEC.id)
    slow.gate.set()
    until(lambda: aside.running()[SPEC.id].pid == 1001)


def test_a_start_that_fails_late_says_why(slow: Gated) -> None:
    """Nobody waits for the error any more, so it is the reason of an instance that exited, until it is removed."""
    aside, slow.fails = Aside(slow, SOON), True
    slow.gate.clear()
    aside.start(SPEC)
    slow.gate.set()
    until(lambda: aside.running()[SPEC.id].state is ProcessState.EXITED)
    assert aside.running()[SPEC.id].reason == "no such image"
    aside.remove(SPEC.id)
    assert aside.running() == {}


def test_a_start_that_fails_in_time_raises(slow: Gated) -> None:
    """Nothing is left of it."""
    aside, slow.fails = Aside(slow, SOON), True
    with pytest.raises(NotFound, match="no such image"):
        aside.start(SPEC)
    assert aside.running() == {}


def test_what_was_done_is_not_undone_by_an_older_look(slow: Gated) -> None:
    """A look that began before a kill ended does not say that the instance runs."""
    aside = Aside(slow, SOON)
    aside.start(SPEC)
    aside.running()
    slow.gate.clear()
    aside.kill(SPEC.id)
    assert aside.running()[SPEC.id].state is ProcessState.STOPPING
    with pytest.raises(Unavailable):
        aside.remove(SPEC.id)
    slow.gate.set()
    until(lambda: aside.running()[SPEC.id].state is ProcessState.EXITED)
    aside.remove(SPEC.id)
    assert aside.running() == {}


def test_a_docker_that_hangs_keeps_no_tick(tmp_path: Path) -> None:
    """One that takes connections and never answers: processes are seen, and containers as far as they are known."""
    (tmp_path / "i.d").mkdir()
    (tmp_path / "i.d" / "chat-v1-0.json").write_text('{"image": "x", "stop_s": 5}')
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        docker = DockerPlatform(DockerSettings(str(tmp_path / "i.d"), str(tmp_path / "logs"), url))
        mixed = MixedPlatform(MemoryPlatform(), docker, SOON)
        mixed.start(InstanceSpec("other-v1-0", ("x",), 18101))
        assert set(mixed.running()) == {"chat-v1-0", "other-v1-0"}
        mixed.stop("chat-v1-0")
        mixed.start(InstanceSpec("chat-v2-0", ("x",), 18102, container=Container("x")))
        ids = ("chat-v1-0", "chat-v2-0", "other-v1-0")
        assert sorted(each for each, seen in mixed.running().items() if seen.state is not ProcessState.EXITED) == [*ids]
