"""Draws whole states of the gateway: all that users may ask for, mostly within the rules."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import strategies as st

from gateway.port import (
    Backend,
    CallRecords,
    Endpoint,
    GatewayState,
    GroupRoute,
    Jwt,
    Limits,
    Member,
    ServiceRoute,
    Sticky,
    Token,
    Traffic,
)
from gateway.rules import check
from rollout.errors import Refused
from rollout.nouns import Lease, Mirror

NAMES = ["ab", "chat", "chat-2", "z" * 40]
GROUPS = ["prod", "chats"]
HOSTS = [f"127.0.0.{i}" for i in range(1, 25)]

secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80)
clients = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True)
seconds = st.floats(0.05, 3600)
permilles = st.sampled_from([0, 1, 50, 333, 500, 999, 1000])
headers = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
cookies = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
stickies = st.one_of(
    st.builds(Sticky, st.just("header"), headers),
    st.builds(Sticky, st.just("cookie"), cookies),
    st.just(Sticky("token")),
)
rates = st.none() | st.floats(0.01, 1_000_000)


def _jwks() -> str:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(256, "big")).decode().rstrip("=")
    return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "kid": "1", "e": "AQAB", "n": modulus}]})


JWKS = _jwks()

traffics = st.builds(
    Traffic,
    balance=st.sampled_from(["least_request", "round_robin", "random", "session", "prompt"]),
    sticky=st.none() | stickies,
    limits=st.builds(Limits, rates, rates, st.integers(1, 100_000), st.integers(1, 100_000)),
    usage=st.sampled_from(["engine", "parsed", "none"]),
    slow_start_s=st.just(0.0) | st.floats(0, 900),
    websocket=st.booleans(),
    grpc=st.booleans(),
    jwt=st.none() | st.builds(Jwt, st.text(min_size=1), st.tuples(st.text(min_size=1)), st.just(JWKS)),
    call_records=st.none() | st.builds(CallRecords, st.floats(0, 100), st.integers(1, 1 << 20)),
    signed=st.booleans(),
)


@st.composite
def leases(draw: st.DrawFn, name: str, others: list[int]) -> Lease:
    """One that holds now, or not; of any of the service's versions that are not stable."""
    begin = int(time.time() * 1000) + draw(st.sampled_from([-90_000, -5_000, 30_000]))
    copies = draw(st.lists(st.builds(Mirror, st.just(name), st.sampled_from(others), permilles), max_size=2))
    return Lease(
        draw(st.sampled_from(others)),
        draw(permilles),
        draw(permilles),
        begin,
        begin + draw(st.sampled_from([1, 20_000, 60_000])),
        draw(clients),
        draw(st.none() | st.sampled_from(others)),
        tuple(copies),
    )


@st.composite
def services(draw: st.DrawFn, name: str) -> ServiceRoute:
    """One service with up to three versions."""
    versions = draw(st.lists(st.sampled_from([1, 2, 3, 4_000_000]), unique=True, max_size=3))
    instances = [(v, i) for v in versions for i in range(draw(st.integers(0, 2)))]
    there = [(v, Endpoint(f"{name}-v{v}-{i}", "127.0.0.1", 20_000 + n)) for n, (v, i) in enumerate(instances)]
    drained = [(v, replace(e, draining=draw(st.booleans()))) for v, e in there]
    backends = tuple(Backend(v, tuple(e for of, e in drained if of == v)) for v in versions)
    stable = draw(st.sampled_from([*versions, None])) if versions else None
    others = [v for v in versions if v != stable]
    leased = stable is not None and others and draw(st.booleans())
    tokens = tuple(draw(st.lists(st.builds(Token, clients, secrets, st.booleans()), max_size=3)))
    lease = draw(leases(name, others)) if leased else None
    bounds = draw(seconds), draw(st.integers(1, 16 << 20))
    return ServiceRoute(name, tokens, backends, stable, lease, *bounds, draw(traffics))


@st.composite
def groups(draw: st.DrawFn, name: str, services: list[str]) -> GroupRoute:
    """A group of some of the services."""
    members = [Member(service, draw(st.none() | st.integers(0, 1000))) for service in services if draw(st.booleans())]
    tokens = draw(st.lists(st.builds(Token, clients, secrets), max_size=2))
    return GroupRoute(name, tuple(tokens), tuple(members), draw(st.none() | stickies))


@st.composite
def states(draw: st.DrawFn, port: int) -> GatewayState:
    """A whole state, its instances at addresses of their own."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    hosts = iter(HOSTS)
    found = [_placed(draw(services(name).filter(allowed)), hosts, port) for name in names]
    stable = [service.name for service in found if service.stable is not None]
    found = [_copied(service, [n for n in stable if n != service.name], draw(permilles)) for service in found]
    named = draw(st.lists(st.sampled_from(GROUPS), unique=True, max_size=2))
    return GatewayState(tuple(found), tuple(draw(groups(name, names)) for name in named))


def allowed(service: ServiceRoute) -> bool:
    """Whether the rules let it pass by itself."""
    try:
        check(GatewayState((service,)))
    except Refused:
        return False
    return True


def _placed(service: ServiceRoute, hosts: Iterator[str], port: int) -> ServiceRoute:
    backends = [
        replace(b, endpoints=tuple(replace(e, host=next(hosts), port=port) for e in b.endpoints))
        for b in service.backends
    ]
    return replace(service, backends=tuple(backends))


def _copied(service: ServiceRoute, others: list[str], permille: int) -> ServiceRoute:
    """With copies for another service as well."""
    if service.lease is None or not others or not permille:
        return service
    mirrors = (*service.lease.mirrors, Mirror(others[0], None, permille))
    return replace(service, lease=replace(service.lease, mirrors=mirrors))
