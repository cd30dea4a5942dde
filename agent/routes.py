"""Desired and observed state to the gateway's whole state. Pure."""

from __future__ import annotations

from collections.abc import Callable

from gateway.port import Backend, Endpoint, GatewayState, ServiceRoute, Token
from rollout.errors import Refused
from rollout.nouns import Health, Lease
from store.port import InstanceState, ServiceState, VersionState


def gateway_state(
    services: list[ServiceState],
    versions: list[VersionState],
    instances: list[InstanceState],
    leases: dict[str, Lease],
    tokens: Callable[[str], tuple[Token, ...]],
    now_ms: int,
) -> GatewayState:
    """What the gateway should have in force. Leases that have ended are left out; Envoy ended them by itself."""
    return GatewayState(
        tuple(_route(s, versions, instances, leases.get(s.name), tokens(s.name), now_ms) for s in services)
    )


def acceptable(
    wanted: GatewayState, applied: GatewayState | None, check: Callable[[GatewayState], None]
) -> tuple[GatewayState, dict[str, str]]:
    """``wanted`` with each service that ``check`` refuses left as it was applied (or out), and why, by service."""
    before = {s.name: s for s in applied.services} if applied else {}
    kept, refused = [], {}
    for service in wanted.services:
        try:
            check(GatewayState((service,)))
            kept.append(service)
        except Refused as error:
            refused[service.name] = str(error)
            kept += [before[service.name]] if service.name in before else []
    return GatewayState(tuple(kept)), refused


def _route(
    service: ServiceState,
    versions: list[VersionState],
    instances: list[InstanceState],
    lease: Lease | None,
    tokens: tuple[Token, ...],
    now_ms: int,
) -> ServiceRoute:
    known = [v.number for v in versions if v.service == service.name]
    live = lease if lease and lease.until_ms > now_ms and lease.candidate in known else None
    named = {service.stable, live.candidate if live else None}
    backends = tuple(
        Backend(number, endpoints)
        for number in known
        if (endpoints := _endpoints(service.name, number, instances)) or number in named
    )
    return ServiceRoute(
        name=service.name,
        tokens=tokens,
        backends=backends,
        stable=service.stable,
        lease=live,
        response_timeout_s=service.response_timeout_s,
        body_limit_bytes=service.body_limit_bytes,
    )


def _endpoints(service: str, version: int, instances: list[InstanceState]) -> tuple[Endpoint, ...]:
    """Those that were warmed up; a draining one keeps its open requests."""
    mine = [i for i in instances if (i.service, i.version) == (service, version)]
    return tuple(
        Endpoint(i.id, i.host, i.port, draining=i.health is Health.DRAINING)
        for i in mine
        if i.health is Health.READY or (i.health is Health.DRAINING and i.warm_up)
    )
