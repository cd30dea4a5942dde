"""States that several tests of the gateway start from."""

from __future__ import annotations

from dataclasses import replace

from gateway.port import (
    Backend,
    CallRecords,
    Endpoint,
    EnvoySettings,
    GatewayState,
    GroupRoute,
    Limits,
    Member,
    ServiceRoute,
    Sticky,
    Token,
    Traffic,
)
from rollout.nouns import Lease, Mirror

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
    fields = {"tokens": (ALICE,), "stable": 1, "backends": (backend(1, 2), backend(2)), **more}
    return ServiceRoute("chat", lease=lease, **fields)  # type: ignore[arg-type]


def two_services() -> GatewayState:
    """One service in the middle of a canary, one not yet in service."""
    return GatewayState((chat(LEASE), ServiceRoute("embed", (BOB,), response_timeout_s=30.0, body_limit_bytes=4096)))


def everything() -> GatewayState:
    """All that a state can hold: a service that uses each feature, a second one, and a group of both."""
    traffic = Traffic(
        balance="prompt",
        limits=Limits(requests_per_s=100, token_requests_per_s=5, in_flight=64, mirror_in_flight=4),
        sticky=Sticky("header", "x-session-id"),
        websocket=True,
        grpc=True,
        call_records=CallRecords(),
    )
    lease = replace(LEASE, mirrors=(Mirror("embed", None, 10),))
    embed = ServiceRoute("embed", (BOB,), (backend(1, service="embed"),), 1)
    group = GroupRoute("prod", (Token("ops", "token-of-ops", may_pin=True),), (Member("chat", 3), Member("embed", 1)))
    return GatewayState((chat(lease, traffic=traffic), embed), (group,))
