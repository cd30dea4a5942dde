"""Instructions per request, counted by callgrind on the release binary: the figure that a busy machine cannot bend.

One worker, warmed up; the count around 1,000 requests over 16 open connections, less what the same process does in the
same time without requests (health checks, statistics), which under callgrind weighs fifty times too much. With
``ablations`` parts of our rendered configuration are left out one at a time: the profile of what a request costs.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gateway_ablations import ABLATIONS, Files, each_filter
from benchmarks.gateway_envoys import SERVICE, Asked, bare_bootstrap, bare_command, full_state
from benchmarks.gateway_parts import ENGINE_PATH, HOST, QUESTION, Served, folder, free_ports, running, wait_ready
from benchmarks.gateway_peers import Peer, prepared
from gateway import command, files
from gateway.port import EnvoySettings
from gateway.render import LDS, Layout, render
from gateway.routes import PREFIX

CONNECTIONS = 16
WARM_UP, COUNTED = 1600, 1008  # requests; multiples of the connections
IDLE_S = 4.0
_PATIENCE_S = 60.0  # fifty times slower than in life
_LEASE_MS = 3_600_000  # longer than our rules allow: the files are written without them
COUNTABLE = ("vllm_router", "sglang_router")  # peers that callgrind can follow
_CALLGRIND = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"]


@dataclass(frozen=True)
class Count:
    """Instructions per request, and those per second that the process needs without any."""

    per_request: float
    idle_per_s: float


def missing() -> str | None:
    """What is not installed, or None."""
    return next((name for name in ("valgrind", "callgrind_control") if shutil.which(name) is None), None)


def bare_count(upstream: int) -> Count:
    """Of bare Envoy."""
    [port] = free_ports(1)
    with folder() as at:
        (at / "bare.json").write_text(json.dumps(bare_bootstrap(port, upstream)))
        return _count(Served("bare", port), bare_command(at / "bare.json", 1), at)


def full_count(
    ports: list[int], asked: Asked = Asked(), without: Callable[[Files], None] = lambda files: None
) -> Count:
    """Of our configuration, as rendered, ``without`` a part of it."""
    with folder() as at:
        settings = EnvoySettings(directory=str(at), port=free_ports(1)[0])
        command.write_bootstrap(settings)
        rendered = _rendered(ports, asked, settings)
        without(rendered)
        program = command.envoy_command(settings, 1)
        for name, doc in rendered.items():
            path = _listeners_of(program) if name == LDS else Layout.of(settings).xds / name
            files.put(path, files.as_json(doc))
        served = Served("full", settings.port, f"{PREFIX}/{SERVICE}{ENGINE_PATH}")
        return _count(served, program, at)


def peer_count(peer: Peer, upstream: int) -> Count:
    """Of a peer that is one native process. Raises RuntimeError where it does not come to answer."""
    with folder() as at:
        served, program = prepared(peer, upstream, at)
        return _count(served, program, at)


def profile(ports: list[int]) -> Iterator[tuple[str, Count | None]]:
    """(what was left out, count) for each part, the whole first; None where no request gets through without it."""
    yield "nothing", full_count(ports)
    whole = _rendered(ports, Asked(), EnvoySettings(directory="gateway"))
    for name, without in {**each_filter(whole), **ABLATIONS}.items():
        rest = copy.deepcopy(whole)
        without(rest)
        if rest != whole:
            yield name, _count_or_none(ports, without)


def _count_or_none(ports: list[int], without: Callable[[Files], None]) -> Count | None:
    try:
        return full_count(ports, without=without)
    except RuntimeError:
        return None


def _rendered(ports: list[int], asked: Asked, settings: EnvoySettings) -> Files:
    state = full_state(ports, replace(asked, patience_s=_PATIENCE_S), _LEASE_MS)
    return json.loads(json.dumps(render(state, settings, "benchmark")))  # parts of it share their values


def _listeners_of(program: list[str]) -> Path:
    """The file that an Envoy of this command line reads its listeners from: each process has its own."""
    start = json.loads(Path(program[program.index("-c") + 1]).read_text())
    return Path(start["dynamic_resources"]["lds_config"]["path_config_source"]["path"])


def _count(served: Served, program: list[str], at: Path) -> Count:
    out = at / "callgrind.out"
    with running([*_CALLGRIND, f"--callgrind-out-file={out}", *program], at / "out.log") as process:
        served.process = process
        wait_ready(served, at / "out.log")
        with _open_connections(served) as sockets:
            _control("-i", "on", process.pid)
            _requests(served, sockets, WARM_UP)
            _dump(process.pid, out)
            time.sleep(IDLE_S)
            idle_per_s = _dump(process.pid, out) / IDLE_S
            begun = time.monotonic()
            _requests(served, sockets, COUNTED)
            took = time.monotonic() - begun
            return Count((_dump(process.pid, out) - idle_per_s * took) / COUNTED, idle_per_s)


def _control(*words: str | int) -> None:
    subprocess.run(["callgrind_control", *map(str, words)], check=True, capture_output=True)


def _dump(pid: int, out: Path) -> int:
    """Instructions since the last dump."""
    before = set(out.parent.glob(f"{out.name}.*"))
    _control("-d", pid)
    new = set(out.parent.glob(f"{out.name}.*")) - before
    found = [re.search(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.M) for path in new]
    return sum(int(match.group(1)) for match in found if match)


@contextmanager
def _open_connections(served: Served) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((HOST, served.port))) for _ in range(CONNECTIONS)]


def _requests(served: Served, sockets: list[socket.socket], count: int) -> None:
    """All connections ask at once, then all answers are read. Raises RuntimeError for any but 200."""
    for first in range(0, count, len(sockets)):
        for n, s in enumerate(sockets, first):
            s.sendall(request_bytes(served.path, served.tokens[n % len(served.tokens)]))
        for s in sockets:
            _read_answer(s)


def request_bytes(path: str, token: str, body: str = QUESTION) -> bytes:
    """One POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"host: {HOST}", "content-type: application/json"]
    lines += [f"authorization: Bearer {token}", f"content-length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def _read_answer(s: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(s)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise RuntimeError(f"an answer that cannot be counted: {data[:300]!r}")
    while len(rest) < int(length.group(1)):
        rest += _some(s)


def _some(s: socket.socket) -> bytes:
    data = s.recv(65536)
    if not data:
        raise RuntimeError("the connection was closed")
    return data
