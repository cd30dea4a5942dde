"""The filters that each request passes, and the files that feed four of them. Pure.

Keys, JWT issuers and rate limits come from files of their own (extension discovery): Envoy takes a new one for the next
request on any connection, open ones too, and a renewed lease does not rewrite them. What a service does not use is
switched off in the chain and costs it next to nothing; its routes switch on what it does use.
"""

from __future__ import annotations

from typing import Any

from gateway.clusters import T, path_source
from gateway.names import (
    AUTH,
    CLIENT_HEADER,
    JWT,
    LIMIT_HEADER,
    METADATA,
    PREFIX_HEADER,
    SERVICE_RATE,
    SIGNED,
    TOKEN_RATE,
    USAGE,
    client_id,
)
from gateway.port import GatewayState, ServiceRoute
from gateway.shares import group_limits
from gateway.signed import KIND, signers

Doc = dict[str, Any]
DOOR, BUFFER, TAP, PROMPT, SUBJECT = "door", "buffer", "calls", "prompt", "subject"
JSON_READER, STREAM_READER = "usage-json", "usage-stream"
KINDS = {
    SIGNED: KIND,
    AUTH: T + "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    JWT: T + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    SERVICE_RATE: T + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    TOKEN_RATE: T + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
}
CALLS = "calls"  #: by this name the recorder of calls reaches the tap filters over the admin interface
_PROMPT_BYTES = 256  # of a body, from its first message or its prompt on, decide where a request goes
_MOST_CLIENTS = 10_000  # whose rates are counted one by one

#: FNV-1a over the beginning of the prompt; the header is overwritten, so no client can choose its instance.
_PROMPT_HASH = f"""
function envoy_on_request(handle)
  local body = handle:body()
  local size = body and body:length() or 0
  if size == 0 then handle:headers():remove("{PREFIX_HEADER}") return end
  local text = body:getBytes(0, math.min(size, 4096))
  local from = string.find(text, '"messages"', 1, true) or string.find(text, '"prompt"', 1, true) or 1
  local hash = 2166136261
  for i = from, math.min(#text, from + {_PROMPT_BYTES - 1}) do
    hash = bit.band(bit.bxor(hash, string.byte(text, i)) * 403, 0xffffffff)
  end
  handle:headers():replace("{PREFIX_HEADER}", tostring(hash))
end
"""

#: A web token's subject becomes a client like any other, of its door; what may not stand in a header or a record of it
#: is written as in an address. So no subject can break a request, forge a record, or pass for another door's client.
_SUBJECT = f"""
function envoy_on_request(handle)
  local told = handle:headers():get("{CLIENT_HEADER}") or ""
  local plain = string.gsub(told, "[^!-$&-~]", function(c) return string.format("%%%02X", string.byte(c)) end)
  handle:headers():replace("{CLIENT_HEADER}", handle:filterContext():get("door") .. "/" .. plain)
end
"""


def ecds_file(name: str) -> str:
    """The file that feeds a filter."""
    return f"ecds-{name}.json"


def chain(xds: str | None, still: dict[str, Doc]) -> list[Doc]:
    """The filters of the public listener, in order.

    The fed ones follow their files in ``xds``; to validate, ``xds`` is None and they hold ``still``, by name.
    """
    fed = {name: _fed(name, xds, still) for name in KINDS}
    off = {"disabled": True}
    return [
        {**fed[SIGNED], **off},
        fed[AUTH],
        {**fed[JWT], **off},
        {**_script(SUBJECT, _SUBJECT), **off},
        _plain(DOOR, "fault.v3.HTTPFault"),
        {**fed[SERVICE_RATE], **off},
        {**fed[TOKEN_RATE], **off},
        # The whole body before any of it goes on: a retry and a copy are then complete, and small enough to hold.
        _plain(BUFFER, "buffer.v3.Buffer", max_request_bytes=1 << 20),
        {**_script(PROMPT, _PROMPT_HASH), **off},
        *answer_chain(),
    ]


def answer_chain() -> list[Doc]:
    """The filters behind which an instance stands, in both listeners."""
    off = {"disabled": True}
    # The recorder tells copies from live requests, and who served, by the connections; no header can feign them.
    told = dict.fromkeys(
        ("record_headers_received_time", "record_downstream_connection", "record_upstream_connection"), True
    )
    tap = _plain(TAP, "tap.v3.Tap", common_config={"admin_config": {"config_id": CALLS}}, **told)
    readers = [_json_reader(), _stream_reader()]
    return [{**tap, **off}, *({**reader, **off} for reader in readers), router()]


def upgraded_chain(xds: str | None, still: dict[str, Doc]) -> list[Doc]:
    """The filters of a WebSocket: none that waits for a whole body."""
    names = (SIGNED, AUTH, JWT, SERVICE_RATE, TOKEN_RATE)
    fed = {name: _fed(name, xds, still) for name in names}
    off = {"disabled": True}
    signed, auth, jwt, service_rate, token_rate = (fed[name] for name in names)
    rates = [{**service_rate, **off}, {**token_rate, **off}]
    named = {**_script(SUBJECT, _SUBJECT), **off}
    return [{**signed, **off}, auth, {**jwt, **off}, named, _plain(DOOR, "fault.v3.HTTPFault"), *rates, router()]


def fed_docs(state: GatewayState) -> dict[str, Doc]:
    """The resource of each fed filter, by the filter's name."""
    configs = {
        SIGNED: signers(state),
        AUTH: keys(state),
        JWT: issuers(state),
        SERVICE_RATE: rates(state, "service"),
        TOKEN_RATE: rates(state, "token"),
    }
    kind = T + "envoy.config.core.v3.TypedExtensionConfig"
    return {name: {"@type": kind, "name": name, "typed_config": config} for name, config in configs.items()}


def keys(state: GatewayState) -> Doc:
    """All tokens of all doors: which key is which client, the door's name in front."""
    doors = [*state.services, *state.groups]
    return {
        "@type": KINDS[AUTH],
        "credentials": [
            {"key": t.secret, "client": client_id(door.name, t.client)} for door in doors for t in door.tokens
        ],
        "key_sources": [{"header": "Authorization"}],
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }


def issuers(state: GatewayState) -> Doc:
    """Who signs the web tokens of each service that takes them instead of keys."""
    with_jwt = [(service.name, service.traffic.jwt) for service in state.services if service.traffic.jwt]
    providers = {
        name: {
            "issuer": jwt.issuer,
            "audiences": list(jwt.audiences),
            "local_jwks": {"inline_string": jwt.jwks},
            "claim_to_headers": [{"header_name": CLIENT_HEADER, "claim_name": "sub"}],
            "forward": False,
            "require_expiration": True,
            # Nowhere else: by default Envoy also takes one from the query, which would then go upstream.
            "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        }
        for name, jwt in with_jwt
    }
    asked = {name: {"provider_name": name} for name in providers}
    return {"@type": KINDS[JWT], "providers": providers, "requirement_map": asked}


def both(old: Doc, new: Doc) -> Doc:
    """The issuers of two web-token configurations together: routes may still name the old ones' requirements."""
    held, wanted = old.get("typed_config", {}), new["typed_config"]
    merged = {key: {**held.get(key, {}), **wanted[key]} for key in ("providers", "requirement_map")}
    return {**new, "typed_config": {**wanted, **merged}}


def rates(state: GatewayState, of: str) -> Doc:
    """A bucket per door, or per door and client, that refills once a second or, for slow rates, at each request's due
    time. A group's rates follow from its members'."""
    rule = {"service": "requests_per_s", "token": "token_requests_per_s"}[of]
    limits = {s.name: s.traffic.limits for s in state.services} | {g.name: group_limits(g, state) for g in state.groups}
    asked = {door: rate for door, limit in limits.items() if (rate := getattr(limit, rule)) is not None}
    door = {
        "metadata": {
            "descriptor_key": "door",
            "metadata_key": {"key": METADATA, "path": [{"key": "door"}]},
            "source": "ROUTE_ENTRY",
        }
    }
    client = {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}
    any_client = [{"key": "client"}] if of == "token" else []
    everything = {"default_value": {"numerator": 100}}
    return {
        "@type": KINDS[SERVICE_RATE],
        "stat_prefix": f"{of}_rate",
        "filter_enabled": everything,
        "filter_enforced": everything,
        "token_bucket": {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"},
        "always_consume_default_token_bucket": False,
        "max_dynamic_descriptors": _MOST_CLIENTS,
        "enable_retry_after_header": True,
        "response_headers_to_add": [set_header(LIMIT_HEADER, f"{rule} of this {of}")],
        "rate_limits": [{"actions": [door, client] if of == "token" else [door]}],
        "descriptors": [
            {"entries": [{"key": "door", "value": name}, *any_client], "token_bucket": bucket(rate)}
            for name, rate in sorted(asked.items())
        ],
    }


def bucket(rate: float) -> Doc:
    """A token bucket of ``rate`` requests per second that holds one second's worth, at least one request.

    >>> bucket(200)["fill_interval"], bucket(0.5)["fill_interval"], bucket(2.5)
    ('1.000s', '2.000s', {'max_tokens': 5, 'tokens_per_fill': 5, 'fill_interval': '2.000s'})
    """
    for interval in (1, 2, 4, 5, 10, 20, 50, 100):
        tokens = round(rate * interval)
        if tokens >= 1 and abs(tokens - rate * interval) < 0.01 * rate * interval:
            return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": f"{interval:.3f}s"}
    return {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": f"{1 / rate:.3f}s"}


def switches(service: ServiceRoute) -> Doc:
    """What a route of ``service`` switches on and off: ``typed_per_filter_config``."""
    traffic, found = service.traffic, dict[str, Doc]()
    if traffic.signed:
        found[SIGNED] = ON
    if traffic.jwt:
        found[AUTH] = OFF
        found[JWT] = {
            "@type": T + "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
            "requirement_name": service.name,
        }
        found[SUBJECT] = {
            "@type": T + "envoy.extensions.filters.http.lua.v3.LuaPerRoute",
            "filter_context": {"door": service.name},
        }
    else:
        found[DOOR] = allowed({"prefix": client_id(service.name, "")})
    if traffic.limits.requests_per_s is not None:
        found[SERVICE_RATE] = ON
    if traffic.limits.token_requests_per_s is not None:
        found[TOKEN_RATE] = ON
    if service.body_limit_bytes != 1 << 20:
        kind = T + "envoy.extensions.filters.http.buffer.v3.BufferPerRoute"
        found[BUFFER] = {"@type": kind, "buffer": {"max_request_bytes": service.body_limit_bytes}}
    if traffic.balance == "prompt":
        found[PROMPT] = ON
    return {**found, **answer_switches(service)}


def answer_switches(service: ServiceRoute) -> Doc:
    """What a copy needs as well: token counts, and bodies for the records of calls."""
    on = [JSON_READER, STREAM_READER] if service.traffic.usage == "parsed" else []
    return dict.fromkeys([*on, *([TAP] if service.traffic.call_records else [])], ON)


def allowed(*clients: Doc) -> Doc:
    """Only clients whose id matches one of these, of which there is at least one.

    A refusal by the fault filter, where none of them matches: it looks at one header and costs 40 % of what the access
    control filter does, and a list of exact names is bounded by nothing; the size of a regular expression is.
    """
    kind = T + "envoy.extensions.filters.http.fault.v3.HTTPFault"
    # Without an id nobody passes: a missing header counts as an empty one, and that one does not match.
    outsider = {"name": CLIENT_HEADER, "invert_match": True, "treat_missing_header_as_empty": True}
    return {
        "@type": kind,
        "abort": {"http_status": 403, "percentage": {"numerator": 100}},
        "headers": [{**outsider, "string_match": client} for client in clients],
    }


def router() -> Doc:
    """The last filter. Its own statistics per status are left out: the records hold more."""
    return _plain("envoy.filters.http.router", "router.v3.Router", suppress_envoy_headers=True, dynamic_stats=False)


def set_header(name: str, value: str) -> Doc:
    """Sets a header, whatever stood there."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


OFF: Doc = {"@type": T + "envoy.config.route.v3.FilterConfig", "disabled": True}
ON: Doc = {"@type": T + "envoy.config.route.v3.FilterConfig", "config": {}}


def _plain(name: str, kind: str, **config: Any) -> Doc:
    return {"name": name, "typed_config": {"@type": T + "envoy.extensions.filters.http." + kind, **config}}


def _script(name: str, text: str) -> Doc:
    """It must not have the route chosen anew: that choice would follow what it wrote, not what a client sent."""
    return _plain(name, "lua.v3.Lua", clear_route_cache=False, default_source_code={"inline_string": text})


def _fed(name: str, xds: str | None, still: dict[str, Doc]) -> Doc:
    if xds is None:
        return {"name": name, "typed_config": still[name]["typed_config"]}
    source = path_source(f"{xds}/{ecds_file(name)}")
    return {"name": name, "config_discovery": {"config_source": source, "type_urls": [KINDS[name]]}}


def _usage_rules() -> list[Doc]:
    """Token counts as OpenAI's ``usage`` has them; else the answer's length from llama.cpp's ``timings``.

    Its ``prompt_n`` leaves out what was cached, so it does not say how long a prompt was. Of a later rule the value
    stays, so ``usage`` stands behind.
    """
    fields = [
        ("cached", "timings", "cache_n"),
        ("out", "timings", "predicted_n"),
        ("in", "usage", "prompt_tokens"),
        ("out", "usage", "completion_tokens"),
        ("cached", "usage", "prompt_tokens_details", "cached_tokens"),
    ]
    return [
        {
            "selectors": [{"key": name} for name in path],
            "on_present": {"metadata_namespace": USAGE, "key": key, "type": "NUMBER"},
        }
        for key, *path in fields
    ]


def _json_reader() -> Doc:
    odd = {"metadata_namespace": USAGE, "key": "odd", "value": 1, "type": "NUMBER"}
    first, *others = _usage_rules()
    rules = [{**first, "on_error": odd}, *others]  # all of them fail in an answer that is no JSON: once is enough
    answers = {"allow_content_types_regex": {"regex": "application/json.*"}, "rules": rules}
    return _plain(JSON_READER, "json_to_metadata.v3.JsonToMetadata", response_rules=answers)


def _stream_reader() -> Doc:
    kind = T + "envoy.extensions.content_parsers.json.v3.JsonContentParser"
    parser = {"@type": kind, "rules": [{"rule": rule} for rule in _usage_rules()]}
    events = {
        "max_event_size": 65536,
        "content_parser": {"name": "envoy.content_parsers.json", "typed_config": parser},
    }
    return _plain(STREAM_READER, "sse_to_metadata.v3.SseToMetadata", response_rules=events)
