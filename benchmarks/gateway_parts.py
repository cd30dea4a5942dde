"""What the gateway's benchmark is made of: a served address, processes with their CPU time, and the fast upstream."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HOST = "127.0.0.1"
MODEL = "m"
ENGINE_PATH = "/v1/chat/completions"
VERSIONS = 3  #: ports of each upstream: every version of our service needs one of its own
TOKENS = tuple(f"rh-benchmark-{n:04d}-0123456789abcdef" for n in range(1000))
_READY_S = 120.0

#: What clients send: 290 bytes of a chat.
QUESTION = json.dumps(
    {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "x" * 290}]}, separators=(",", ":")
)
QUESTION = QUESTION.replace("x" * 290, "x" * (580 - len(QUESTION)))

_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7},
}
#: What the upstream answers: an OpenAI completion, as near to 200 bytes as its fields allow.
ANSWER = json.dumps(_ANSWER, separators=(",", ":"))


@dataclass
class Served:
    """One case under test: where it answers, whose CPU time is its own, and what must be done before each run."""

    name: str
    port: int
    path: str = ENGINE_PATH
    tokens: tuple[str, ...] = TOKENS
    process: subprocess.Popen[bytes] | None = None
    prepare: Callable[[], object] = field(default=lambda: None)

    def cpu_s(self) -> float:
        """CPU seconds so far of its process and all below it; 0.0 where it is the upstream itself."""
        return 0.0 if self.process is None else sum(_cpu_s(p) for p in _family(self.process.pid))

    def ask(self, body: str = QUESTION) -> tuple[int, bytes]:
        """One request as the load sends it: (status, body)."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.tokens[0]}"}
        with contextlib.closing(connection):
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def free_ports(count: int) -> list[int]:
    """That many ports of this host that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((HOST, 0))
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for one part; its path is short, for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="rh-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(command: list[str], log: Path, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a child, ended with its children when left."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        _end(process)


def wait_ready(served: Served, log: Path) -> Served:
    """Return once it answers 200. Raises RuntimeError with the end of its log if it refuses, exits or stays silent."""
    deadline = time.monotonic() + _READY_S
    said = "silence"
    while time.monotonic() < deadline and (served.process is None or served.process.poll() is None):
        try:
            status, body = served.ask()
            if status == 200:
                return served
            said = f"{status} {body[:200]!r}"
            if status in (401, 403):
                break  # it is ready to refuse
        except OSError as error:
            said = str(error)
        time.sleep(0.1)
    raise RuntimeError(f"{served.name} did not answer ({said}): {log.read_text(errors='replace')[-600:]}")


@contextlib.contextmanager
def plain_upstream() -> Iterator[list[int]]:
    """nginx, one worker, answering every POST with ``ANSWER`` and its token counts in a header; its ports."""
    ports = free_ports(VERSIONS)
    with folder() as at:
        (at / "nginx.conf").write_text(_nginx_upstream(at, ports))
        command = ["nginx", "-p", str(at), "-c", str(at / "nginx.conf"), "-e", str(at / "error.log")]
        with running(command, at / "out.log"):
            for port in ports:
                wait_ready(Served("upstream", port), at / "error.log")
            yield ports


def _nginx_upstream(at: Path, ports: list[int]) -> str:
    listens = "".join(f"listen {HOST}:{port} backlog=4096; " for port in ports)
    models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
    info = json.dumps({"model_path": MODEL, "served_model_name": MODEL, "is_generation": True, "tokenizer_path": ""})
    return nginx_frame(
        at,
        workers=1,
        inside=f"""
        server {{
            {listens}
            default_type application/json;
            location = /health {{ return 200 '{{}}'; }}
            location = /v1/models {{ return 200 '{models}'; }}
            location ~ ^/(get_model_info|model_info|get_server_info|server_info)$ {{ return 200 '{info}'; }}
            location / {{ add_header x-usage "11,7"; return 200 '{ANSWER}'; }}
        }}""",
    )


def nginx_frame(at: Path, workers: int, inside: str) -> str:
    """An nginx configuration around the ``http`` block's inside: in the foreground, without logs."""
    return f"""daemon off; worker_processes {workers}; pid {at}/pid; error_log {at}/error.log;
    events {{ worker_connections 4096; }}
    http {{
        access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
        client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;
        uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
        {inside}
    }}
    """


@contextlib.contextmanager
def stream_upstream() -> Iterator[list[int]]:
    """Our own server of event streams, in a process of its own; its ports."""
    ports = free_ports(VERSIONS)
    with folder() as at:
        script = Path(__file__).with_name("gateway_streams.py")
        command = [sys.executable, str(script), "serve", *(str(port) for port in ports)]
        with running(command, at / "out.log"):
            for port in ports:
                wait_ready(Served("stream upstream", port), at / "out.log")
            yield ports


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _end(process: subprocess.Popen[bytes]) -> None:
    family = _family(process.pid)
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=5)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait(10)
