"""Instances as processes of this machine, kept by the stack's supervisord (XML-RPC on its unix socket).

supervisord only starts and stops: restarting is the agent's decision, so programs have ``autorestart=false``.
One file per instance in the include folder is the memory: a restarted supervisord reads them again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
import xmlrpc.client
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from supervisor.states import ProcessStates
from supervisor.xmlrpc import Faults

from platforms.port import InstanceSpec, ProcessState, Running, SupervisorSettings
from platforms.ports import require_free
from platforms.supervisor_conf import Program, render_program
from rollout.command import referred, revealed
from rollout.errors import Conflict, NotFound, Unavailable

ALREADY_STARTED = Faults.ALREADY_STARTED

ALIVE = (ProcessStates.STARTING, ProcessStates.RUNNING)
TIMEOUT_S = 5.0


class SupervisorPlatform:
    """The verbs of ``platforms.port.Platform`` on supervisord."""

    def __init__(self, settings: SupervisorSettings) -> None:
        self._supervisor = Supervisor(settings.socket)
        self._include = Path(settings.include_directory)
        self._logs = Path(settings.log_directory)

    def start(self, spec: InstanceSpec) -> None:
        """Have it run. Raises Conflict (port taken, or still stopping), Refused, NotFound (command), Unavailable."""
        text = render_program(self._program(spec))
        info = self._supervisor.info(spec.id)
        if info and info["state"] in ALIVE:
            return
        if info and info["state"] == ProcessStates.STOPPING:
            raise Conflict(f"{spec.id} (pid {info['pid']}) is still stopping; start it again when it has exited")
        require_free(spec.port, spec.host)
        self._logs.mkdir(parents=True, exist_ok=True)
        write_aside(self._file(spec.id), text)
        self._supervisor.load(spec.id)
        self._supervisor.call("startProcess", spec.id, False, ignore=Faults.ALREADY_STARTED)

    def stop(self, instance_id: str) -> None:
        """SIGTERM to its process group, SIGKILL after ``stop_s``; both by supervisord. Returns at once."""
        self._supervisor.stop(instance_id)

    def kill(self, instance_id: str) -> None:
        """SIGKILL to its process group (supervisord makes each child a group leader)."""
        info = self._supervisor.info(instance_id)
        if info and info["pid"]:
            try:
                os.killpg(info["pid"], signal.SIGKILL)
            except ProcessLookupError:  # gone, or so young that it leads no group yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(info["pid"], signal.SIGKILL)

    def remove(self, instance_id: str) -> None:
        """Forget it; its log stays. Raises Conflict while it runs, Unavailable."""
        info = self._supervisor.info(instance_id)
        if info and info["pid"]:
            raise Conflict(f"{instance_id} still runs (pid {info['pid']}); stop it first")
        self._file(instance_id).unlink(missing_ok=True)
        self._supervisor.call("removeProcessGroup", instance_id, ignore=Faults.BAD_NAME)

    def running(self) -> dict[str, Running]:
        """All instances that have a file, with what supervisord says of them. Raises Unavailable."""
        infos = {info["group"]: info for info in self._supervisor.call("getAllProcessInfo")}
        ids = sorted(path.stem for path in self._include.glob("*.conf"))
        return {each: as_running(each, infos.get(each)) for each in ids}

    def log_path(self, instance_id: str) -> str:
        """The file that both output streams go to; older parts beside it end in .1, .2."""
        return str(self._logs / f"{instance_id}.log")

    def _file(self, instance_id: str) -> Path:
        return self._include / f"{instance_id}.conf"

    def _program(self, spec: InstanceSpec) -> Program:
        log, folder = self.log_path(spec.id), str(self._logs)
        pinned = (sys.executable, "-m", "platforms.pinned", ",".join(str(core) for core in spec.cores))
        argv = (*pinned, *spec.argv) if spec.cores else spec.argv
        env = {name: value for name, value in spec.env.items() if not referred(value)}
        secrets = {n: v for n, v in revealed(spec.env, os.environ).items() if n not in env}
        return Program(spec.id, argv, log, env=env, secrets=secrets, directory=folder, stop_s=spec.stop_s)


def as_running(instance_id: str, info: dict[str, Any] | None) -> Running:
    """supervisord's record as ours; no record means a program that it was not told of yet, so one that does not run."""
    if info is None:
        return Running(instance_id, ProcessState.EXITED, None, None)
    started = float(info["start"]) or None
    if info["state"] in ALIVE:
        return Running(instance_id, ProcessState.RUNNING, info["pid"] or None, started)
    if info["state"] == ProcessStates.STOPPING:
        return Running(instance_id, ProcessState.STOPPING, info["pid"] or None, started)
    return Running(instance_id, ProcessState.EXITED, None, started, info["exitstatus"] if started else None)


def write_aside(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step, readable by the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


class Supervisor:
    """supervisord's XML-RPC, one short connection a call (http://supervisord.org/api.html)."""

    def __init__(self, socket_path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._transport = _UnixTransport(socket_path, timeout_s)

    def call(self, method: str, *arguments: Any, ignore: int | None = None) -> Any:
        """The answer of ``supervisor.<method>``; None on the fault ``ignore``. Raises NotFound, Unavailable."""
        try:
            with xmlrpc.client.ServerProxy("http://localhost", self._transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ignore:
                return None
            kind = NotFound if fault.faultCode in (Faults.NO_FILE, Faults.NOT_EXECUTABLE) else Unavailable
            raise kind(f"supervisord refused {method}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            raise Unavailable(f"supervisord does not answer on {self._transport.path}: {error}") from error

    def info(self, name: str) -> dict[str, Any] | None:
        """What it knows of one program; None when it knows none of that name. Raises Unavailable."""
        return self.call("getProcessInfo", name, ignore=Faults.BAD_NAME)

    def load(self, name: str) -> None:
        """Take over the program's file as it is now; the program must not run. Raises Unavailable."""
        self.call("reloadConfig")
        self.call("removeProcessGroup", name, ignore=Faults.BAD_NAME)
        self.call("addProcessGroup", name, ignore=Faults.ALREADY_ADDED)

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL after its ``stopwaitsecs``; returns at once. Nothing to stop is no error."""
        info = self.info(name)
        if info and info["state"] in (*ALIVE, ProcessStates.BACKOFF):
            self.call("stopProcess", name, False, ignore=Faults.NOT_RUNNING)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    """supervisor's own SupervisorTransport knows no timeout, and a hung supervisord must not hang the agent."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        self.path, self._timeout_s = path, timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self.path, self._timeout_s)
