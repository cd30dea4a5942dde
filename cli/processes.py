"""The stack's processes, found by the mark in their environment, whoever their parent is now."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

import psutil

from configs.environment import MARK
from configs.stack import Stack

KILL_S = 5.0


def marked(stack: Stack) -> list[psutil.Process]:
    """All processes of this stack but the caller and its ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [p for p in psutil.process_iter() if p.pid not in own and _mark_of(p) == str(stack.home)]


def strays(stack: Stack, supervisor_pid: int | None) -> list[psutil.Process]:
    """Marked processes that the running supervisord does not know: left behind by one that died."""
    known = {supervisor_pid, *descendants(supervisor_pid)} if supervisor_pid else set()
    return [p for p in marked(stack) if p.pid not in known]


def descendants(pid: int) -> set[int]:
    """The pids below a process; none when it is gone."""
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return set()


def end(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """SIGTERM to all, SIGKILL to those that are left after ``grace_s`` seconds."""
    there = list(processes)
    for process in there:
        _signal(process.terminate)
    _, left = psutil.wait_procs(there, timeout=grace_s)
    for process in left:
        _signal(process.kill)
    psutil.wait_procs(left, timeout=KILL_S)


def memory_mib(pid: int, below: bool = True) -> float:
    """Proportional set size of a process, and of all below it, in MiB."""
    total = 0
    for each in (pid, *(descendants(pid) if below else ())):
        try:
            total += psutil.Process(each).memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def listening_port(pid: int) -> int | None:
    """The first port that a process or one below it listens on."""
    for each in (pid, *descendants(pid)):
        try:
            open_here = psutil.Process(each).net_connections("tcp")
        except psutil.Error:
            continue
        ports = sorted(c.laddr.port for c in open_here if c.status == psutil.CONN_LISTEN)
        if ports:
            return ports[0]
    return None


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        send()


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None
