"""The two Envoys under test: a bare passthrough, and ours with all its features on, set through our own API."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gateway_parts import ENGINE_PATH, HOST, TOKENS, Served, folder, free_ports, running, wait_ready
from gateway import command
from gateway.envoy import EnvoyGateway
from gateway.port import Backend, Endpoint, EnvoySettings, GatewayState, Limits, ServiceRoute, Token, Traffic
from gateway.routes import PREFIX
from rollout.nouns import Lease

SERVICE = "chat"
CONCURRENCY = 2
_WINDOW_MS = 55_000
_PLENTY = 1e6  # requests per second: the limits are asked at each request and never refuse
_T = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True)
class Asked:
    """What of our configuration a run varies."""

    canary_permille: int | None = 100  # None: no lease
    mirror_permille: int = 0
    versions: int = 2
    patience_s: float = 5.0  # our response timeout


def full_state(ports: list[int], asked: Asked = Asked(), window_ms: int = _WINDOW_MS) -> GatewayState:
    """One service with 1,000 tokens, limits, records, and a lease between versions 1 and 2 that begins now."""
    backends = [Backend(n, (Endpoint(f"{SERVICE}-v{n}-0", HOST, ports[n - 1]),)) for n in range(1, asked.versions + 1)]
    service = ServiceRoute(
        name=SERVICE,
        tokens=tuple(Token(f"client-{n}", secret) for n, secret in enumerate(TOKENS)),
        backends=tuple(backends),
        stable=1,
        response_timeout_s=asked.patience_s,
        traffic=Traffic(limits=Limits(requests_per_s=_PLENTY, token_requests_per_s=_PLENTY), usage="engine"),
    )
    if asked.canary_permille is None:
        return GatewayState((service,))
    now_ms = int(time.time() * 1000)
    begin, end = now_ms - 2_000, now_ms - 2_000 + window_ms
    lease = Lease(2, asked.canary_permille, asked.mirror_permille, begin, end, "benchmark")
    return GatewayState((replace(service, lease=lease),))


@contextlib.contextmanager
def bare(upstream: int) -> Iterator[Served]:
    """Envoy as a mere passthrough: one listener, one cluster, no log."""
    [port] = free_ports(1)
    with folder() as at:
        (at / "bare.json").write_text(json.dumps(bare_bootstrap(port, upstream)))
        log = at / "out.log"
        with running(bare_command(at / "bare.json", CONCURRENCY), log) as process:
            yield wait_ready(Served("bare", port, process=process), log)


def bare_command(config: Path, concurrency: int) -> list[str]:
    """Envoy's command line for it."""
    quiet = ["--disable-hot-restart", "-l", "error"]
    return [str(command.envoy_binary()), "-c", str(config), *quiet, "--concurrency", str(concurrency)]


def bare_bootstrap(port: int, upstream: int) -> dict[str, Any]:
    """The smallest configuration that proxies HTTP."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = {
        "@type": f"{_T}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_T}.http.router.v3.Router"}}],
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {
        "name": "upstream",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@dataclass
class Full:
    """Our gateway, running: its API, and its two cases."""

    gateway: EnvoyGateway
    settings: EnvoySettings
    ports: list[int]
    served: Served

    def ask(self, asked: Asked) -> tuple[float, float]:
        """Put it in force, a lease beginning anew; when the call of our API began and returned (monotonic seconds)."""
        state = full_state(self.ports, asked)
        begun = time.monotonic()
        self.gateway.apply(state)
        return begun, time.monotonic()

    def case(self, name: str, asked: Asked) -> Served:
        """The same process under other weights, put in force before each run."""
        return replace(self.served, name=name, prepare=lambda: self.ask(asked))


@contextlib.contextmanager
def full(ports: list[int]) -> Iterator[Full]:
    """Envoy with our whole configuration, through our own API."""
    with folder() as at:
        settings = EnvoySettings(directory=str(at), port=free_ports(1)[0])
        command.write_bootstrap(settings)
        log = at / "out.log"
        with running(command.envoy_command(settings, CONCURRENCY), log) as process:
            command.wait_live(settings, 20)
            served = Served("full", settings.port, f"{PREFIX}/{SERVICE}{ENGINE_PATH}", process=process)
            it = Full(EnvoyGateway(settings), settings, ports, served)
            it.ask(Asked())
            wait_ready(served, log)
            yield it


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}
