"""Ports of this machine: is one free, and who holds it if not."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

from rollout.errors import Conflict, Refused
from rollout.limits import RESERVED_PORTS

#: never given to an instance: taken by the sidecar of the managed service that we match


@dataclass(frozen=True)
class Holder:
    """Who listens on a port. ``pid`` is None where the system does not tell us (another user's process)."""

    port: int
    pid: int | None
    command: str

    def __str__(self) -> str:
        return f"port {self.port} is held by " + (f"pid {self.pid} ({self.command})" if self.pid else self.command)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on ``port`` now. Connections in TIME_WAIT do not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int, host: str = "127.0.0.1") -> Holder | None:
    """Who holds ``port``, or None when it is free."""
    return None if is_free(port, host) else Holder(port, *_listener(port))


def require_free(port: int, host: str = "127.0.0.1", field: str = "port") -> None:
    """Raises Refused for a reserved port, Conflict (naming port, pid and command) for one that is taken."""
    if port in RESERVED_PORTS:
        raise Refused(field, port, "8080 and 9090 are reserved", "choose another port, for example 18100")
    taken_by = holder(port, host)
    if taken_by:
        raise Conflict(f"{field}: {taken_by}. Fix: end that process or choose another port.")


def _listener(port: int) -> tuple[int | None, str]:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return connection.pid, command_of(connection.pid)
    return None, "a process that this user may not see"


def command_of(pid: int, width: int = 100) -> str:
    """The command line of a process in at most ``width`` characters; empty when it is gone."""
    try:
        text = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
    return text if len(text) <= width else text[: width - 1] + "…"
