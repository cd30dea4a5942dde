"""The arithmetic of weights: whole numbers with a constant sum, so that sessions move as little as shares do. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

from gateway.port import GatewayState, GroupRoute, Limits, Sticky
from rollout.nouns import FULL, Lease

WHOLE = 10_000  #: the sum of a group's weights in the proxy


def apportioned(weights: Sequence[int], total: int) -> list[int]:
    """``total`` in parts as ``weights`` are, by largest remainder (Hamilton's method); all 0 where all weights are.

    >>> apportioned([1, 1, 1], 100), apportioned([0, 5], 10), apportioned([0, 0], 10)
    ([34, 33, 33], [0, 10], [0, 0])
    """
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [weight * total // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(weights[i] * total % whole), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def scaled(weights: Sequence[int], total: int) -> list[int]:
    """``weights`` drawn to a scale of ``total``: where two of them meet depends on what is before that point alone.

    So a part whose one end stays and whose other one moves away loses no session; the largest remainder loses some.

    >>> scaled([50, 900, 50], 100), scaled([1, 999], 400), scaled([1, 999], 600)
    ([5, 90, 5], [0, 400], [1, 599])
    """
    whole = sum(weights)
    edges = [(2 * edge * total + whole) // (2 * whole) for edge in accumulate(weights)]
    return [edge - before for before, edge in pairwise([0, *edges])]


def arms(stable: int, lease: Lease, sticky: Sticky | None) -> list[tuple[int, int]]:
    """(version, weight) in the order in which the proxy lays them on its scale; the weights add up to 1000.

    The candidate's part grows from one end and a baseline's from the other, so who is on one of them at 5 % is still
    there at 25 %. Where sessions stick, the candidate's part begins at a place that differs from release to release:
    it would else always be the same users' lot to try what is new.
    """
    canary = lease.canary_permille
    if lease.baseline is not None:
        return [(lease.candidate, canary), (stable, FULL - 2 * canary), (lease.baseline, canary)]
    if sticky is None or canary in (0, FULL):
        return [(lease.candidate, canary), (stable, FULL - canary)]
    begin = int(hashlib.sha256(lease.release.encode()).hexdigest(), 16) % FULL
    wrapped = max(0, begin + canary - FULL)
    pieces = [(lease.candidate, wrapped), (stable, begin - wrapped), (lease.candidate, canary - wrapped)]
    return [(v, n) for v, n in [*pieces, (stable, FULL - begin - canary + wrapped)] if n]


def group_limits(group: GroupRoute, state: GatewayState) -> Limits:
    """The rates of a group: those at which no member gets more than its own file allows it.

    Its tokens have the lowest rate of any member's; the group as a whole the highest one at which each member's part
    is within that member's own.
    """
    weights = {m.service: m.weight for m in group.members if m.weight}
    limits = {s.name: s.traffic.limits for s in state.services if s.name in weights}
    whole = sum(weights[name] for name in limits)
    rates = [limit.requests_per_s * whole / weights[n] for n, limit in limits.items() if limit.requests_per_s]
    by_token = [limit.token_requests_per_s for limit in limits.values() if limit.token_requests_per_s]
    return Limits(requests_per_s=min(rates, default=None), token_requests_per_s=min(by_token, default=None))
