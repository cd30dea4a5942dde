"""States that several tests of the gateway start from."""

from __future__ import annotations

from gateway.port import Backend, Endpoint, EnvoySettings, GatewayState, ServiceRoute, Token
from rollout.nouns import Lease

SETTINGS = EnvoySettings(directory="/gw", port=8800)
ALICE, BOB = Token("alice", "token-of-alice"), Token("bob", "token-of-bob")
LEASE = Lease(2, 50, 100, 1_795_348_406_272, 1_795_348_417_272, "release-7")


def backend(version: int, count: int = 1, service: str = "chat") -> Backend:
    """A version with ``count`` instances; its second one drains."""
    base = 18000 + 1000 * (service != "chat") + version * 10
    endpoints = [Endpoint(f"{service}-v{version}-{i}", "127.0.0.1", base + i, draining=i == 1) for i in range(count)]
    return Backend(version, tuple(endpoints))


def chat(lease: Lease | None = None, **more: object) -> ServiceRoute:
    """A service with stable version 1 and a candidate."""
    fields = {"stable": 1, "backends": (backend(1, 2), backend(2)), **more}
    return ServiceRoute("chat", (ALICE,), lease=lease, **fields)  # type: ignore[arg-type]


def two_services() -> GatewayState:
    """One service in the middle of a canary, one not yet in service."""
    return GatewayState((chat(LEASE), ServiceRoute("embed", (BOB,), response_timeout_s=30.0, body_limit_bytes=4096)))
