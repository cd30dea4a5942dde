"""Routes of a service: which version answers a request. Pure.

On one path stand, in this order: pins (a request that names its version), the leased route, and the one to stable. The
leased ones match only while the request's start, stamped on arrival in ``x-now-ms``, lies in [from_ms, until_ms). So a
share, a pin and a mirror end at their millisecond inside Envoy, with nothing else alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.clusters import T
from gateway.filters import BUFFER, DOOR, PROMPT, allowed, set_header, switches
from gateway.names import (
    CLIENT_HEADER,
    METADATA,
    MIRROR_HEADER,
    NOW_HEADER,
    PREFIX_HEADER,
    SERVICE_HEADER,
    VERSION_HEADER,
    arm_cluster,
    client_id,
    mirror_cluster,
    route_name,
    version_cluster,
)
from gateway.port import GatewayState, ServiceRoute, Sticky
from gateway.shares import arms
from rollout.nouns import Lease, Mirror

Doc = dict[str, Any]
PREFIX = "/api/predict"
ANSWER_BUFFER = 16 << 20  #: bytes; a parsed JSON answer is held whole to read its token counts, and above this it fails
OPEN_S = 600.0  #: seconds of silence after which a WebSocket is closed
FORWARDED = {"prefix_rewrite": "/"}  #: the engine sees its own path


@dataclass(frozen=True)
class Plan:
    """One choice of versions, before it is written once per way of calling."""

    name: str
    action: Doc  # where to: a cluster, or weighted ones
    headers: tuple[Doc, ...] = ()  # what the request's headers must match
    metadata: Doc = field(default_factory=dict)
    guard: Doc | None = None  # who may, if not every client of the door
    mirrors: tuple[Doc, ...] = ()
    falls_back: bool = False  # a retry goes to the arm's other version


def service_routes(service: ServiceRoute, state: GatewayState) -> list[Doc]:
    """The routes of one service, the first that matches counts."""
    if service.stable is None:
        return _closed_routes(service)
    plans = list(_plans(service, service.stable, service.lease, state))
    return [route for plan in plans for route in _ways(service, plan)]


def _plans(service: ServiceRoute, stable: int, lease: Lease | None, state: GatewayState) -> Iterator[Plan]:
    may_pin = _may_pin(service)
    if lease and may_pin:
        yield _pin(service, lease.candidate, may_pin, (window(lease),))
    if may_pin:
        yield _pin(service, stable, may_pin, ())
    if lease:
        yield _leased(service, stable, lease, state)
    yield Plan(route_name(service.name, "stable"), {"cluster": version_cluster(service.name, stable)})


def _may_pin(service: ServiceRoute) -> list[str]:
    """The clients that may. Web tokens bear no such right, and where they are asked for our own tokens open nothing."""
    tokens = () if service.traffic.jwt else service.tokens
    return [client_id(service.name, token.client) for token in tokens if token.may_pin]


def _pin(service: ServiceRoute, version: int, may_pin: list[str], headers: tuple[Doc, ...]) -> Plan:
    """A request that names its version. Where no token may do so the header means nothing, and costs nobody a look."""
    named = {"name": VERSION_HEADER, "string_match": {"exact": str(version)}}
    guard = allowed(*({"exact": client} for client in may_pin))
    cluster = {"cluster": version_cluster(service.name, version)}
    return Plan(route_name(service.name, "pinned"), cluster, (named, *headers), guard=guard)


def _leased(service: ServiceRoute, stable: int, lease: Lease, state: GatewayState) -> Plan:
    shares = arms(stable, lease, service.traffic.sticky)
    clusters = [
        {"name": arm_cluster(service.name, version, stable if version != stable else lease.candidate), "weight": weight}
        for version, weight in shares
    ]
    told = {"release": lease.release, "candidate": lease.candidate, "baseline": lease.baseline}
    return Plan(
        route_name(service.name, "leased", lease.canary_permille, lease.mirror_permille),
        {"weighted_clusters": weighted(clusters, service.traffic.sticky)},
        (window(lease),),
        {key: value for key, value in told.items() if value is not None},
        mirrors=tuple(mirror_policies(service, lease, state)),
        falls_back=True,
    )


def weighted(clusters: list[Doc], sticky: Sticky | None) -> Doc:
    """Weighted clusters, drawn for each request, or for each session where sessions stick."""
    return {"clusters": clusters, **({"use_hash_policy": True} if sticky else {})}


def window(*leases: Lease) -> Doc:
    """The stretch of arrival times in which all of ``leases`` hold."""
    start, end = max(lease.from_ms for lease in leases), min(lease.until_ms for lease in leases)
    return {"name": NOW_HEADER, "range_match": {"start": start, "end": end}}


def mirror_policies(service: ServiceRoute, lease: Lease, state: GatewayState, part: float = 1.0) -> Iterator[Doc]:
    """Copies for the candidate and the lease's further targets, of ``part`` of their shares."""
    stable = {s.name: s.stable for s in state.services}
    for mirror in (Mirror(service.name, lease.candidate, lease.mirror_permille), *lease.mirrors):
        version = mirror.version if mirror.version is not None else stable.get(mirror.service)
        if mirror.permille and version is not None:
            yield _mirror_policy(service.name, version_cluster(mirror.service, version), mirror.permille * part)


def _mirror_policy(service: str, target: str, permille: float) -> Doc:
    share = {"numerator": round(permille * 1000), "denominator": "MILLION"}
    return {
        "cluster": mirror_cluster(service),
        "runtime_fraction": {"default_value": share},
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [
            {"append": set_header(MIRROR_HEADER, target)},
            {"remove": CLIENT_HEADER},
            {"remove": "authorization"},
        ],
    }


def _ways(service: ServiceRoute, plan: Plan) -> Iterator[Doc]:
    """A plan as routes: gRPC and WebSockets where the service takes them, and plain HTTP."""
    if service.traffic.grpc:
        yield _grpc(service, plan)
    http = _http(service, plan)
    for path in paths(service.name):
        route = {**http, "match": {**path, **_headers(plan.headers)}}
        if service.traffic.websocket:
            yield _websocket(route)
        yield route


def paths(door: str) -> list[Doc]:
    """What is behind a door's name, and the name alone. Cut off as prefixes: a regular expression costs more."""
    return [{"prefix": f"{PREFIX}/{door}/"}, {"path": f"{PREFIX}/{door}"}]


def _http(service: ServiceRoute, plan: Plan) -> Doc:
    route = _frame(service, plan)
    action = {**plan.action, **FORWARDED, **waiting(service), **hashing(service)}
    if plan.falls_back:
        action["retry_policy"]["retry_priority"] = _other_version_next()
    if plan.mirrors:
        action["request_mirror_policies"] = list(plan.mirrors)
    return {**route, "route": action}


def _websocket(http: Doc) -> Doc:
    """The same way for a connection that asks to be upgraded: open as long as either side speaks, and never copied."""
    asks = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    match = {**http["match"], **_headers((*http["match"].get("headers", ()), asks))}
    action = {k: v for k, v in http["route"].items() if k != "request_mirror_policies"}
    upgrade = {"upgrade_configs": [{"upgrade_type": "websocket", "enabled": True}]}
    return {
        **http,
        "match": match,
        "route": {**action, **upgrade, "idle_timeout": seconds(OPEN_S)},
    }


def _grpc(service: ServiceRoute, plan: Plan) -> Doc:
    """A gRPC call names its service in the metadata, for its path is its method's; it streams, so nothing waits for
    its whole body, and none is copied."""
    meant = {"name": SERVICE_HEADER, "string_match": {"exact": service.name}}
    route = _frame(service, plan)
    unbuffered = {BUFFER: {"@type": T + "envoy.extensions.filters.http.buffer.v3.BufferPerRoute", "disabled": True}}
    filters = {name: doc for name, doc in route["typed_per_filter_config"].items() if name != PROMPT}
    route["typed_per_filter_config"] = {**filters, **unbuffered}
    match = {"prefix": "/", "grpc": {}, **_headers((meant, *plan.headers))}
    return {**route, "match": match, "route": {**plan.action, **waiting(service), **hashing(service)}}


def _frame(service: ServiceRoute, plan: Plan) -> Doc:
    """What all routes of a service share: name, metadata, and what its filters do."""
    filters = switches(service)
    if plan.guard and DOOR in filters:
        filters = {**filters, DOOR: plan.guard}
    return {
        "name": plan.name,
        "metadata": {"filter_metadata": {METADATA: {"door": service.name, "service": service.name, **plan.metadata}}},
        "typed_per_filter_config": filters,
        **_removed(service),
        **answer_room(service),
    }


def _removed(service: ServiceRoute) -> Doc:
    """Headers that mean something to the gateway and nothing to an engine. The prompt's hash is not among them: what is
    removed here is gone before an instance is chosen by it."""
    pins = [VERSION_HEADER] if _may_pin(service) else []
    named = [SERVICE_HEADER] if service.traffic.grpc else []
    found = [*pins, *named]
    return {"request_headers_to_remove": found} if found else {}


def answer_room(service: ServiceRoute) -> Doc:
    """Room for whole answers where they are parsed. It counts for both directions; a filter refuses larger requests."""
    parsed = service.traffic.usage == "parsed"
    return {"request_body_buffer_limit": max(ANSWER_BUFFER, service.body_limit_bytes)} if parsed else {}


def waiting(service: ServiceRoute) -> Doc:
    """Bounds on silence, none on length: streams may last. Retries only of what reached no engine."""
    return {
        "timeout": "0s",
        "idle_timeout": seconds(service.response_timeout_s),  # to the first byte, and between bytes
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 6,
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
            "retry_host_predicate": [_other_host()],
            "host_selection_retry_max_attempts": "3",
        },
    }


def hashing(service: ServiceRoute) -> Doc:
    """What is hashed: the prompt for the choice of an instance, the session for that of a version and an instance.

    The prompt's hash is made by a filter, after the version was chosen, so it cannot disturb that choice.
    """
    prompt = (
        [{"header": {"header_name": PREFIX_HEADER}, "terminal": True}] if service.traffic.balance == "prompt" else []
    )
    policies = [*prompt, *session_hash(service.traffic.sticky)]
    return {"hash_policy": policies} if policies else {}


def session_hash(sticky: Sticky | None) -> list[Doc]:
    """The hash policy of a session, over what the client itself sends."""
    if sticky is None:
        return []
    by = {
        "header": {"header": {"header_name": sticky.name}},
        "cookie": {"cookie": {"name": sticky.name}},
        "token": {"header": {"header_name": "authorization"}},
    }
    # A client's id is known only after a version is chosen, and its token is gone before an instance is.
    client = [{"header": {"header_name": CLIENT_HEADER}}] if sticky.by == "token" else []
    return [by[sticky.by], *client]


def _closed_routes(service: ServiceRoute) -> list[Doc]:
    text = f"service {service.name} has no version in service yet"
    route = _frame(service, Plan(route_name(service.name, "closed"), {}))
    answer = {"status": 503, "body": {"inline_string": text}}
    return [{**route, "match": path, "direct_response": answer} for path in paths(service.name)]


def _headers(headers: tuple[Doc, ...]) -> Doc:
    return {"headers": list(headers)} if headers else {}


def _other_host() -> Doc:
    kind = T + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": kind}}


def _other_version_next() -> Doc:
    kind = T + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {"@type": kind, "update_frequency": 1},
    }


def seconds(value: float) -> str:
    """A protobuf duration, to the millisecond.

    >>> seconds(5), seconds(0.25)
    ('5.000s', '0.250s')
    """
    return f"{value:.3f}s"
