"""The two route configurations: the public one, and that of the internal listener which answers copies. Pure."""

from __future__ import annotations

from typing import Any

from gateway.clusters import T
from gateway.filters import AUTH, OFF, answer_switches, set_header
from gateway.group_routes import group_routes
from gateway.names import (
    CLIENT_HEADER,
    LISTENER,
    METADATA,
    MIRROR_HEADER,
    MIRROR_LISTENER,
    NOW_HEADER,
    PREFIX_HEADER,
    VERSION_HEADER,
    version_cluster,
)
from gateway.port import GatewayState, ServiceRoute
from gateway.routes import PREFIX, answer_room, hashing, service_routes, waiting

Doc = dict[str, Any]
HEALTH_PATH = "/gateway/health"
MIRROR_LIMIT_S = 600  #: seconds; a copy's whole life


def gateway_routes(state: GatewayState) -> Doc:
    """The route configuration of the public listener."""
    routes = [_health_route()]
    for service in state.services:
        routes += service_routes(service, state)
    for group in state.groups:
        routes += group_routes(group, state)
    routes += [_not_found(PREFIX + "/", "no such service"), _not_found("/", "no such path")]
    return {
        "@type": T + "envoy.config.route.v3.RouteConfiguration",
        "name": LISTENER,
        "validate_clusters": True,
        "internal_only_headers": _inside(state),
        "request_headers_to_remove": [NOW_HEADER],
        "response_headers_to_add": [set_header(VERSION_HEADER, f"%METADATA(UPSTREAM_HOST:{METADATA}:version)%")],
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }


def _inside(state: GatewayState) -> list[str]:
    """Headers that clients cannot send: they are gone before a route, and with it a version, is chosen."""
    prompts = any(service.traffic.balance == "prompt" for service in state.services)
    return [CLIENT_HEADER, PREFIX_HEADER] if prompts else [CLIENT_HEADER]


def mirror_routes(state: GatewayState) -> Doc:
    """The route configuration of the mirror listener: a copy names the version that it is meant for."""
    routes = [_mirror_route(s, b.version) for s in state.services for b in s.backends]
    routes.append({"name": "none", "match": {"prefix": "/"}, "direct_response": {"status": 404}})
    return {
        "@type": T + "envoy.config.route.v3.RouteConfiguration",
        "name": MIRROR_LISTENER,
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }


def _mirror_route(service: ServiceRoute, version: int) -> Doc:
    cluster = version_cluster(service.name, version)
    return {
        "name": cluster,
        "match": {"prefix": "/", "headers": [{"name": MIRROR_HEADER, "string_match": {"exact": cluster}}]},
        "metadata": {"filter_metadata": {METADATA: {"service": service.name}}},
        "request_headers_to_remove": [MIRROR_HEADER],
        "typed_per_filter_config": answer_switches(service),
        "route": {"cluster": cluster, **waiting(service), **hashing(service), "timeout": f"{MIRROR_LIMIT_S}s"},
        **answer_room(service),
    }


def _health_route() -> Doc:
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    return {"name": "health", "match": {"path": HEALTH_PATH}, "direct_response": answer, **_open()}


def _not_found(prefix: str, text: str) -> Doc:
    answer = {"status": 404, "body": {"inline_string": text}}
    return {"name": "none", "match": {"prefix": prefix}, "direct_response": answer, **_open()}


def _open() -> Doc:
    return {"typed_per_filter_config": {AUTH: OFF}}
