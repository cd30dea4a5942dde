"""The names that clusters, routes, filters and clients bear in Envoy, and how to read them back.

``@`` and ``/`` cannot occur in a service's name. ``chat@v2`` are the instances of version 2; ``chat@v2+v1`` is version
2 with version 1 to fall back on; ``chat@mirror`` leads to the internal listener that answers copies of requests. A
route is ``<door>/<kind>``, with the shares in force behind it where there are some: ``chat/leased/50/500``, or in a
group those of each member that has a candidate: ``prod/group/chat/50``. A client is ``<door>/<client>``: the door that
its token opens stands in front.
"""

from __future__ import annotations

import re

LISTENER = "gateway"
MIRROR_LISTENER = "mirror"
METADATA = "roundhouse"  #: namespace of our metadata on routes and endpoints
USAGE = "llm"  #: namespace of token counts that were read out of an answer
NOW_HEADER = "x-now-ms"  #: stamped on arrival with the epoch milliseconds; leases are matched against it
CLIENT_HEADER = "x-client-id"
VERSION_HEADER = "x-roundhouse-version"  #: in an answer: who served it; in a request: who is to serve it (a pin)
SERVICE_HEADER = "x-roundhouse-service"  #: in a group's answer: which member; in a gRPC call: the service meant
MIRROR_HEADER = "x-roundhouse-mirror"  #: names the cluster that a copy is meant for, inside the proxy only
LIMIT_HEADER = "x-roundhouse-limit"  #: which limit refused a request
PREFIX_HEADER = "x-roundhouse-prompt"  #: hash of a prompt's beginning, made inside the proxy

#: Filters fed by files of their own, so that keys and limits act on open connections and stay out of the routes.
SIGNED, AUTH, JWT, SERVICE_RATE, TOKEN_RATE = "signed", "auth", "jwt", "service-rate", "token-rate"

MOST_NAME = 160  #: characters of a route's name in a record
_ARM = re.compile(r"([^@]*)@v(\d+)(?:\+v\d+)?")


def version_cluster(service: str, version: int) -> str:
    """The cluster of one version's instances."""
    return f"{service}@v{version}"


def arm_cluster(service: str, first: int, second: int) -> str:
    """The cluster that prefers ``first`` and falls back to ``second``."""
    return f"{service}@v{first}+v{second}"


def mirror_cluster(service: str) -> str:
    """The way of a service's copies into the mirror listener."""
    return f"{service}@mirror"


def arm_of(cluster: str) -> tuple[str, int] | None:
    """The service and the version that a cluster serves first, or None for one that serves none.

    >>> arm_of("chat@v2+v1"), arm_of("chat@v7"), arm_of("chat@mirror")
    (('chat', 2), ('chat', 7), None)
    """
    found = _ARM.fullmatch(cluster)
    return (found.group(1), int(found.group(2))) if found else None


def host_name(version: int, instance: str) -> str:
    """An instance as records name it: ``v2.chat-v2-0``."""
    return f"v{version}.{instance}"


def instance_of(name: str) -> str:
    """The instance's id in a host name."""
    return name.partition(".")[2]


def route_name(door: str, kind: str, canary: int = 0, mirror: int = 0) -> str:
    """A route's name; each record carries it, and with it the shares in permille that held for that request."""
    return f"{door}/{kind}/{canary}/{mirror}" if canary or mirror else f"{door}/{kind}"


def group_route_name(door: str, canaries: dict[str, int]) -> str:
    """The name of a group's route: each member's share that goes to a candidate, in permille of the member's part.

    What would make it longer than a record may hold is left out: nothing is known then of those requests' chances.

    >>> group_route_name("prod", {}), group_route_name("prod", {"chat": 50, "small": 0, "large": 250})
    ('prod/group', 'prod/group/chat/50/large/250')
    """
    name = route_name(door, "group")
    for service, canary in canaries.items():
        part = f"/{service}/{canary}"
        if canary and len(name) + len(part) <= MOST_NAME:
            name += part
    return name


def group_canary(name: str, service: str) -> int:
    """A member's share that went to its candidate, out of that name; 0 where it does not say.

    >>> group_canary("prod/group/chat/50/large/250", "large"), group_canary("prod/group", "large")
    (250, 0)
    """
    parts = name.split("/")[2:]
    return next((int(share) for one, share in zip(parts[::2], parts[1::2], strict=False) if one == service), 0)


def client_id(door: str, client: str) -> str:
    """A client as the proxy knows it: the door that its token opens stands in front."""
    return f"{door}/{client}"
