"""What may break around the gateway: the old rules stay in force, the caller learns why, the next change succeeds."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from load_client import Plan, load
from running_envoy import ALICE, ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, until

from gateway import files
from gateway.envoy import EnvoyGateway
from gateway.port import Backend, Endpoint, EnvoySettings, GatewayRefused, GatewayState
from rollout.errors import Unavailable

WRECKS = {
    "empty": b"",
    "half": b'{"resources": [{"na',
    "bytes": bytes(range(256)),
    "list": b"[1, 2]",
    "text": b'"x"',
    "others": b'{"resources": [7], "version_info": []}',
    "deep": b"[" * 100_000,
}
XDS = ["cds.json", "rds.json", "rds-mirror.json", "eds-chat@v1.json", "ecds-auth.json", "ecds-token-rate.json"]


def served_by(proxy: Proxy) -> str | None:
    """The version that answers a request now; None where there is no good answer."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{proxy.url}/api/predict/chat/x", headers=ALICE_HEADERS)
        return answer.headers.get("x-roundhouse-version") if answer.status_code == 200 else None
    return None


def held(proxy: Proxy) -> dict[str, bytes | None]:
    """All that the gateway's folder holds of its state, with whatever was left lying about."""
    folder = [*proxy.layout.xds.iterdir(), proxy.layout.confirmed]
    return {path.name: files.read(path) for path in folder if not path.name.endswith(".before")}


@pytest.mark.parametrize("wreck", WRECKS.values(), ids=WRECKS)
def test_a_wrecked_confirmation_is_none(proxy: Proxy, v1: Upstream, v2: Upstream, wreck: bytes) -> None:
    """Traffic goes on, Envoy itself still tells what is in force, and the next change is validated in full."""
    proxy.gateway.apply(a_state(v1, v2))
    proxy.layout.confirmed.write_bytes(wreck)
    gateway = proxy.gateway
    assert gateway.confirmed() is None
    assert (gateway.read()["chat"].stable, served_by(proxy)) == (1, "1")
    assert gateway.apply(a_state(v1, v2, lease=a_lease(canary=1000))).structural
    until(lambda: served_by(proxy) == "2")


@pytest.mark.parametrize("name", XDS)
def test_a_wrecked_file_of_a_running_envoy_is_made_good(proxy: Proxy, v1: Upstream, name: str) -> None:
    """Envoy keeps what it holds, whatever is written over its files, and the next change writes them anew."""
    proxy.gateway.apply(a_state(v1))
    for wreck in ("half", "list", "others"):
        files.put(proxy.layout.xds / name, WRECKS[wreck])
        assert served_by(proxy) == "1"
        proxy.gateway.apply(a_state(v1))
        assert files.parsed(files.read(proxy.layout.xds / name))["resources"]
        assert served_by(proxy) == "1"


@pytest.mark.parametrize("name", XDS)
def test_an_envoy_that_starts_on_a_wreck_opens_to_nobody(proxy: Proxy, v1: Upstream, name: str) -> None:
    """A half-written file found at the start lets no request in without its token; the next change repairs it."""
    proxy.gateway.apply(a_state(v1))
    proxy.kill()
    (proxy.layout.xds / name).write_bytes(WRECKS["half"])
    proxy.start()
    until(lambda: _listens(proxy))
    url = f"{proxy.url}/api/predict/chat/x"
    for headers in ({}, {"authorization": "wrong-token"}, {"x-client-id": "chat/alice"}):
        assert httpx.get(url, headers=headers).status_code >= 400
    proxy.gateway.apply(a_state(v1))
    until(lambda: served_by(proxy) == "1")
    assert httpx.get(url).status_code == 401


@pytest.mark.parametrize("room", [0, 256, 512, 1024, 2048, 4096, 8192])
def test_a_full_disk_changes_nothing(proxy: Proxy, v1: Upstream, v2: Upstream, room: int) -> None:
    """A process that can write no file beyond ``room`` bytes: done as a whole, or Unavailable and nothing changed."""
    old, new = a_state(v1, v2), a_state(v1, v2, lease=a_lease(canary=1000))
    proxy.gateway.apply(old)
    before = held(proxy)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), _bound_files, (room,)) as cramped:
        try:
            cramped.submit(_apply, proxy.settings, new).result()
        except Unavailable as error:
            assert "old state stays" in str(error)
            assert held(proxy) == before
            assert (served_by(proxy), proxy.gateway.confirmed()) == ("1", old_without_tokens(old))
            proxy.gateway.apply(new)
        else:
            assert room >= 1024
    until(lambda: served_by(proxy) == "2")


@pytest.mark.parametrize("name", ["confirmed.json", "xds/rds.json", "xds/ecds-auth.json", "run/lock"])
def test_a_file_that_cannot_be_written_changes_nothing(proxy: Proxy, v1: Upstream, v2: Upstream, name: str) -> None:
    """Whichever file it is that refuses: Unavailable with the reason, the old rules, and success once it gives way."""
    proxy.gateway.apply(a_state(v1, v2))
    before, path = held(proxy), proxy.layout.root / name
    obstacle = path if name == "run/lock" else path.with_name(f".{path.name}.{os.getpid()}")
    obstacle.unlink(missing_ok=True)
    obstacle.mkdir()
    (chat,) = a_state(v1, v2, lease=a_lease(canary=1000)).services
    new = GatewayState((replace(chat, tokens=(ALICE, replace(ALICE, client="bob", secret="token-of-bob"))),))
    with pytest.raises(Unavailable, match="directory"):
        proxy.gateway.apply(new)
    obstacle.rmdir()
    assert held(proxy) == before
    assert served_by(proxy) == "1"
    proxy.gateway.apply(new)
    until(lambda: served_by(proxy) == "2")


def test_what_envoy_rejects_while_it_runs_is_undone(proxy: Proxy, v1: Upstream) -> None:
    """An instance's address that only Envoy knows to be wrong: refused with its reason, and all is as before."""
    proxy.gateway.apply(a_state(v1))
    before = held(proxy)
    (chat,) = a_state(v1).services
    scoped = Endpoint("chat-v1-1", "fe80::1%nowhere", 18100)
    with pytest.raises(GatewayRefused, match="fe80::1%nowhere"):
        proxy.gateway.apply(
            GatewayState((replace(chat, backends=(Backend(1, (*chat.backends[0].endpoints, scoped)),)),))
        )
    assert held(proxy) == before
    assert served_by(proxy) == "1"
    proxy.gateway.apply(a_state(v1))


def test_an_envoy_that_hangs_is_unavailable(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A stopped Envoy: the change fails before anything is written, and succeeds when it wakes."""
    proxy.gateway.apply(a_state(v1, v2))
    before, new = held(proxy), a_state(v1, v2, lease=a_lease(canary=1000))
    assert proxy.process is not None
    os.kill(proxy.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            proxy.gateway.apply(new)
        assert held(proxy) == before
    finally:
        os.kill(proxy.process.pid, signal.SIGCONT)
    assert served_by(proxy) == "1"
    proxy.gateway.apply(new)
    until(lambda: served_by(proxy) == "2")


def test_an_envoy_that_dies_amid_changes_keeps_the_confirmed_one(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """SIGKILL at drawn moments of changes: it comes back with what was confirmed, and takes the next change."""
    draw, gateway = random.Random(5), proxy.gateway
    gateway.apply(a_state(v1, v2))
    for turn in range(8):
        death = threading.Timer(draw.uniform(0, 0.04), proxy.kill)
        death.start()
        with suppress(Unavailable, GatewayRefused):
            for step in range(1000):
                gateway.apply(a_state(v1, v2, lease=a_lease(canary=(turn * 100 + step) % 1001)))
        death.join()
        proxy.start()
        confirmed = gateway.confirmed()
        assert confirmed is not None
        assert gateway.read()["chat"].lease == confirmed.services[0].lease
        gateway.apply(a_state(v1, v2))


def test_writers_that_die_amid_changes_lose_nothing(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """SIGKILL of the process that changes, at drawn moments under load: no request fails, the next writer goes on."""
    draw = random.Random(6)
    proxy.gateway.apply(a_state(v1, v2))
    with load(Plan(proxy.settings.port, (("chat", ALICE.secret),), rate=300)) as running:
        for _ in range(8):
            writer = multiprocessing.get_context("fork").Process(target=_change_for_ever, args=(proxy, v1, v2))
            writer.start()
            time.sleep(draw.uniform(0.05, 0.3))
            writer.kill()
            writer.join()
            new = a_state(v1, v2, lease=a_lease(canary=500))
            proxy.gateway.apply(new)
            assert proxy.gateway.read()["chat"].lease == new.services[0].lease
    assert (running.seen().failures, running.seen().cut) == ([], [])


def test_a_folder_that_is_gone_is_unavailable(proxy: Proxy, v1: Upstream, tmp_path: Path) -> None:
    """Without a folder to work in a gateway says so; the one that runs elsewhere is not touched."""
    proxy.gateway.apply(a_state(v1))
    elsewhere = EnvoyGateway(replace(proxy.settings, directory=str(tmp_path / "nowhere")))
    with pytest.raises(Unavailable, match="does not exist"):
        elsewhere.apply(a_state(v1))
    assert served_by(proxy) == "1"


def old_without_tokens(state: GatewayState) -> GatewayState:
    """As the gateway tells it back."""
    return GatewayState(tuple(replace(service, tokens=()) for service in state.services))


def _listens(proxy: Proxy) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(proxy.url).status_code > 0
    return False


def _bound_files(room: int) -> None:
    """What a full disk does to a process; the limit is the process's own."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def _apply(settings: EnvoySettings, state: GatewayState) -> None:
    EnvoyGateway(settings).apply(state)


def _change_for_ever(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    gateway, step = EnvoyGateway(proxy.settings), 0
    while True:
        step += 1
        gateway.apply(a_state(v1, v2, lease=a_lease(canary=step % 1001, mirror=step % 7)))
