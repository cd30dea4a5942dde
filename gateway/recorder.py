"""``python -m gateway.recorder FOLDER``: holds the tap of one Envoy and writes call records, while any are wanted.

It is a process of its own, so that neither a slow disk, nor a rule that takes for ever on some text, nor plain load
holds up Envoy or the agent. One thread reads as fast as Envoy writes, for Envoy keeps in memory what is not read; where
calls come too fast, fewer are asked for. What is lost is counted and told.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gateway import files, saved
from gateway.calls import CallFiles, as_line, calls_folder, record_of
from gateway.port import EnvoySettings, GatewayState
from gateway.render import Layout
from gateway.tap import Address, Origin, call_of, origins, sampled, tap_request, wanted
from gateway.tap_stream import Inbox, Tap

BATCH_BYTES = 1 << 17
YIELD_S = 0.05  # of waiting for the reader, at most, before each batch
MOST_BYTES_S = 16 << 20  # of the tap, each message counted with MESSAGE_COST beside its own bytes
LEAST_PART = 0.001
TELL_S = 10.0
STUCK_S = 20.0  # a batch that takes longer ends the process, and with it the tap
LOOK_S = 0.5
log = logging.getLogger("roundhouse.calls")


class Writer:
    """Makes records of messages, for the services that want them by the state at hand."""

    def __init__(self, calls: CallFiles) -> None:
        self._calls = calls
        self._state = GatewayState()
        self._origins: dict[Address, Origin] = {}
        self._full = False
        self.counts: Counter[str] = Counter()

    def follow(self, state: GatewayState) -> None:
        """Write by this state from now on. Who listened before is remembered: a request may have ended just then."""
        self._state = state
        self._origins = {**self._origins, **origins(state)}

    def write(self, messages: list[bytes]) -> None:
        """Write the records of ``messages``; what cannot be written is counted, and the first failure told."""
        lines: dict[str, list[bytes]] = {}
        asked, doors = wanted(self._state), _doors(self._state)
        own = {s.name for s in self._state.services}
        for message in messages:
            try:
                call = call_of(json.loads(message), self._origins)
                door = call.caller(doors)[0]
                service = door if door in own else call.service  # an address may have had another owner
                if service in asked and sampled(call.request_id, asked[service].percent):
                    lines.setdefault(service, []).append(as_line(record_of(call, service, asked[service], doors)))
            except (ValueError, KeyError, TypeError, RecursionError):
                self.counts["unreadable"] += 1  # without its text, which nothing was redacted in
        for service, records in lines.items():
            self._append(service, records)

    def _append(self, service: str, records: list[bytes]) -> None:
        try:
            self._calls.append(service, records)
            self.counts["written"] += len(records)
            self._full = False
        except OSError as error:
            self.counts["not written"] += len(records)
            if not self._full:
                log.error("call records are dropped until they can be written again: %s", error)
            self._full = True


def _doors(state: GatewayState) -> frozenset[str]:
    return frozenset([*(s.name for s in state.services), *(g.name for g in state.groups)])


@dataclass
class Share:
    """How much of what is wanted is asked for: less when it comes too fast, for Envoy's main thread, which also takes
    in the changes of routes, writes every message of the tap."""

    part: float = 1.0
    _bytes: int = 0
    _dropped: int = 0
    _at: float = 0.0

    def look(self, bytes_in: int, dropped: int, now: float) -> float:
        """The part to ask for from now on, of ``bytes_in`` and ``dropped`` counted until ``now``."""
        if now - self._at < LOOK_S:
            return self.part
        rate, full = (bytes_in - self._bytes) / (now - self._at), dropped > self._dropped
        self._bytes, self._dropped, self._at = bytes_in, dropped, now
        self.part = next_part(self.part, rate, full)
        return self.part


def next_part(part: float, rate: float, full: bool) -> float:
    """Half of the bound at ``rate`` bytes per second beyond it, or half of what was; twice as much when it is calm."""
    if rate > MOST_BYTES_S or full:
        return max(LEAST_PART, part * min(0.5, MOST_BYTES_S / 2 / rate))
    return min(1.0, 2 * part) if rate < MOST_BYTES_S / 4 else part


def record(settings: EnvoySettings, parent: int) -> None:
    """Write call records until the process ``parent`` is gone."""
    sys.setswitchinterval(0.001)  # seconds; the reader is to wait little for the writer
    layout, inbox, share, told = Layout.of(settings), Inbox(), Share(), Told()
    tap, writer = Tap(layout.admin, inbox), Writer(CallFiles(calls_folder(settings)))
    seen, state = None, GatewayState()
    while os.getppid() == parent:
        # From a thread that needs no turn among the others: not even a regular expression can hold it.
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        if (stamp := _stamp(layout.confirmed)) != seen:
            seen, state = stamp, _state(layout.confirmed)
            writer.follow(state)
        part = share.look(inbox.bytes_in, inbox.dropped, time.monotonic())
        tap.ask(tap_request(state, part), _stamp(layout.admin))
        tap.calm.wait(YIELD_S)  # reading comes first
        writer.write(inbox.take(BATCH_BYTES, LOOK_S))
        told.look(part, inbox.dropped, writer.counts, time.monotonic())


@dataclass
class Told:
    """What was said of losses, once in a while."""

    _lost: int = 0
    _at: float = -TELL_S

    def look(self, part: float, dropped: int, counts: Counter[str], now: float) -> None:
        """Say what was lost since it was said last."""
        lost = dropped + counts["not written"] + counts["unreadable"]
        if now - self._at < TELL_S or (lost == self._lost and part == 1.0):
            return
        self._lost, self._at = lost, now
        text = "calls come too fast: %.3g %% of the wanted share are recorded; so far %d were written, %d dropped"
        log.warning(text, 100 * part, counts["written"], lost)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _state(path: Path) -> GatewayState:
    found = saved.from_json(files.parsed(files.read(path)))
    return found.state if found else GatewayState()


def keep_recorder(settings: EnvoySettings, stop: threading.Event) -> None:
    """Run the recorder as a child while any service wants call records, again when it ends; until ``stop`` is set."""
    path = Layout.of(settings).confirmed
    child: subprocess.Popen[bytes] | None = None
    seen, needed, backoff_s, not_before = None, False, 0.2, 0.0
    while not stop.wait(LOOK_S):
        if (stamp := _stamp(path)) != seen:
            seen, needed = stamp, bool(wanted(_state(path)))
        if child is not None and child.poll() is not None:
            log.warning("the recorder of calls ended with %s; again in %.1f s", child.returncode, backoff_s)
            child, not_before, backoff_s = None, time.monotonic() + backoff_s, min(30.0, 2 * backoff_s)
        if needed and child is None and time.monotonic() >= not_before:
            child = _start(settings)
        elif not needed and child is not None:
            child, backoff_s = _end(child), 0.2
    if child is not None:
        _end(child)


def _start(settings: EnvoySettings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway.recorder", str(Layout.of(settings).root), str(os.getpid())]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    child.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    record(EnvoySettings(sys.argv[1]), int(sys.argv[2]))
