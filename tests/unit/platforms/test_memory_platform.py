"""The knobs of the platform in memory."""

from __future__ import annotations

from platforms.memory import MemoryPlatform
from platforms.on_process import as_running
from platforms.port import InstanceSpec, MemorySettings, ProcessState, open_platform

SPEC = InstanceSpec("chat-v1-0", ("serve",), 18100, stop_s=30.0)


def test_hung_instance_goes_when_its_time_is_up() -> None:
    """A hung instance stays stopping until ``stop_s`` is over; then it is killed."""
    now = [100.0]
    platform = MemoryPlatform(clock=lambda: now[0])
    platform.start(SPEC)
    platform.hang(SPEC.id)
    platform.stop(SPEC.id)
    assert platform.running()[SPEC.id].state is ProcessState.STOPPING
    now[0] = 130.0
    assert platform.running()[SPEC.id].state is ProcessState.EXITED


def test_dead_instance_shows_its_exit_status() -> None:
    """A crash leaves the instance listed with its exit status."""
    platform = open_platform(MemorySettings())
    assert isinstance(platform, MemoryPlatform)
    platform.start(SPEC)
    platform.die(SPEC.id, exit_status=3)
    assert platform.running()[SPEC.id].exit_status == 3


def test_program_that_supervisord_forgot_counts_as_exited() -> None:
    """After a restart of supervisord an instance without a record is one that does not run."""
    assert as_running("a", None).state is ProcessState.EXITED


def test_states_of_supervisord_map_to_ours() -> None:
    """supervisord's numbers become our three states; a program never started has no exit status."""
    info = {"state": 20, "pid": 7, "start": 100, "exitstatus": 0}
    assert as_running("a", info).state is ProcessState.RUNNING
    assert as_running("a", info | {"state": 40}).state is ProcessState.STOPPING
    gone = as_running("a", info | {"state": 100, "pid": 0, "exitstatus": 3})
    assert (gone.state, gone.pid, gone.exit_status) == (ProcessState.EXITED, None, 3)
    assert as_running("a", info | {"state": 0, "pid": 0, "start": 0}).exit_status is None
