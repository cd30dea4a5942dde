"""The names that clusters and routes bear in Envoy, and how to read them back. ``@`` cannot occur in a service's name.

``chat@v2`` are the instances of version 2; ``chat@v2+v1`` is version 2 with version 1 to fall back on; ``chat@mirror``
leads to the internal listener that answers copies of requests.
"""

from __future__ import annotations

import re

LISTENER = "gateway"
MIRROR_LISTENER = "mirror"
METADATA = "roundhouse"  #: namespace of our metadata on routes and endpoints
NOW_HEADER = "x-now-ms"  #: stamped on arrival with the epoch milliseconds; leases are matched against it
CLIENT_HEADER = "x-client-id"
ARM_HEADER = "x-roundhouse-arm"
VERSION_HEADER = "x-roundhouse-version"
MIRROR_HEADER = "x-roundhouse-mirror"  #: names the cluster that a copy is meant for, inside the proxy only

_ARM = re.compile(r".*@v(\d+)")


def version_cluster(service: str, version: int) -> str:
    """The cluster of one version's instances."""
    return f"{service}@v{version}"


def arm_cluster(service: str, first: int, second: int) -> str:
    """The cluster that prefers ``first`` and falls back to ``second``."""
    return f"{service}@v{first}+v{second}"


def mirror_cluster(service: str) -> str:
    """The way of a service's copies into the mirror listener."""
    return f"{service}@mirror"


def version_of(cluster: str) -> int | None:
    """The version that a cluster serves first, or None for one that serves none.

    >>> version_of("chat@v2+v1"), version_of("chat@v7"), version_of("chat@mirror")
    (2, 7, None)
    """
    found = _ARM.match(cluster)
    return int(found.group(1)) if found else None
