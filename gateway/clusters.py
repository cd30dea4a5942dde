"""Clusters and endpoints of a state, as xDS resources. Pure.

Each version of a service is one EDS cluster. Each version that could become a candidate also gets two aggregate
clusters, (candidate, stable) and (stable, candidate): the arms of a leased route, so that an arm whose instances are
all dead is answered by the other version. They exist before any lease does; beginning a lease then changes routes only.
"""

from __future__ import annotations

from typing import Any

from gateway.names import METADATA, MIRROR_LISTENER, arm_cluster, host_name, mirror_cluster, version_cluster
from gateway.port import Backend, Endpoint, EnvoySettings, GatewayState, ServiceRoute, Tracing, Traffic

Doc = dict[str, Any]
T = "type.googleapis.com/"
TRACES = "traces"  #: the cluster of the OpenTelemetry collector
MOST_CONNECTIONS = 100_000  #: engines bound themselves by requests; connections are not what runs out
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#: Only attempts that never reached an engine are retried, so the budget may cover all requests that wait for an
#: instance to come back, and 20 % of the open ones beyond.
RETRY_BUDGET = {"budget_percent": {"value": 20}, "min_retry_concurrency": 256}


def cluster_docs(state: GatewayState, settings: EnvoySettings, xds_folder: str) -> list[Doc]:
    """All clusters of ``state``; EDS clusters read ``xds_folder``/eds-<name>.json."""
    docs: list[Doc] = [collector_doc(settings.tracing)] if settings.tracing else []
    for service in state.services:
        docs += [version_doc(service, backend, xds_folder) for backend in service.backends]
        docs += arm_docs(service)
        docs.append(mirror_doc(service.name, service.traffic.limits.mirror_in_flight))
    return docs


def version_doc(service: ServiceRoute, backend: Backend, xds_folder: str) -> Doc:
    """One version's cluster: balanced as its service asks, health checked twice a second, ejecting what fails."""
    name = version_cluster(service.name, backend.version)
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": path_source(f"{xds_folder}/{eds_file(name)}")},
        "per_connection_buffer_limit_bytes": 65536,
        "load_balancing_policy": balancing(service.traffic),
        # Without it a removed instance keeps getting requests for as long as it answers its health check.
        "ignore_health_on_host_removal": True,
        # Envoy keeps a passed or failed health check from its workers for up to 1 s, to merge it with others.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [_health_check(service.traffic.grpc)],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _breakers(service.traffic.limits.in_flight),
        "typed_extension_protocol_options": {_HTTP: _protocol(service.traffic.grpc)},
    }


def arm_docs(service: ServiceRoute) -> list[Doc]:
    """Both arms of each split that a lease could ask for."""
    if service.stable is None:
        return []
    others = [b.version for b in service.backends if b.version != service.stable]
    pairs = [pair for v in others for pair in ((v, service.stable), (service.stable, v))]
    return [_arm_doc(service, first, second) for first, second in pairs]


def _arm_doc(service: ServiceRoute, first: int, second: int) -> Doc:
    members = [version_cluster(service.name, first), version_cluster(service.name, second)]
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": arm_cluster(service.name, first, second),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": T + "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": members,
            },
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _breakers(service.traffic.limits.in_flight),
    }


def mirror_doc(service: str, in_flight: int) -> Doc:
    """The internal way to the mirror listener, with room for few: a copy must never cost the live request."""
    name = mirror_cluster(service)
    address = {"envoy_internal_address": {"server_listener_name": MIRROR_LISTENER}}
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_requests": in_flight, "max_pending_requests": in_flight}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": T + "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": {"@type": T + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
                },
            },
        },
    }


def collector_doc(tracing: Tracing) -> Doc:
    """Where spans go: an OpenTelemetry collector, by OTLP over HTTP."""
    address = {"socket_address": {"address": tracing.host, "port_value": tracing.port}}
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": TRACES,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": TRACES,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def assignment_docs(state: GatewayState) -> dict[str, Doc]:
    """The endpoints of each EDS cluster, by the cluster's name."""
    return {
        version_cluster(service.name, backend.version): assignment_doc(service.name, backend)
        for service in state.services
        for backend in service.backends
    }


def assignment_doc(service: str, backend: Backend) -> Doc:
    """One version's endpoints. Their metadata tells answers and records who served, after any failover too."""
    return {
        "@type": T + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": version_cluster(service, backend.version),
        "endpoints": [{"lb_endpoints": [_endpoint_doc(backend.version, e) for e in backend.endpoints]}],
    }


def _endpoint_doc(version: int, endpoint: Endpoint) -> Doc:
    address = {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}
    return {
        "endpoint": {"address": address, "hostname": host_name(version, endpoint.instance)},  # records show it
        "health_status": "DRAINING" if endpoint.draining else "HEALTHY",
        "metadata": {"filter_metadata": {METADATA: {"version": str(version), "instance": endpoint.instance}}},
    }


def bridge(old: Doc, new: Doc) -> Doc | None:
    """Where ``new`` adds endpoints and takes others out of service: all of them together.

    An added endpoint gets no request before its first health check, so the others must not go before that.
    """
    held, wanted = _by_address(old), _by_address(new)
    added = sorted(wanted.keys() - held.keys())
    leaving = [a for a, e in held.items() if a not in wanted or wanted[a]["health_status"] != e["health_status"]]
    if not added or not leaving:
        return None
    endpoints = [*held.values(), *(wanted[address] for address in added)]
    return {**new, "endpoints": [{"lb_endpoints": endpoints}]}


def additions(old: Doc, new: Doc) -> int:
    """How many endpoints in service ``new`` has that ``old`` has not."""
    held = _by_address(old)
    return sum(a not in held and e["health_status"] == "HEALTHY" for a, e in _by_address(new).items())


def _by_address(assignment: Doc) -> dict[str, Doc]:
    endpoints = [e for group in assignment.get("endpoints", []) for e in group["lb_endpoints"]]
    return {str(e["endpoint"]["address"]): e for e in endpoints}


def eds_file(cluster: str) -> str:
    """The file of a cluster's endpoints: Envoy takes one cluster per file."""
    return f"eds-{cluster}.json"


def path_source(path: str) -> Doc:
    """A config source that watches one file."""
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def balancing(traffic: Traffic) -> Doc:
    """The choice among the instances of a version."""
    lb = T + "envoy.extensions.load_balancing_policies."
    slow: Doc = (
        {"slow_start_config": {"slow_start_window": f"{traffic.slow_start_s:.3f}s"}} if traffic.slow_start_s else {}
    )
    # Keeps a popular prompt or session from drowning one instance: 1.25 of the mean at most, then the next one.
    hashed = {"consistent_hashing_lb_config": {"hash_balance_factor": 125}}
    name, policy = {
        "least_request": ("least_request", {"@type": lb + "least_request.v3.LeastRequest", **slow}),
        "round_robin": ("round_robin", {"@type": lb + "round_robin.v3.RoundRobin", **slow}),
        "random": ("random", {"@type": lb + "random.v3.Random"}),
        "session": ("maglev", {"@type": lb + "maglev.v3.Maglev", **hashed}),
        "prompt": ("maglev", {"@type": lb + "maglev.v3.Maglev", **hashed}),
    }[traffic.balance]
    extension = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": policy}
    return {"policies": [{"typed_extension_config": extension}]}


def _protocol(grpc: bool) -> Doc:
    """HTTP/2 towards gRPC servers; else HTTP/1.1, whose trailers may bring an engine's token counts."""
    config = {"http2_protocol_options": {}} if grpc else {"http_protocol_options": {"enable_trailers": True}}
    return {"@type": T + _HTTP, "explicit_http_config": config}


def _health_check(grpc: bool) -> Doc:
    return {
        "timeout": "1s",
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        **({"grpc_health_check": {}} if grpc else {"http_health_check": {"path": "/health"}}),
    }


def _outlier_detection() -> Doc:
    return {
        "consecutive_5xx": 5,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_percent": 50,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
    }


def _breakers(most: int) -> Doc:
    threshold = {
        "max_connections": MOST_CONNECTIONS,
        "max_requests": most,
        "max_pending_requests": most,
        "retry_budget": RETRY_BUDGET,
    }
    return {"thresholds": [threshold]}
