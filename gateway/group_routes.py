"""Routes of a group: which member's which version answers. Pure.

Each member's part is split as its own lease says. All leases of a group's members share one route, which matches while
all of them hold; from the first end on, and until the next state, the group's whole traffic is on stable versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway.filters import set_header, switches
from gateway.names import (
    METADATA,
    SERVICE_HEADER,
    arm_cluster,
    arm_of,
    group_route_name,
    route_name,
    version_cluster,
)
from gateway.port import GatewayState, GroupRoute, Limits, ServiceRoute, Traffic
from gateway.routes import FORWARDED, answer_room, hashing, mirror_policies, paths, waiting, weighted, window
from gateway.shares import WHOLE, apportioned, arms, group_limits, scaled
from rollout.nouns import Lease

Doc = dict[str, Any]


@dataclass(frozen=True)
class _Part:
    """A member that takes a part of the group's traffic; ``weight`` of ``WHOLE``."""

    service: ServiceRoute
    stable: int
    weight: int


def group_routes(group: GroupRoute, state: GatewayState) -> list[Doc]:
    """The routes of one group: the leased one while a member holds a lease, and the one to stable versions."""
    parts = _parts(group, state)
    if not parts:
        return _closed_routes(group)
    leases = [part.service.lease for part in parts if part.service.lease]
    chosen = [_route(group, parts, state, leases)] if leases else []
    chosen.append(_route(group, parts, state, []))
    return [{**route, "match": {**path, **route["match"]}} for route in chosen for path in paths(group.name)]


def _parts(group: GroupRoute, state: GatewayState) -> list[_Part]:
    known = {service.name: service for service in state.services}
    taking = [
        (known[m.service], known[m.service].stable, m.weight)
        for m in group.members
        if m.weight and m.service in known and known[m.service].stable is not None
    ]
    weights = apportioned([weight for _, _, weight in taking], WHOLE)
    return [_Part(service, stable or 0, n) for (service, stable, _), n in zip(taking, weights, strict=True) if n]


def _route(group: GroupRoute, parts: list[_Part], state: GatewayState, leases: list[Lease]) -> Doc:
    face = _face(group, [part.service for part in parts], group_limits(group, state))
    clusters = [cluster for part in parts for cluster in _clusters(part, group, bool(leases))]
    match: Doc = {}
    action = {"weighted_clusters": weighted(clusters, group.sticky), **FORWARDED, **waiting(face), **hashing(face)}
    if leases:
        match["headers"] = [window(*leases)]
        if copies := list(_copies(parts, state)):
            action["request_mirror_policies"] = copies
    canaries = {part.service.name: lease.canary_permille for part in parts if leases and (lease := part.service.lease)}
    name = group_route_name(group.name, canaries)
    return {**_frame(group, face, "group"), "name": name, "match": match, "route": action}


def _clusters(part: _Part, group: GroupRoute, leased: bool) -> Iterator[Doc]:
    """A member's part, split as its lease says; every answer names the member."""
    service, lease = part.service, part.service.lease
    named = {"response_headers_to_add": [set_header(SERVICE_HEADER, service.name)]}
    if not leased or lease is None:
        yield {"name": version_cluster(service.name, part.stable), "weight": part.weight, **named}
        return
    shares = arms(part.stable, lease, group.sticky)
    for (version, _), weight in zip(shares, scaled([n for _, n in shares], part.weight), strict=True):
        other = part.stable if version != part.stable else lease.candidate
        yield {"name": arm_cluster(service.name, version, other), "weight": weight, **named}


def _copies(parts: list[_Part], state: GatewayState) -> Iterator[Doc]:
    """As many copies as the members' leases ask for; which of the group's requests they are of is drawn."""
    for part in parts:
        if part.service.lease:
            yield from mirror_policies(part.service, part.service.lease, state, part.weight / WHOLE)


def _face(group: GroupRoute, members: list[ServiceRoute], limits: Limits = Limits()) -> ServiceRoute:
    """The group as if it were one service: as patient as its most patient member, as strict as its strictest."""
    parsed = any(member.traffic.usage == "parsed" for member in members)
    by_prompt = any(member.traffic.balance == "prompt" for member in members)
    sessions = (member.traffic.sticky for member in members if member.traffic.balance == "session")
    records = next((member.traffic.call_records for member in members if member.traffic.call_records), None)
    return ServiceRoute(
        group.name,
        group.tokens,
        response_timeout_s=max((m.response_timeout_s for m in members), default=5.0),
        body_limit_bytes=min((m.body_limit_bytes for m in members), default=1 << 20),
        traffic=Traffic(
            usage="parsed" if parsed else "engine",
            balance="prompt" if by_prompt else "least_request",
            sticky=group.sticky or next(sessions, None),  # a group's decides who answers, a member's on which instance
            call_records=records,
            limits=limits,
            signed=any(member.traffic.signed for member in members),
        ),
    )


def _frame(group: GroupRoute, face: ServiceRoute, kind: str) -> Doc:
    return {
        "name": route_name(group.name, kind),
        "metadata": {"filter_metadata": {METADATA: {"door": group.name, "group": group.name}}},
        "typed_per_filter_config": switches(face),
        **answer_room(face),
    }


def _closed_routes(group: GroupRoute) -> list[Doc]:
    answer = {"status": 503, "body": {"inline_string": f"no member of group {group.name} takes its traffic now"}}
    frame = _frame(group, _face(group, []), "closed")
    return [{**frame, "match": path, "direct_response": answer} for path in paths(group.name)]


def weights_in_force(route: Doc) -> dict[str, int]:
    """What each member gets of ``WHOLE``, from a group's route as the proxy shows it."""
    found: dict[str, int] = {}
    for cluster in route.get("route", {}).get("weighted_clusters", {}).get("clusters", []):
        arm = arm_of(cluster["name"])
        if arm:
            found[arm[0]] = found.get(arm[0], 0) + cluster.get("weight", 0)
    return found
