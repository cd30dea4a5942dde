"""How many copies the proxy itself dropped because too many were open, by its own counters."""

from __future__ import annotations

from collections import Counter

from gateway.admin import Admin
from gateway.names import mirror_cluster

_OVERFLOW = r"^cluster\..*@mirror\.upstream_rq_(active|pending)_overflow$"  # both stand for one that was not sent


def dropped_copies(admin: Admin) -> dict[str, int]:
    """Copies dropped since the proxy's start, by the service whose requests they were. Raises Unavailable."""
    end = len(mirror_cluster(""))
    dropped: Counter[str] = Counter()
    for name, value in admin.matching(_OVERFLOW).items():
        cluster = name.removeprefix("cluster.").rpartition(".")[0]
        dropped[cluster[:-end]] += int(value)
    return dict(dropped)
