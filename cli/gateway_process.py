"""The gateway's Envoys under supervisord: a program for each slot, one of which runs but during an upgrade."""

from __future__ import annotations

import time

from cli.parts import GATEWAYS, apart_from_gateway
from cli.preparing import only_one, prepare
from configs.stack import Stack
from gateway.upgrade import Say, Slot, finish, relieve, slots
from platforms.on_process import ALREADY_STARTED, ProcessStates, Supervisor, write_aside
from rollout.errors import Conflict, Unavailable

_END_S = 20.0
_RUNS = (ProcessStates.STARTING, ProcessStates.RUNNING, ProcessStates.STOPPING)


class GatewayProcesses:
    """``gateway.upgrade.Processes`` on supervisord. All verbs raise Unavailable."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def start(self, slot: str) -> None:
        """Start the slot's program as the configuration says now."""
        self._supervisor.load(GATEWAYS[slot])
        self._supervisor.call("startProcess", GATEWAYS[slot], False, ignore=ALREADY_STARTED)

    def stop(self, slot: str) -> None:
        """SIGTERM; returns when it has ended."""
        self._supervisor.stop(GATEWAYS[slot])
        deadline = time.monotonic() + _END_S
        while self.pid(slot):
            if time.monotonic() > deadline:
                raise Unavailable(f"{GATEWAYS[slot]} did not end within {_END_S:g} s")
            time.sleep(0.05)

    def pid(self, slot: str) -> int | None:
        """Its process."""
        info = self._supervisor.info(GATEWAYS[slot])
        return info["pid"] or None if info and info["state"] in _RUNS else None


def upgrade(stack: Stack, say: Say, grace_s: float) -> int:
    """A new Envoy in place of the running one; how many requests were cut after ``grace_s``.

    Raises Unavailable, Refused, Conflict (another ``up`` is at work; other settings have changed too).
    """
    processes = GatewayProcesses(Supervisor(str(stack.supervisor_socket)))
    with only_one(stack):
        _renew_conf(stack)
        relieve(stack.gateway(), processes, say, grace_s)
    return finish(stack.gateway(), processes, say, grace_s)


def gateway_slots(stack: Stack) -> list[Slot]:
    """Each Envoy that lives, the one in charge first. Raises Unavailable."""
    return slots(stack.gateway(), GatewayProcesses(Supervisor(str(stack.supervisor_socket))))


def _renew_conf(stack: Stack) -> None:
    """Let supervisord's configuration say how the gateway is to be started today."""
    file, conf = stack.run / "supervisor.conf", prepare(stack)
    if not file.exists():
        raise Unavailable("the stack does not run; start it with `roundhouse up`")
    if apart_from_gateway(file.read_text()) != apart_from_gateway(conf):
        raise Conflict("other settings have changed too; `roundhouse up` takes them over, the gateway's as an upgrade")
    write_aside(file, conf)
