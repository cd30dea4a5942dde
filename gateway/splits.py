"""From the routes that Envoy has in force back to splits: the inverse of ``routes``, over what Envoy itself shows."""

from __future__ import annotations

from typing import Any

from gateway.names import METADATA, version_of
from rollout.nouns import Lease, Split


def splits_in_force(routes: list[dict[str, Any]], now_ms: int) -> dict[str, Split]:
    """The split of each service at ``now_ms``. A lease whose window does not hold that moment is not in force."""
    splits: dict[str, Split] = {}
    leases: dict[str, Lease] = {}
    for route in routes:
        told = route.get("metadata", {}).get("filter_metadata", {}).get(METADATA)
        if not told:
            continue
        service = told["service"]
        action = route.get("route", {})
        if "weighted_clusters" in action:
            leases[service] = _lease(route, told["release"])
        else:
            splits[service] = Split(service, version_of(action.get("cluster", "")))
    for service, lease in leases.items():
        if lease.from_ms <= now_ms < lease.until_ms:
            splits[service] = Split(service, splits[service].stable, lease)
    return splits


def _lease(route: dict[str, Any], release: str) -> Lease:
    _, candidate = route["route"]["weighted_clusters"]["clusters"]  # stable's arm stands first
    window = route["match"]["headers"][0]["range_match"]
    mirrors = route["route"].get("request_mirror_policies", [])
    mirrored = mirrors[0]["runtime_fraction"]["default_value"]["numerator"] // 10 if mirrors else 0
    version = version_of(candidate["name"])
    assert version is not None, f"an arm without a version: {candidate['name']}"
    return Lease(
        candidate=version,
        canary_permille=candidate.get("weight", 0),
        mirror_permille=mirrored,
        from_ms=int(window.get("start", 0)),
        until_ms=int(window.get("end", 0)),
        release=release,
    )
