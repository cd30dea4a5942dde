"""One Envoy relieves another with no request lost: two on the same port, then the older leaves.

Interrupted between any two steps it is begun anew: whoever the link ``run/admin.sock`` names is in charge, the other
one is taken over or sent away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from gateway import files, reuse_port
from gateway.admin import Admin, is_live
from gateway.command import is_current, write_bootstrap
from gateway.port import EnvoySettings
from gateway.render import Layout
from gateway.slots import SLOTS, in_charge, other, put_in_charge, slot_admin
from rollout.errors import Unavailable

Say = Callable[[str], None]
GRACE_S = 600.0  # streams older than this are cut
QUIET_S = 30.0  # idle connections are closed after so long without any request
READY_S = 30.0
_QUEUE_S = 5.0
_LOCK_S = 20.0
_POLL_S = 0.05
_REQUESTS = ("http.gw.downstream_rq_active", "http.mirror.downstream_rq_active")
_CONNECTIONS, _TOTAL = "http.gw.downstream_cx_active", "http.gw.downstream_rq_total"


class Processes(Protocol):
    """The process manager, as far as an upgrade needs it."""

    def start(self, slot: str) -> None:
        """Start the slot's Envoy as it is to be started today."""

    def stop(self, slot: str) -> None:
        """End it, and return when it has ended."""

    def pid(self, slot: str) -> int | None:
        """Its process, None where none runs."""


@dataclass(frozen=True)
class Slot:
    """What one Envoy is doing."""

    slot: str
    in_charge: bool
    pid: int
    version: str
    uptime_s: int
    accepts: bool  # new connections
    requests: int  # open ones
    connections: int
    current: bool  # started with today's settings and program


def slots(settings: EnvoySettings, processes: Processes) -> list[Slot]:
    """Each Envoy that lives, the one in charge first."""
    first = in_charge(Layout.of(settings))
    found = [_slot(settings, processes, slot, slot == first) for slot in (first, other(first))]
    return [each for each in found if each]


def relieve(
    settings: EnvoySettings, processes: Processes, say: Say, grace_s: float = GRACE_S, ready_s: float = READY_S
) -> None:
    """A new Envoy takes over from the one in charge, which closes its port and keeps its open requests.

    One that still leaves after an earlier upgrade is waited for, ``grace_s`` at most, for its slot. Raises Unavailable
    where none runs, and where the new one does not get ready: then the old one stays in charge.
    """
    layout = Layout.of(settings)
    old = _alive(settings, layout)
    new = other(old)
    if processes.pid(new) and not _may_take_over(settings, processes, new):
        send_away(settings, processes, new)
        finish(settings, processes, say, grace_s)
    if not processes.pid(new):
        write_bootstrap(settings, new)
        processes.start(new)
        say(f"starting in slot {new}")
    try:
        _switch(settings, processes, old, new, ready_s)
    except BaseException:
        if in_charge(layout) == old:
            send_away(settings, processes, new)
            processes.stop(new)
        raise
    say(f"slot {new} is in charge")
    send_away(settings, processes, old)


def send_away(settings: EnvoySettings, processes: Processes, slot: str) -> None:
    """Close the slot's port with no connection lost, then tell its clients to leave. The other one must serve."""
    port, pid, admin = settings.port, processes.pid(slot), slot_admin(settings, slot)
    with contextlib.suppress(Unavailable):  # whoever has ended needs no sending
        if pid and reuse_port.listening(pid, port):
            steered = _steer_past(settings, pid, processes.pid(other(slot)))
            admin.close_ports()
            _until(lambda: not reuse_port.listening(pid, port), _QUEUE_S)
            if steered:
                with contextlib.suppress(OSError):
                    reuse_port.let_go(settings.host, port)
        admin.drain()


def finish(
    settings: EnvoySettings, processes: Processes, say: Say, grace_s: float = GRACE_S, quiet_s: float = QUIET_S
) -> int:
    """End the Envoy that is not in charge when its last request is over, or after ``grace_s``; how many were cut.

    Nothing to end is no error. Returns also when somebody else ended it.
    """
    slot = other(in_charge(Layout.of(settings)))
    pid = processes.pid(slot)
    if not pid:
        return 0
    left = _leave(settings, processes, slot, pid, say, grace_s, quiet_s)
    if processes.pid(slot) == pid and slot != in_charge(Layout.of(settings)):
        processes.stop(slot)
        say(f"slot {slot} has ended" + (f", {left} requests were cut" if left else ""))
    return left


def is_idle(settings: EnvoySettings, slot: str) -> bool:
    """Whether the slot's Envoy has no open request; true where none answers."""
    return sum(_counted(slot_admin(settings, slot)).get(name, 0) for name in _REQUESTS) == 0


def quieten(settings: EnvoySettings, limit_s: float) -> None:
    """Before the end of the whole gateway: wait until no request is open, ``limit_s`` seconds at most."""
    _until(lambda: all(is_idle(settings, slot) for slot in SLOTS), limit_s)


def _leave(
    settings: EnvoySettings, processes: Processes, slot: str, pid: int, say: Say, grace_s: float, quiet_s: float
) -> int:
    """Wait for the slot's last request; how many are open still."""
    admin, began = slot_admin(settings, slot), time.monotonic()
    served, heard, told = -1, began, 0.0
    while processes.pid(slot) == pid:
        now, seen = time.monotonic(), _counted(admin)
        requests, connections = sum(seen.get(name, 0) for name in _REQUESTS), seen.get(_CONNECTIONS, 0)
        if requests or seen.get(_TOTAL, 0) != served:
            served, heard = seen.get(_TOTAL, 0), now
        if now - began > grace_s or (not requests and (not connections or now - heard > quiet_s)):
            return requests
        if now - told > 5:
            say(f"slot {slot} finishes {requests} requests on {connections} connections")
            told = now
        time.sleep(_POLL_S)
    return 0


def _alive(settings: EnvoySettings, layout: Layout) -> str:
    """Who is in charge; the other one where only that lives. Raises Unavailable where none does."""
    first = in_charge(layout)
    alive = [slot for slot in (first, other(first)) if is_live(slot_admin(settings, slot))]
    if not alive:
        raise Unavailable("no gateway serves; start it with `roundhouse up`")
    if alive[0] != first:
        put_in_charge(layout, alive[0])
    return alive[0]


def _may_take_over(settings: EnvoySettings, processes: Processes, slot: str) -> bool:
    """Whether an earlier upgrade has already started what is asked for."""
    return reuse_port.listening(processes.pid(slot), settings.port) > 0 and is_current(settings, slot)


def _switch(settings: EnvoySettings, processes: Processes, old: str, new: str, ready_s: float) -> None:
    """Put the new one in charge when it holds all that the old one holds; no change is made meanwhile."""
    layout = Layout.of(settings)
    before, after = slot_admin(settings, old), slot_admin(settings, new)

    def ready() -> str:
        if not processes.pid(new) or not reuse_port.listening(processes.pid(new), settings.port):
            return "it does not listen"
        return _behind(before, after)

    _require(ready, layout, ready_s)
    with files.locked(layout.lock, _LOCK_S):
        _require(ready, layout, ready_s)
        put_in_charge(layout, new)


def _require(ready: Callable[[], str], layout: Layout, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while why := ready():
        if time.monotonic() > deadline:
            raise Unavailable(f"the new Envoy is not ready after {limit_s:g} s: {why}; see {layout.envoy_log}")
        time.sleep(_POLL_S)


def _behind(old: Admin, new: Admin) -> str:
    """What the new Envoy lacks of the old one: files refused or not read yet, instances not found healthy yet."""
    if not is_live(new):
        return "it is not live"
    pattern = r"\.(version_text|update_rejected|membership_healthy)$|warming_clusters$|listeners_(warming|active)$"
    have, want = new.matching(pattern), old.matching(pattern)
    refused = [name for name, count in have.items() if name.endswith("update_rejected") and count]
    if refused:
        return f"it refused {', '.join(refused)}"
    late = [name for name, value in want.items() if _lacks(name, have.get(name), value)]
    late += [name for name, value in have.items() if name.endswith("_warming") and value]
    return f"it is behind in {', '.join(late)}" if late else ""


def _lacks(name: str, has: Any, wanted: Any) -> bool:
    if name.endswith("membership_healthy"):
        return (has or 0) < wanted
    return name.endswith("version_text") and not name.startswith("listener_manager") and has != wanted


def _steer_past(settings: EnvoySettings, leaving: int, staying: int | None) -> bool:
    """Send new connections to who stays, and wait until those that wait at who leaves were accepted.

    Whether it could: otherwise a connection that is being opened while the port closes may be reset.
    """
    try:
        if not staying or not reuse_port.listening(staying, settings.port):
            return False
        first = _began(staying) < _began(leaving)
        reuse_port.steer(settings.host, settings.port, 0 if first else reuse_port.listening(leaving, settings.port))
    except (OSError, psutil.Error):
        return False
    begun = reuse_port.beginning(settings.port)
    _until(lambda: not begun & reuse_port.beginning(settings.port), _QUEUE_S)
    _until(lambda: not reuse_port.waiting(leaving, settings.port), _QUEUE_S)
    return True


def _began(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _slot(settings: EnvoySettings, processes: Processes, slot: str, first: bool) -> Slot | None:
    pid, admin = processes.pid(slot), slot_admin(settings, slot)
    if not pid or not is_live(admin):
        return None
    told, seen = admin.server(), _counted(admin)
    return Slot(
        slot=slot,
        in_charge=first,
        pid=pid,
        version=told.get("version", "").split("/")[1] if "/" in told.get("version", "") else "",
        uptime_s=int(told.get("uptime_current_epoch", "0s").removesuffix("s")),
        accepts=reuse_port.listening(pid, settings.port) > 0,
        requests=sum(seen.get(name, 0) for name in _REQUESTS),
        connections=seen.get(_CONNECTIONS, 0),
        current=is_current(settings, slot),
    )


def _counted(admin: Admin) -> dict[str, Any]:
    """Open requests and connections; nothing of an Envoy that has ended."""
    try:
        return admin.stats([*_REQUESTS, _CONNECTIONS, _TOTAL])
    except Unavailable:
        return {}


def _until(holds: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.002)
