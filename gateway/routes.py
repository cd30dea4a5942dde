"""Routes of a state: who may call what, and which version answers. Pure.

Per service there are at most two routes on one path. The leased one stands first and matches only while the request's
start, stamped on arrival in ``x-now-ms``, lies in [from_ms, until_ms); the one to stable stands behind it. So a share
and a mirror end at their millisecond inside Envoy, with nothing else alive.
"""

from __future__ import annotations

from typing import Any

from gateway.clusters import T
from gateway.names import (
    ARM_HEADER,
    CLIENT_HEADER,
    LISTENER,
    METADATA,
    MIRROR_HEADER,
    MIRROR_LISTENER,
    NOW_HEADER,
    VERSION_HEADER,
    arm_cluster,
    mirror_cluster,
    version_cluster,
)
from gateway.port import GatewayState, ServiceRoute
from rollout.nouns import FULL, Lease

Doc = dict[str, Any]
PREFIX = "/api/predict"
HEALTH_PATH = "/gateway/health"
AUTH = "envoy.filters.http.api_key_auth"
BUFFER = "envoy.filters.http.buffer"
ANSWER_BUFFER = 16 << 20  #: bytes; a JSON answer is held whole to read its token counts, and above this it fails
MIRROR_LIMIT_S = 600  #: seconds; a copy's whole life


def gateway_routes(state: GatewayState) -> Doc:
    """The route configuration of the public listener."""
    routes = [_health_route()]
    for service in state.services:
        routes += service_routes(service)
    routes += [_not_found(PREFIX + "/", "no such service"), _not_found("/", "no such path")]
    return {
        "@type": T + "envoy.config.route.v3.RouteConfiguration",
        "name": LISTENER,
        "validate_clusters": True,
        "internal_only_headers": [CLIENT_HEADER, ARM_HEADER],
        "request_headers_to_remove": [NOW_HEADER],
        "response_headers_to_add": [_set_header(VERSION_HEADER, f"%METADATA(UPSTREAM_HOST:{METADATA}:version)%")],
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }


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


def service_routes(service: ServiceRoute) -> list[Doc]:
    """The routes of one service, the leased one first."""
    if service.stable is None:
        return [_closed_route(service)]
    leased = [_leased_route(service, service.stable, service.lease)] if service.lease else []
    return [*leased, _stable_route(service, service.stable)]


def _stable_route(service: ServiceRoute, stable: int) -> Doc:
    arm = _set_header(ARM_HEADER, str(stable))
    action = {"cluster": version_cluster(service.name, stable), **_forwarding(service), **_waiting(service)}
    return {**_frame(service, "stable"), "route": action, "request_headers_to_add": [arm]}


def _leased_route(service: ServiceRoute, stable: int, lease: Lease) -> Doc:
    frame = _frame(service, "leased", release=lease.release)
    window = {"start": lease.from_ms, "end": lease.until_ms}
    frame["match"] = {**frame["match"], "headers": [{"name": NOW_HEADER, "range_match": window}]}
    shares = [(stable, lease.candidate, FULL - lease.canary_permille)]
    shares.append((lease.candidate, stable, lease.canary_permille))
    arms = [
        {
            "name": arm_cluster(service.name, first, second),
            "weight": weight,
            "request_headers_to_add": [_set_header(ARM_HEADER, str(first))],
        }
        for first, second, weight in shares
    ]
    action = {"weighted_clusters": {"clusters": arms}, **_forwarding(service), **_waiting(service)}
    action["retry_policy"]["retry_priority"] = _other_version_next()
    if lease.mirror_permille:
        action["request_mirror_policies"] = [_mirror_policy(service.name, lease)]
    return {**frame, "route": action}


def _closed_route(service: ServiceRoute) -> Doc:
    text = f"service {service.name} has no version in service yet"
    return {**_frame(service, "closed"), "direct_response": {"status": 503, "body": {"inline_string": text}}}


def _frame(service: ServiceRoute, kind: str, **metadata: str) -> Doc:
    """What all routes of a service share: path, name, metadata, tokens, the limit on bodies."""
    return {
        "name": f"{service.name}-{kind}",
        "match": {"path_separated_prefix": f"{PREFIX}/{service.name}"},
        "metadata": {"filter_metadata": {METADATA: {"service": service.name, **metadata}}},
        # It sets the buffer of both directions; the filter's own limit below still refuses larger requests.
        "request_body_buffer_limit": max(ANSWER_BUFFER, service.body_limit_bytes),
        "typed_per_filter_config": {
            AUTH: _tokens(service),
            BUFFER: {
                "@type": T + "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
                "buffer": {"max_request_bytes": service.body_limit_bytes},
            },
        },
    }


def _tokens(service: ServiceRoute) -> Doc:
    # Whole, with `forwarding`: a route's block inherits nothing of another's, and without it the token goes upstream.
    return {
        "@type": T + "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        "credentials": [{"key": token.secret, "client": token.client} for token in service.tokens],
        "key_sources": [{"header": "Authorization"}],
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }


def _forwarding(service: ServiceRoute) -> Doc:
    pattern = f"^{PREFIX}/{service.name}/*(.*)$"
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": r"/\1"}}


def _waiting(service: ServiceRoute) -> Doc:
    """Bounds on silence, none on length: streams may last. Retries only of what reached no engine."""
    return {
        "timeout": "0s",
        "idle_timeout": seconds(service.response_timeout_s + 1),  # the net behind the limit per try
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 6,
            # To the first byte and between bytes, wherever the headers come. A `per_try_timeout` of the same length
            # beside it kept it, in some runs, from firing inside answers.
            "per_try_idle_timeout": seconds(service.response_timeout_s),
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
            "retry_host_predicate": [_other_host()],
            "host_selection_retry_max_attempts": "3",
        },
    }


def _other_host() -> Doc:
    kind = T + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": kind}}


def _other_version_next() -> Doc:
    kind = T + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {"@type": kind, "update_frequency": 1},
    }


def _mirror_policy(service: str, lease: Lease) -> Doc:
    target = _set_header(MIRROR_HEADER, version_cluster(service, lease.candidate))
    return {
        "cluster": mirror_cluster(service),
        "runtime_fraction": {"default_value": {"numerator": lease.mirror_permille * 10, "denominator": "TEN_THOUSAND"}},
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [
            {"append": target},
            {"remove": CLIENT_HEADER},
            {"remove": "authorization"},
        ],
    }


def _mirror_route(service: ServiceRoute, version: int) -> Doc:
    cluster = version_cluster(service.name, version)
    return {
        "name": cluster,
        "match": {"prefix": "/", "headers": [{"name": MIRROR_HEADER, "string_match": {"exact": cluster}}]},
        "metadata": {"filter_metadata": {METADATA: {"service": service.name}}},
        "request_headers_to_add": [_set_header(ARM_HEADER, str(version))],
        "request_headers_to_remove": [MIRROR_HEADER],
        "request_body_buffer_limit": max(ANSWER_BUFFER, service.body_limit_bytes),
        "route": {"cluster": cluster, **_waiting(service), "timeout": f"{MIRROR_LIMIT_S}s"},
    }


def _health_route() -> Doc:
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    return {"name": "health", "match": {"path": HEALTH_PATH}, "direct_response": answer, **_open()}


def _not_found(prefix: str, text: str) -> Doc:
    answer = {"status": 404, "body": {"inline_string": text}}
    return {"name": "none", "match": {"prefix": prefix}, "direct_response": answer, **_open()}


def _open() -> Doc:
    return {
        "typed_per_filter_config": {AUTH: {"@type": T + "envoy.config.route.v3.FilterConfig", "disabled": True}},
    }


def _set_header(name: str, value: str) -> Doc:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def seconds(value: float) -> str:
    """A protobuf duration, to the millisecond.

    >>> seconds(5), seconds(0.25)
    ('5.000s', '0.250s')
    """
    return f"{value:.3f}s"
