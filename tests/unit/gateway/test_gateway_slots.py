"""Slots, and who gets the next connection when several listen on one port."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gateway import reuse_port
from gateway.command import is_current, write_bootstrap
from gateway.port import EnvoySettings
from gateway.render import Layout
from gateway.slots import SLOTS, admins, in_charge, other, put_in_charge
from rollout.errors import Unavailable


@pytest.fixture
def settings(tmp_path: os.PathLike) -> EnvoySettings:
    """A folder that was laid out once."""
    made = EnvoySettings(directory=str(tmp_path))
    write_bootstrap(made)
    return made


def listener(port: int = 0) -> socket.socket:
    """One more that listens on a port that may be shared."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(100)
    made.setblocking(False)
    return made


@pytest.fixture
def three() -> Iterator[list[socket.socket]]:
    """Three on one port, in the order in which they began."""
    first = listener()
    made = [first, *(listener(first.getsockname()[1]) for _ in range(2))]
    yield made
    for each in made:
        each.close()


def accepted(each: socket.socket) -> int:
    """How many connections waited there."""
    count = 0
    while True:
        try:
            each.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def knock(port: int, times: int) -> None:
    """Open and close connections."""
    for _ in range(times):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.parametrize("member", [0, 1, 2])
def test_all_new_connections_go_to_one_member(three: list[socket.socket], member: int) -> None:
    """Steered to one, the others get none; let go, all get some."""
    port = three[0].getsockname()[1]
    reuse_port.steer("127.0.0.1", port, member)
    knock(port, 40)
    assert [accepted(each) for each in three] == [40 if i == member else 0 for i in range(3)]
    reuse_port.let_go("127.0.0.1", port)
    knock(port, 60)
    assert all(accepted(each) for each in three)


def test_nothing_is_reset_when_a_port_is_closed_behind_a_steering(three: list[socket.socket]) -> None:
    """The oldest closes; all that come go on to the member that was chosen, wherever it stands now."""
    port = three[0].getsockname()[1]
    reuse_port.steer("127.0.0.1", port, 1)
    three[0].close()
    knock(port, 30)
    assert accepted(three[1]) == 30


def test_queues_are_told_by_process(three: list[socket.socket]) -> None:
    """How many sockets a process listens on, and how many connections it has not accepted yet."""
    port = three[0].getsockname()[1]
    assert reuse_port.listening(os.getpid(), port) == 3
    knock(port, 5)
    assert reuse_port.waiting(os.getpid(), port) == 5
    assert reuse_port.listening(None, port) == reuse_port.listening(1 << 22, port) == 0
    assert reuse_port.beginning(port) == set()


def test_the_first_start_puts_slot_a_in_charge(settings: EnvoySettings) -> None:
    """The link names it, and laying out a slot again leaves the other one in charge."""
    layout = Layout.of(settings)
    assert in_charge(layout) == SLOTS[0]
    put_in_charge(layout, "b")
    write_bootstrap(settings, "a")
    assert (in_charge(layout), os.readlink(layout.admin), other("b")) == ("b", "admin-b.sock", "a")


def test_a_slot_is_current_until_it_is_asked_for_something_else(settings: EnvoySettings) -> None:
    """Each slot has files of its own; another port makes what was laid out old."""
    assert is_current(settings, "a") and not is_current(settings, "b")
    write_bootstrap(settings, "b")
    assert is_current(settings, "b")
    assert not is_current(EnvoySettings(directory=settings.directory, port=9999), "b")


def test_who_is_in_charge_is_always_asked(settings: EnvoySettings) -> None:
    """Without any Envoy a change is for the one in charge to refuse; a relieved one that is gone is nobody to ask."""
    (first,) = admins(Layout.of(settings))
    with pytest.raises(Unavailable):
        first.live()
