"""Who holds a port."""

from __future__ import annotations

import os
import socket

import pytest

from platforms.ports import command_of, holder, is_free, require_free
from rollout.errors import Conflict, Refused


def test_free_port_has_no_holder(free_port: int) -> None:
    """Nobody is named for a port that is free."""
    assert holder(free_port) is None
    require_free(free_port)


def test_holder_names_pid_and_command() -> None:
    """The error for a taken port names the port, the pid and the command of its holder."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = holder(port)
        assert found and found.pid == os.getpid() and "pytest" in found.command
        with pytest.raises(Conflict, match=f"gateway: port {port} is held by pid {os.getpid()}"):
            require_free(port, field="gateway")


def test_closed_connections_do_not_hold_a_port() -> None:
    """A server that just ended leaves its port usable although connections linger in TIME_WAIT."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert is_free(port)


def test_reserved_port_is_refused() -> None:
    """8080 is refused whether or not it is free."""
    with pytest.raises(Refused, match="reserved"):
        require_free(8080)


def test_command_is_shortened() -> None:
    """A long command line is cut to the width asked for, and a gone process has none."""
    assert len(command_of(os.getpid(), width=10)) <= 10
    assert command_of(2**22 + 1) == ""
