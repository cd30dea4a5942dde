"""The two listeners: the public one, and the internal one that answers copies. Pure; they never change while it runs.

Tokens, limits and shares all live in the routes, where a change acts on open connections too; a changed listener
would leave keep-alive connections on the old one.
"""

from __future__ import annotations

from typing import Any, Literal

from gateway.clusters import T, path_source
from gateway.names import ARM_HEADER, CLIENT_HEADER, LISTENER, METADATA, MIRROR_LISTENER, NOW_HEADER
from gateway.routes import AUTH, BUFFER
from rollout.limits import LARGEST_BODY

Doc = dict[str, Any]


#: One error body for all of the proxy's own answers. ``type`` follows the names that OpenAI clients know.
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    503: "unavailable_error",
    504: "timeout_error",
}


def public_listener(host: str, port: int, log_path: str, routes: Doc) -> Doc:
    """The listener that clients reach. ``routes`` is ``{"rds": ...}`` or, to validate, ``{"route_config": ...}``."""
    hcm = {
        **_manager("gw", "live", log_path, routes),
        **_edge(),
        "early_header_mutation_extensions": [_stamp()],
        "always_set_request_id_in_response": True,
        "local_reply_config": _errors(),
        "http_filters": [_auth(), _size_limit(), _buffer(), *_token_readers(), _router()],
    }
    return {
        "@type": T + "envoy.config.listener.v3.Listener",
        "name": LISTENER,
        "address": {"socket_address": {"address": host, "port_value": port}},
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": [{"filters": [_network_filter(hcm)]}],
    }


def mirror_listener(log_path: str, routes: Doc) -> Doc:
    """The listener that copies of requests enter from inside. It keeps their request ids, so records can be paired."""
    hcm = {
        **_manager("mirror", "mirror", log_path, routes),
        "generate_request_id": False,
        "http_filters": [*_token_readers(), _router()],
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


def _manager(stat_prefix: str, kind: Literal["live", "mirror"], log_path: str, routes: Doc) -> Doc:
    return {
        "@type": T + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": stat_prefix,
        **routes,
        "access_log": [_log(kind, log_path)],
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
    mappers = [_error_mapper(status, kind) for status, kind in ERROR_TYPES.items()]
    health = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    healthy = {"filter": _status_is(200), "body_format_override": health}
    return {"mappers": [healthy, *mappers], "body_format": _error_body("invalid_request_error")}


def _error_mapper(status: int, kind: str) -> Doc:
    mapper: Doc = {"filter": _status_is(status), "body_format_override": _error_body(kind)}
    extra = {401: ("www-authenticate", "Bearer"), 429: ("retry-after", "1"), 503: ("retry-after", "1")}.get(status)
    if extra:
        mapper["headers_to_add"] = [{"header": {"key": extra[0], "value": extra[1]}}]
    return mapper


def _status_is(status: int) -> Doc:
    value = {"default_value": status, "runtime_key": f"roundhouse.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _error_body(kind: str) -> Doc:
    error = {
        "message": "%LOCAL_REPLY_BODY%",
        "type": kind,
        "code": "%RESPONSE_CODE%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {"json_format": {"error": error}}


def _auth() -> Doc:
    # No tokens here: each service's own stand in its routes, where a revocation acts on open connections at once.
    kind = T + "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth"
    return {"name": AUTH, "typed_config": {"@type": kind, "key_sources": [{"header": "Authorization"}]}}


def _size_limit() -> Doc:
    kind = T + "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit"
    return {
        "name": "envoy.filters.http.body_size_limit",
        "typed_config": {"@type": kind, "max_request_bytes": LARGEST_BODY},
    }


def _buffer() -> Doc:
    """The whole body before any of it goes on: a retry and a copy are then complete, and small enough to hold."""
    kind = T + "envoy.extensions.filters.http.buffer.v3.Buffer"
    return {"name": BUFFER, "typed_config": {"@type": kind, "max_request_bytes": 1 << 20}}


def _token_readers() -> list[Doc]:
    """Token counts out of answers: ``usage`` as OpenAI has it; else llama.cpp's ``timings``."""
    fields = [
        ("timings", "prompt_n", "in"),
        ("timings", "predicted_n", "out"),
        ("usage", "prompt_tokens", "in"),  # behind the timings: the later rule's value stays
        ("usage", "completion_tokens", "out"),
    ]
    rules = [
        {
            "selectors": [{"key": outer}, {"key": inner}],
            "on_present": {"metadata_namespace": METADATA, "key": key, "type": "NUMBER"},
        }
        for outer, inner, key in fields
    ]
    return [_json_reader(rules), _stream_reader(rules)]


def _json_reader(rules: list[Doc]) -> Doc:
    kind = T + "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"
    response = {"allow_content_types_regex": {"regex": "application/json.*"}, "rules": rules}
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": {"@type": kind, "response_rules": response},
    }


def _stream_reader(rules: list[Doc]) -> Doc:
    parser = {
        "name": "envoy.content_parsers.json",
        "typed_config": {
            "@type": T + "envoy.extensions.content_parsers.json.v3.JsonContentParser",
            "rules": [{"rule": rule} for rule in rules],
        },
    }
    kind = T + "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata"
    response = {"max_event_size": 65536, "content_parser": parser}
    return {
        "name": "envoy.filters.http.sse_to_metadata",
        "typed_config": {"@type": kind, "response_rules": response},
    }


def _router() -> Doc:
    kind = T + "envoy.extensions.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind, "suppress_envoy_headers": True}}


def _log(kind: str, path: str) -> Doc:
    fields = {
        "at": "%START_TIME(%s.%6f)%",
        "kind": kind,
        "request_id": "%REQ(X-REQUEST-ID)%",
        "service": f"%METADATA(ROUTE:{METADATA}:service)%",
        "version": f"%METADATA(UPSTREAM_HOST:{METADATA}:version)%",
        "instance": f"%METADATA(UPSTREAM_HOST:{METADATA}:instance)%",
        "arm": f"%REQ({ARM_HEADER})%",
        "client": f"%REQ({CLIENT_HEADER})%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "content_type": "%RESP(CONTENT-TYPE)%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "ttft_us": "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%",
        "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "total_ms": "%DURATION%",  # the only length known of a request that its client left
        "tokens_in": f"%DYNAMIC_METADATA({METADATA}:in)%",
        "tokens_out": f"%DYNAMIC_METADATA({METADATA}:out)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": T + "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": fields},
        },
    }
