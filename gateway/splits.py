"""From the routes that Envoy has in force back to splits: the inverse of ``routes``, over what Envoy itself shows."""

from __future__ import annotations

from typing import Any

from gateway.group_routes import weights_in_force
from gateway.names import METADATA, MIRROR_HEADER, arm_of
from rollout.nouns import Lease, Mirror, Split

Doc = dict[str, Any]


def splits_in_force(routes: list[Doc], now_ms: int) -> dict[str, Split]:
    """The split of each service at ``now_ms``. A lease whose window does not hold that moment is not in force."""
    splits: dict[str, Split] = {}
    leases: dict[str, Lease] = {}
    for route in routes:
        service, kind = _told(route).get("service"), _kind(route)
        if not service or _is_variant(route):
            continue
        if kind == "leased":
            leases[service] = _lease(route)
        elif kind in ("stable", "closed"):
            arm = arm_of(route.get("route", {}).get("cluster", ""))
            splits[service] = Split(service, arm[1] if arm else None)
    for service, lease in leases.items():
        if lease.from_ms <= now_ms < lease.until_ms:
            splits[service] = Split(service, splits[service].stable, lease)
    return splits


def groups_in_force(routes: list[Doc]) -> dict[str, dict[str, int]]:
    """What each member of each group gets, of 10,000; nobody anything where a group is closed."""
    return {group: weights_in_force(route) for route in routes if (group := _told(route).get("group"))}


def _told(route: Doc) -> Doc:
    return route.get("metadata", {}).get("filter_metadata", {}).get(METADATA, {})


def _kind(route: Doc) -> str:
    return route.get("name", "").partition("/")[2].partition("/")[0]


def _is_variant(route: Doc) -> bool:
    """The same choice for gRPC or WebSockets."""
    return "grpc" in route["match"] or bool(route.get("route", {}).get("upgrade_configs"))


def _lease(route: Doc) -> Lease:
    told, action = _told(route), route["route"]
    candidate, baseline = int(told["candidate"]), told.get("baseline")
    drawn: dict[int, int] = {}
    for cluster in action["weighted_clusters"]["clusters"]:
        _, version = arm_of(cluster["name"]) or ("", 0)
        drawn[version] = drawn.get(version, 0) + cluster.get("weight", 0)
    first, mirrors = _mirrors(action, _told(route)["service"], candidate)
    window = next(h["range_match"] for h in route["match"]["headers"] if "range_match" in h)
    return Lease(
        candidate=candidate,
        canary_permille=drawn.get(candidate, 0),
        mirror_permille=first,
        from_ms=int(window.get("start", 0)),
        until_ms=int(window.get("end", 0)),
        release=told["release"],
        baseline=None if baseline is None else int(baseline),
        mirrors=mirrors,
    )


def _mirrors(action: Doc, service: str, candidate: int) -> tuple[int, tuple[Mirror, ...]]:
    """The candidate's share of copies, and the further targets."""
    first, others = 0, []
    for policy in action.get("request_mirror_policies", []):
        target = arm_of(_target(policy)) or ("", 0)
        permille = round(policy["runtime_fraction"]["default_value"].get("numerator", 0) / 1000)
        if target == (service, candidate):
            first = permille
        else:
            others.append(Mirror(target[0], target[1] if target[0] == service else None, permille))
    return first, tuple(others)


def _target(policy: Doc) -> str:
    headers = [m["append"]["header"] for m in policy["request_headers_mutations"] if "append" in m]
    return next(h["value"] for h in headers if h["key"] == MIRROR_HEADER)
