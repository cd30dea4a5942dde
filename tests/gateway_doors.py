"""Services and groups for tests of the gateway, and calls to them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from running_envoy import Proxy, Upstream

from gateway.port import Backend, Endpoint, GroupRoute, Member, ServiceRoute, Token


@dataclass(frozen=True)
class Called:
    """A door as a client calls it."""

    client: httpx.Client

    def versions(self, times: int, **more: object) -> Counter[str]:
        """Who answers so many requests; each must succeed."""
        answers = [self.client.get("x", **more) for _ in range(times)]  # type: ignore[arg-type]
        assert {answer.status_code for answer in answers} == {200}
        return Counter(answer.headers["x-roundhouse-version"] for answer in answers)


def token_of(door: str, client: str = "alice", **more: object) -> Token:
    """The token of a client of a door."""
    return Token(client, f"token-of-{client}-for-{door}", **more)  # type: ignore[arg-type]


def bearer(token: Token) -> dict[str, str]:
    """What a client sends with it."""
    return {"authorization": f"Bearer {token.secret}"}


def a_service(name: str, *upstreams: Upstream, **more: object) -> ServiceRoute:
    """A service of these versions, the first of them stable, with one token."""
    fields = {"tokens": (token_of(name),), "stable": upstreams[0].version if upstreams else None, **more}
    backends = tuple(upstream.backend() for upstream in upstreams)
    return ServiceRoute(name, backends=backends, **fields)  # type: ignore[arg-type]


def at_ports(name: str, *ports: int, **more: object) -> ServiceRoute:
    """A service of one version with an instance on each of these ports."""
    instances = tuple(Endpoint(f"{name}-{port}", "127.0.0.1", port) for port in ports)
    fields = {"tokens": (token_of(name),), "stable": 1, "backends": (Backend(1, instances),), **more}
    return ServiceRoute(name, **fields)  # type: ignore[arg-type]


def a_group(name: str, weights: dict[str, int | None], **more: object) -> GroupRoute:
    """A group of these members, with one token."""
    members = tuple(Member(service, weight) for service, weight in weights.items())
    return GroupRoute(name, **{"tokens": (token_of(name),), "members": members, **more})  # type: ignore[arg-type]


@contextlib.contextmanager
def calling(proxy: Proxy, door: str, token: Token | None = None, **more: object) -> Iterator[Called]:
    """A client of a door, on connections that stay open."""
    held = bearer(token or token_of(door))
    with httpx.Client(base_url=f"{proxy.url}/api/predict/{door}/", headers=held, **more) as client:  # type: ignore[arg-type]
        yield Called(client)
