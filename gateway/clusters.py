"""Clusters and endpoints of a state, as xDS resources. Pure.

Each version of a service is one EDS cluster. Each version that could become a candidate also gets two aggregate
clusters, (candidate, stable) and (stable, candidate): the arms of a leased route, so that an arm whose instances are
all dead is answered by the other version. They exist before any lease does; beginning a lease then changes routes only.
"""

from __future__ import annotations

from typing import Any

from gateway.names import METADATA, MIRROR_LISTENER, arm_cluster, mirror_cluster, version_cluster
from gateway.port import Backend, Endpoint, GatewayState, ServiceRoute

Doc = dict[str, Any]
T = "type.googleapis.com/"
MIRROR_IN_FLIGHT = 16  #: copies open at once per service; more are dropped, the live request never waits
MAX_REQUESTS = 4096
#: Only attempts that never reached an engine are retried, so the budget may cover all requests that wait for an
#: instance to come back, and 20 % of the open ones beyond.
RETRY_BUDGET = {"budget_percent": {"value": 20}, "min_retry_concurrency": 256}


def cluster_docs(state: GatewayState, xds_folder: str) -> list[Doc]:
    """All clusters of ``state``; EDS clusters read ``xds_folder``/eds-<name>.json."""
    docs: list[Doc] = []
    for service in state.services:
        docs += [version_doc(service.name, backend, xds_folder) for backend in service.backends]
        docs += arm_docs(service)
        docs.append(mirror_doc(service.name))
    return docs


def version_doc(service: str, backend: Backend, xds_folder: str) -> Doc:
    """One version's cluster: least request, health checked twice a second, ejecting what fails."""
    name = version_cluster(service, backend.version)
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": path_source(f"{xds_folder}/{eds_file(name)}")},
        "per_connection_buffer_limit_bytes": 65536,
        "load_balancing_policy": _least_request(),
        # Without it a removed instance keeps getting requests for as long as it answers its health check.
        "ignore_health_on_host_removal": True,
        # Envoy keeps a passed or failed health check from its workers for up to 1 s, to merge it with others.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _breakers(MAX_REQUESTS),
    }


def arm_docs(service: ServiceRoute) -> list[Doc]:
    """Both arms of each split that a lease could ask for."""
    if service.stable is None:
        return []
    others = [b.version for b in service.backends if b.version != service.stable]
    pairs = [pair for v in others for pair in ((v, service.stable), (service.stable, v))]
    return [_arm_doc(service.name, first, second) for first, second in pairs]


def _arm_doc(service: str, first: int, second: int) -> Doc:
    members = [version_cluster(service, first), version_cluster(service, second)]
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": arm_cluster(service, first, second),
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
        "circuit_breakers": _breakers(MAX_REQUESTS),
    }


def mirror_doc(service: str) -> Doc:
    """The internal way to the mirror listener, with room for few: a copy must never cost the live request."""
    name = mirror_cluster(service)
    address = {"envoy_internal_address": {"server_listener_name": MIRROR_LISTENER}}
    return {
        "@type": T + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {
            "thresholds": [{"max_requests": MIRROR_IN_FLIGHT, "max_pending_requests": MIRROR_IN_FLIGHT}]
        },
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
        "endpoint": {"address": address, "hostname": endpoint.instance},  # the admin interface shows the host name
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


def _least_request() -> Doc:
    policy = {"@type": T + "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"}
    extension = {"name": "envoy.load_balancing_policies.least_request", "typed_config": policy}
    return {"policies": [{"typed_extension_config": extension}]}


def _health_check() -> Doc:
    return {
        "timeout": "1s",
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/health"},
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
        "max_connections": most,
        "max_requests": most,
        "max_pending_requests": most,
        "retry_budget": RETRY_BUDGET,
    }
    return {"thresholds": [threshold]}
