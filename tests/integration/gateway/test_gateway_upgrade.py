"""One Envoy relieves another: nothing is lost, and an interrupted upgrade is begun anew."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from running_envoy import ALICE_HEADERS, Upstream, a_free_port, a_state, until

from gateway.admin import Admin
from gateway.command import envoy_command, is_current, wait_live, write_bootstrap
from gateway.envoy import EnvoyGateway
from gateway.names import LISTENER
from gateway.port import Cursor, EnvoySettings, Tracing
from gateway.records import batches
from gateway.render import Layout
from gateway.slots import admins, in_charge, put_in_charge
from gateway.splits import splits_in_force
from gateway.upgrade import finish, relieve, send_away, slots
from rollout.errors import Unavailable

HEAD = "\r\n".join(f"{name}: {value}" for name, value in {"Host": "x", **ALICE_HEADERS}.items())


@dataclass
class Pair:
    """Both slots, as a process manager keeps them."""

    settings: EnvoySettings
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)

    def start(self, slot: str) -> None:
        self.starts.append(slot)
        self.running[slot] = subprocess.Popen(envoy_command(self.settings, slot=slot, drain_s=3))

    def stop(self, slot: str) -> None:
        self.running[slot].terminate()
        self.running[slot].wait()

    def kill(self, slot: str) -> None:
        """SIGKILL."""
        self.running[slot].kill()
        self.running[slot].wait()

    def pid(self, slot: str) -> int | None:
        process = self.running.get(slot)
        return process.pid if process and process.poll() is None else None

    def up(self) -> Pair:
        """The first Envoy, in charge."""
        write_bootstrap(self.settings)
        self.start(in_charge(Layout.of(self.settings)))
        wait_live(self.settings, 30)
        return self

    @property
    def alive(self) -> list[str]:
        return [slot for slot in ("a", "b") if self.pid(slot)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A first Envoy that serves; a folder with a short path."""
    folder = tempfile.mkdtemp(prefix="rh-")
    both = Pair(EnvoySettings(directory=folder, port=a_free_port(), confirm_timeout_s=30)).up()
    yield both
    for slot in both.alive:
        both.kill(slot)
    shutil.rmtree(folder)


@dataclass
class Seen:
    """What raw clients saw. A failure is anything but a whole answer with status 200."""

    stream: dict
    answers: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    told_to_leave: int = 0


@contextlib.contextmanager
def load(port: int, short: int = 4, kept: int = 4, streams: int = 4, **stream: object) -> Iterator[Seen]:
    """Clients with a connection for each request, clients that keep theirs, and readers of streams: of 12 s, or as
    ``stream`` asks the engine."""
    seen, over = Seen({"stream": True, "n": 60, "gap": 0.2, **stream}), threading.Event()
    kinds = [("short", short), ("kept", kept), ("stream", streams)]
    clients = [_CLIENTS[name] for name, count in kinds for _ in range(count)]

    async def all_of_them() -> None:
        await asyncio.gather(*(client(port, seen, over) for client in clients))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    try:
        until(lambda: seen.answers.total() > 50)
        yield seen
    finally:
        over.set()
        thread.join()


async def _short(port: int, seen: Seen, over: threading.Event) -> None:
    while not over.is_set():
        await _watched("short", seen, _request(port, seen))
        await asyncio.sleep(0.01)


async def _request(port: int, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await _asked(reader, writer)
        seen.answers["short"] += 1
    finally:
        writer.close()


async def _kept(port: int, seen: Seen, over: threading.Event) -> None:
    while not over.is_set():
        await _watched("kept", seen, _requests(port, seen, over))


async def _requests(port: int, seen: Seen, over: threading.Event) -> None:
    """One connection, until it is told to leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not over.is_set():
            head = await _asked(reader, writer)
            seen.answers["kept"] += 1
            if b"connection: close" in head:
                seen.told_to_leave += 1
                return
            await asyncio.sleep(0.01)
    finally:
        writer.close()


async def _stream(port: int, seen: Seen, over: threading.Event) -> None:
    while not over.is_set():
        await _watched("stream", seen, _read_stream(port, seen))


async def _read_stream(port: int, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(seen.stream).encode()
    head = f"POST /api/predict/chat/v1/completions HTTP/1.1\r\n{HEAD}\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        writer.write(head.encode() + body)
        text = await reader.readuntil(b"0\r\n\r\n")
        assert text.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in text, text[-200:]
        seen.answers["stream"] += 1
    finally:
        writer.close()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(f"GET /api/predict/chat/x HTTP/1.1\r\n{HEAD}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    body = await reader.readexactly(int(length.removeprefix(b"content-length: ")))
    assert head.startswith(b"HTTP/1.1 200"), head + body
    return head


async def _watched(name: str, seen: Seen, call: Awaitable[None]) -> None:
    try:
        await call
    except (OSError, EOFError, AssertionError) as error:
        seen.failures.append(f"{name}: {error!r}")


_CLIENTS = {"short": _short, "kept": _kept, "stream": _stream}


def quiet(text: str) -> None:
    """Nobody watches."""


def upgraded(pair: Pair, quiet_s: float = 2.0) -> int:
    """The whole of an upgrade; how many requests it cut."""
    relieve(pair.settings, pair, quiet)
    return finish(pair.settings, pair, quiet, grace_s=30, quiet_s=quiet_s)


def version_served(pair: Pair) -> str:
    """Who answers now, on a new connection."""
    answer = httpx.get(f"http://127.0.0.1:{pair.settings.port}/api/predict/chat/x", headers=ALICE_HEADERS)
    assert answer.status_code == 200
    return str(answer.headers["x-roundhouse-version"])


def test_an_upgrade_loses_nothing(pair: Pair, v1: Upstream, v2: Upstream) -> None:
    """New connections, kept ones and streams of 12 s across an upgrade: none fails, and each request has its record."""
    gateway, records = EnvoyGateway(pair.settings), Layout.of(pair.settings).records
    gateway.apply(a_state(v1))
    with load(pair.settings.port) as seen:
        assert upgraded(pair) == 0
        assert pair.alive == ["b"]
        before = seen.answers["short"]
        until(lambda: seen.answers["short"] > before + 50)
    assert seen.failures == []
    assert seen.answers["stream"] >= 4 and seen.told_to_leave >= 4
    until(lambda: sum(r.status == 200 for r in gateway.records(Cursor())[0]) >= seen.answers.total())
    assert sum(batch.skipped for batch in batches(records, Cursor())) == 0, "lines of two Envoys ran into each other"


def test_many_connections_survive_the_closing_of_a_port(pair: Pair, v1: Upstream) -> None:
    """Upgrade upon upgrade while connections are opened as fast as they can be: not one is reset."""
    EnvoyGateway(pair.settings).apply(a_state(v1))
    with load(pair.settings.port, short=32, kept=0, streams=0) as seen:
        for _ in range(4):
            upgraded(pair, quiet_s=0.5)
    assert seen.failures == []
    assert pair.starts == ["a", "b", "a", "b", "a"]


def test_changes_go_on_during_and_after_an_upgrade(pair: Pair, v1: Upstream, v2: Upstream) -> None:
    """Whoever held a gateway before an upgrade asks the Envoy in charge after it; both know a change in between."""
    gateway = EnvoyGateway(pair.settings)
    gateway.apply(a_state(v1, v2))
    relieve(pair.settings, pair, quiet)
    assert [admin.server()["node"]["id"] for admin in admins(Layout.of(pair.settings))] == ["gateway-b", "gateway-a"]
    gateway.apply(a_state(v2, v1))
    until(lambda: [_stable_of(admin) for admin in admins(Layout.of(pair.settings))] == [2, 2])
    finish(pair.settings, pair, quiet, quiet_s=0.1)
    assert len(admins(Layout.of(pair.settings))) == 1
    gateway.apply(a_state(v1, v2))
    assert gateway.read()["chat"].stable == 1 and version_served(pair) == "1"


def test_a_new_envoy_that_does_not_get_ready_changes_nothing(pair: Pair, v1: Upstream) -> None:
    """Where the new Envoy refuses its listener the old one stays in charge, and the next upgrade works."""
    EnvoyGateway(pair.settings).apply(a_state(v1))
    good = pair.settings
    pair.settings = dataclasses.replace(good, tracing=Tracing("127.0.0.1", percent=-1.0))
    with pytest.raises(Unavailable, match="does not listen"):
        relieve(pair.settings, pair, quiet, ready_s=1)
    assert (pair.alive, in_charge(Layout.of(good)), version_served(pair)) == (["a"], "a", "1")
    pair.settings = good
    upgraded(pair)
    assert pair.alive == ["b"]


@pytest.mark.parametrize("step", ["started", "switched", "closed", "crashed"])
def test_an_interrupted_upgrade_is_begun_anew(pair: Pair, v1: Upstream, step: str) -> None:
    """Killed after any step, the next upgrade ends with one Envoy that serves, and no request is lost meanwhile."""
    EnvoyGateway(pair.settings).apply(a_state(v1))
    with load(pair.settings.port, streams=1, n=10) as seen:
        _interrupted(pair, step)
        upgraded(pair)
        assert len(pair.alive) == 1 and pair.alive == [in_charge(Layout.of(pair.settings))]
        before = seen.answers["short"]
        until(lambda: seen.answers["short"] > before + 50)
    assert step == "crashed" or seen.failures == []


def _interrupted(pair: Pair, step: str) -> None:
    """What an upgrade leaves behind that was killed after ``step``."""
    write_bootstrap(pair.settings, "b")
    pair.start("b")
    wait_live(pair.settings, 30, "b")
    if step == "started":
        return
    put_in_charge(Layout.of(pair.settings), "b")
    if step == "closed":
        send_away(pair.settings, pair, "a")
    if step == "crashed":
        pair.kill("b")


def test_changed_settings_need_an_upgrade(pair: Pair, v1: Upstream) -> None:
    """Listener settings are taken over by an upgrade, after which the Envoy in charge is the one asked for."""
    EnvoyGateway(pair.settings).apply(a_state(v1))
    assert is_current(pair.settings, "a")
    pair.settings = dataclasses.replace(pair.settings, tracing=Tracing("127.0.0.1", a_free_port()))
    assert not is_current(pair.settings, "a")
    upgraded(pair)
    assert is_current(pair.settings, "b")
    assert version_served(pair) == "1"


def test_slots_tell_what_each_envoy_does(pair: Pair, v1: Upstream) -> None:
    """During an upgrade the one in charge accepts connections, the other finishes what it has."""
    EnvoyGateway(pair.settings).apply(a_state(v1, response_timeout_s=60))
    with load(pair.settings.port, streams=2, n=3, gate="slots") as seen:
        relieve(pair.settings, pair, quiet)
        new, old = slots(pair.settings, pair)
        assert (new.slot, new.in_charge, new.accepts, new.pid) == ("b", True, True, pair.pid("b"))
        assert (old.slot, old.in_charge, old.accepts, old.requests >= 2) == ("a", False, False, True)
        assert new.version == old.version != ""
        v1.open("slots", 3)
        finish(pair.settings, pair, quiet, grace_s=30, quiet_s=1)
    assert seen.failures == []


def test_streams_beyond_the_grace_period_are_cut_and_counted(pair: Pair, v1: Upstream) -> None:
    """An upgrade ends in time, and says how many requests it cost."""
    EnvoyGateway(pair.settings).apply(a_state(v1, response_timeout_s=60))
    with load(pair.settings.port, kept=0, streams=2, n=3, gate="grace") as seen:
        relieve(pair.settings, pair, quiet)
        assert finish(pair.settings, pair, quiet, grace_s=0.5) == 2
        assert pair.alive == ["b"]
        v1.open("grace", 3)
    assert len(seen.failures) == 2 and all(failure.startswith("stream") for failure in seen.failures)


def _stable_of(admin: Admin) -> int | None:
    return splits_in_force(admin.routes(LISTENER), int(time.time() * 1000))["chat"].stable
