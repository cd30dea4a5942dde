"""Which of several listening sockets on one port gets the next connection: Linux, SO_REUSEPORT (socket(7)).

All sockets that listen on a port form a group, in the order in which they began; a closed one is replaced by the last.
The kernel picks one by hash, or asks a classic BPF program that any member may attach, for the number of one. A socket
that closes resets what waits in its queue, so before it closes the program sends new connections past it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_SO_ATTACH_FILTER, _SO_ATTACH_REUSEPORT_CBPF, _SO_DETACH_REUSEPORT_BPF = 26, 51, 68  # asm-generic/socket.h
_RETURN = 0x06  # BPF_RET | BPF_K, linux/bpf_common.h
_SYN_RECV, _LISTEN = "03", "0A"  # include/net/tcp_states.h, as /proc/net/tcp shows them


def steer(host: str, port: int, member: int) -> None:
    """Send all new connections to one member of the port's group, counted from 0. Raises OSError.

    A number beyond the group means the kernel's own choice. Must run as the user who listens there.
    """
    with _joined(host, port) as ours:
        _attach(ours, _SO_ATTACH_REUSEPORT_CBPF, member)


def let_go(host: str, port: int) -> None:
    """Leave the choice to the kernel again. Raises OSError."""
    with _joined(host, port) as ours:
        ours.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)


def listening(pid: int | None, port: int) -> int:
    """On how many sockets a process listens on ``port``."""
    return len(_queues(pid, port))


def waiting(pid: int, port: int) -> int:
    """How many connections wait in a process's queues on ``port``."""
    return sum(_queues(pid, port).values())


def beginning(port: int) -> set[str]:
    """Peers whose first packet to ``port`` was answered, and who have not answered back yet."""
    return {peer for peer, state, _, _ in _table(port) if state == _SYN_RECV}


@contextlib.contextmanager
def _joined(host: str, port: int) -> Iterator[socket.socket]:
    """A member of the group for some 30 microseconds.

    It drops what reaches it, and such a client knocks again after a second: rather late than reset. Some kernels let
    only root drop; a client that comes in those microseconds is then reset.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.suppress(PermissionError):
            _attach(ours, _SO_ATTACH_FILTER, 0)  # a packet filter that keeps 0 bytes
        ours.bind((host, port))
        ours.listen(0)
        yield ours


def _attach(ours: socket.socket, option: int, result: int) -> None:
    """A BPF program of one instruction, struct sock_filter in struct sock_fprog (linux/filter.h)."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, result))
    ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", 1, ctypes.addressof(code)))


def _queues(pid: int | None, port: int) -> dict[str, int]:
    """Connections that wait, by socket, of those on which a process listens."""
    own = _sockets(pid) if pid else set()
    return {inode: queue for _, state, queue, inode in _table(port) if state == _LISTEN and inode in own}


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(handle.path).removeprefix("socket:[").removesuffix("]"))
    return found


def _table(port: int) -> Iterator[tuple[str, str, int, str]]:
    """(peer, state, bytes or connections received and not taken, inode) of sockets on a local port; proc(5)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, peer, state, queues, *more = line.split()
                if int(local.rpartition(":")[2], 16) == port:
                    yield peer, state, int(queues.partition(":")[2], 16), more[4]
