"""The two listeners: the public one, and the internal one that answers copies. Pure; they never change while it runs.

Tokens, limits and shares all live in files that filters and routes follow, where a change acts on open connections too;
a changed listener would leave keep-alive connections on the old one.
"""

from __future__ import annotations

from typing import Any

from gateway.clusters import TRACES, T, path_source
from gateway.filters import answer_chain, chain, upgraded_chain
from gateway.names import LIMIT_HEADER, LISTENER, MIRROR_LISTENER, NOW_HEADER
from gateway.port import EnvoySettings, Tracing
from gateway.record_line import error_format, text_format
from gateway.tls import transport_socket

Doc = dict[str, Any]
PRESSED = 450  #: the status of a full queue in the managed service that we match

#: One error body for all of the proxy's own answers. ``type`` follows the names that OpenAI clients know.
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}
#: Which limit it was, where the status alone says it.
LIMITS = {408: "request_timeout", 413: "body_limit_bytes", 431: "request_headers", 504: "response_timeout_s"}
ADDED = {401: ("www-authenticate", "Bearer"), 503: ("retry-after", "1")}


def public_listener(settings: EnvoySettings, logs: Doc, routes: Doc, xds: str | None, still: dict[str, Doc]) -> Doc:
    """The listener that clients reach.

    ``routes`` is ``{"rds": ...}`` or, to validate, ``{"route_config": ...}``; ``xds`` and ``still`` as in ``chain``.
    """
    socket = {"upgrade_type": "websocket", "enabled": False, "filters": upgraded_chain(xds, still)}
    hcm = {
        **_manager("gw", logs, routes),
        **_edge(),
        **(_spans(settings.tracing) if settings.tracing else {}),
        "early_header_mutation_extensions": [_stamp()],
        "always_set_request_id_in_response": True,
        "local_reply_config": _errors(),
        "http_filters": chain(xds, still),
        "upgrade_configs": [socket],
    }
    secure = transport_socket(settings)
    return {
        "@type": T + "envoy.config.listener.v3.Listener",
        "name": LISTENER,
        "traffic_direction": "INBOUND",  # an upgrade closes this port alone: copies still enter by the other listener
        "address": {"socket_address": {"address": settings.host, "port_value": settings.port}},
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": [{"filters": [_network_filter(hcm)], **({"transport_socket": secure} if secure else {})}],
    }


def mirror_listener(settings: EnvoySettings, logs: Doc, routes: Doc) -> Doc:
    """The listener that copies of requests enter from inside. It keeps their request ids, so records can be paired."""
    hcm = {
        **_manager("mirror", logs, routes),
        "generate_request_id": False,
        "http_filters": answer_chain(),
    }
    return {
        "@type": T + "envoy.config.listener.v3.Listener",
        "name": MIRROR_LISTENER,
        "internal_listener": {},
        "filter_chains": [{"filters": [_network_filter(hcm)]}],
    }


def rds(name: str, path: str) -> Doc:
    """Routes that are read from a file and follow it."""
    return {"rds": {"route_config_name": name, "config_source": path_source(path)}}


def logs(kind: str, records: str, errors: str) -> Doc:
    """The log of all requests, one lean line each, and a fuller one of those that went wrong."""
    lean = {"text_format_source": {"inline_string": text_format(kind)}}
    failed = {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "roundhouse.log_errors"}}}
    wrong = {"or_filter": {"filters": [{"status_code_filter": failed}, {"response_flag_filter": {}}]}}
    return {
        "access_log": [
            _file_log(records, lean),
            {**_file_log(errors, {"json_format": error_format(kind)}), "filter": wrong},
        ]
    }


def _file_log(path: str, log_format: Doc) -> Doc:
    kind = T + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {"@type": kind, "path": path, "log_format": log_format},
    }


def _manager(stat_prefix: str, logs: Doc, routes: Doc) -> Doc:
    return {
        "@type": T + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": stat_prefix,
        **routes,
        **logs,
    }


def _network_filter(hcm: Doc) -> Doc:
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}


def _edge() -> Doc:
    """Hardening against hostile clients: one meaning per path, bounded headers, no slow senders."""
    return {
        "use_remote_address": True,
        "server_name": "roundhouse",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "strip_any_host_port": True,
        "max_request_headers_kb": 16,
        "request_headers_timeout": "5s",  # also bounds how long after a lease's end a slow head can still be leased
        "request_timeout": "30s",
        "stream_idle_timeout": "30s",
        "drain_timeout": "5s",
        "common_http_protocol_options": {
            "idle_timeout": "600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
    }


def _spans(tracing: Tracing) -> Doc:
    """A trace for a share of the requests, and for each that comes with one: a span here, its parent passed on."""
    uri = {"uri": f"http://{tracing.host}:{tracing.port}/v1/traces", "cluster": TRACES, "timeout": "1s"}
    provider = {
        "@type": T + "envoy.config.trace.v3.OpenTelemetryConfig",
        "http_service": {"http_uri": uri},
        "service_name": "roundhouse-gateway",
        "sampler": _sampler(tracing.percent),
    }
    # Without a sampler of its own the tracer would break off most traces that clients began.
    return {
        "tracing": {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": provider},
            "spawn_upstream_span": True,
        }
    }


def _sampler(percent: float) -> Doc:
    """A trace that came with a request goes on if its client samples it; of the other requests a share begins one."""
    name, kind = "envoy.tracers.opentelemetry.samplers.", T + "envoy.extensions.tracers.opentelemetry.samplers.v3."
    share = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    ratio = {"@type": kind + "TraceIdRatioBasedSamplerConfig", "sampling_percentage": share}
    wrapped = {"name": name + "trace_id_ratio_based", "typed_config": ratio}
    parent = {"@type": kind + "ParentBasedSamplerConfig", "wrapped_sampler": wrapped}
    return {"name": name + "parent_based", "typed_config": parent}


def _stamp() -> Doc:
    """The request's start in epoch milliseconds, over whatever a client sent under that name."""
    kind = T + "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    header = {"key": NOW_HEADER, "value": "%START_TIME(%s%3f)%"}
    mutation = {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": kind, "mutations": [mutation]},
    }


def _errors() -> Doc:
    health = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    healthy = {"filter": _status_is(200), "body_format_override": health}
    full = _error_body("queue_full", "in_flight")
    pressed = {
        "filter": {"response_flag_filter": {"flags": ["UO"]}},
        "status_code": PRESSED,
        "body_format_override": {"json_format": {"error": {**full["json_format"]["error"], "code": PRESSED}}},
        "headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}],
    }
    # The fault filter's own words would be "fault filter abort".
    stranger = {
        "filter": {"response_flag_filter": {"flags": ["FI"]}},
        "body_format_override": _error_body(
            "permission_error", None, "this token does not open this, or may not name a version"
        ),
    }
    mappers = [_error_mapper(status, kind) for status, kind in ERROR_TYPES.items()]
    return {
        "mappers": [healthy, pressed, stranger, *mappers],
        "body_format": _error_body("invalid_request_error", None),
    }


def _error_mapper(status: int, kind: str) -> Doc:
    limit = f"%RESP({LIMIT_HEADER})%" if status == 429 else LIMITS.get(status)
    mapper: Doc = {"filter": _status_is(status), "body_format_override": _error_body(kind, limit)}
    if status in ADDED:
        key, value = ADDED[status]
        mapper["headers_to_add"] = [{"header": {"key": key, "value": value}, "append_action": "ADD_IF_ABSENT"}]
    return mapper


def _status_is(status: int) -> Doc:
    value = {"default_value": status, "runtime_key": f"roundhouse.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _error_body(kind: str, limit: str | None, message: str = "%LOCAL_REPLY_BODY%") -> Doc:
    error = {
        "message": message,
        "type": kind,
        "code": "%RESPONSE_CODE%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        **({"limit": limit} if limit else {}),
    }
    return {"json_format": {"error": error}}
