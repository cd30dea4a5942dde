"""Our own checks of a state, before anything is sent to a proxy, and what kind of change it is. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gateway.port import Backend, Endpoint, GatewayState, GroupRoute, ServiceRoute, Token
from gateway.signed import MOST_TOKENS, signed_doors
from gateway.traffic_rules import between, check_sticky, check_traffic
from rollout.errors import Refused
from rollout.limits import LARGEST_BODY, LONGEST_TIMEOUT_S, RESERVED_PORTS, SERVICE_NAME, SHORTEST_TIMEOUT_S
from rollout.nouns import FULL, Lease, Mirror

NAME = re.compile(SERVICE_NAME)
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
SECRET = re.compile(r"[!#-\[\]-~]{8,512}")  # visible ASCII, which survives a header, and needs no escape anywhere
MOST_PINNING = 50  # their names stand in the routes, which each renewal of a lease writes anew
LONGEST_LEASE_MS = 60_000  # what a dead release may cost at most


def check(state: GatewayState, checked: GatewayState | None = None) -> None:
    """Refuse a state that cannot work. Raises Refused with field, value, rule and fix; never shows a secret.

    ``checked`` is one that passed: thousands of tokens that are the same objects are not looked at again each
    time a weight changes.
    """
    names = [s.name for s in state.services]
    _unique("services and groups", [*names, *(g.name for g in state.groups)], "give each a name of its own")
    stable = {s.name: s.stable for s in state.services}
    for service in state.services:
        _check_service(service, stable)
    for group in state.groups:
        _check_group(group, names)
    if checked is None or not _same_tokens(state, checked):
        _check_tokens(state)
    for door in signed_doors(state):
        between(f"{door.name}: tokens of a door that takes signatures", len(door.tokens), 0, MOST_TOKENS)
    endpoints = [e for s in state.services for b in s.backends for e in b.endpoints]
    _unique("endpoints", [f"{e.host}:{e.port}" for e in endpoints], "give each instance a port of its own")
    _unique("instances", [e.instance for e in endpoints], "give each instance an id of its own")


def numbers_only(old: GatewayState | None, new: GatewayState) -> bool:
    """Whether ``new`` differs from the confirmed ``old`` in numbers alone: leases, weights, instances, tokens.

    The binary has already validated a lease for each service that could hold one (render.rehearsed), and what these
    rules let pass of addresses and keys it takes; so they suffice, and the change costs milliseconds.
    """
    return old is not None and structure(old) == structure(new)


def structure(state: GatewayState) -> GatewayState:
    """What is left of ``state`` without the numbers in it."""
    return GatewayState(
        tuple(_bones(service) for service in state.services),
        tuple(
            replace(group, tokens=(), members=tuple(replace(m, weight=None) for m in group.members))
            for group in state.groups
        ),
    )


def hidden(text: str, *states: GatewayState | None) -> str:
    """``text`` without the secrets of ``states``: Envoy prints a key that it refuses."""
    doors = [door for state in states if state for door in (*state.services, *state.groups)]
    secrets = {token.secret for door in doors for token in door.tokens}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _bones(service: ServiceRoute) -> ServiceRoute:
    backends = tuple(replace(backend, endpoints=()) for backend in service.backends)
    return replace(service, lease=None, tokens=(), backends=backends)


def _check_service(service: ServiceRoute, stable: dict[str, int | None]) -> None:
    rule = "a service's name is 2 to 40 lower-case letters, digits and inner dashes, and begins with a letter"
    _matches(NAME, "service.name", service.name, rule, "choose a name such as 'chat'")
    where = f"service {service.name}"
    between(f"{where}: response_timeout_s", service.response_timeout_s, SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S)
    between(f"{where}: body_limit_bytes", service.body_limit_bytes, 1, LARGEST_BODY)
    check_traffic(where, service.traffic)
    between(f"{where}: tokens that may pin", sum(token.may_pin for token in service.tokens), 0, MOST_PINNING)
    _unique(f"{where}: versions", [b.version for b in service.backends], "list each version once")
    for backend in service.backends:
        _check_backend(where, backend)
    versions = [b.version for b in service.backends]
    if service.stable is not None:
        _known(f"{where}: stable", service.stable, versions)
    if service.lease is not None:
        _check_lease(f"{where}: lease", service.lease, service.stable, versions)
        copied = [(m.service, m.version) for m in service.lease.mirrors]
        own = (service.name, service.lease.candidate)
        _unique(f"{where}: targets of copies", [own, *copied], "name each once, and the candidate by mirror_permille")
        for mirror in service.lease.mirrors:
            _check_mirror(f"{where}: mirrors", mirror, service, stable)


def _check_group(group: GroupRoute, services: list[str]) -> None:
    rule = "a group's name is 2 to 40 lower-case letters, digits and inner dashes, and begins with a letter"
    _matches(NAME, "group.name", group.name, rule, "choose a name such as 'prod'")
    where = f"group {group.name}"
    _unique(f"{where}: members", [m.service for m in group.members], "list each member once")
    for member in group.members:
        if member.service not in services:
            listed = ", ".join(sorted(services)) or "none"
            raise Refused(
                f"{where}: member", member.service, f"no such service (there are: {listed})", "release it first"
            )
        if member.weight is not None:
            between(f"{where}: weight of {member.service}", member.weight, 0, FULL)
    if group.sticky:
        check_sticky(where, group.sticky)


def _check_token(where: str, token: Token) -> None:
    rule = "a client's name is 1 to 100 letters, digits and . _ @ -"
    _matches(IDENTIFIER, f"{where}: token.client", token.client, rule, "choose a name such as 'demo'")
    if not SECRET.fullmatch(token.secret):
        rule = "a token is 8 to 512 visible ASCII characters without blanks, quotes and backslashes"
        raise Refused(f"{where}: token.secret", f"(of client {token.client})", rule, "let the program make a token")


def _check_backend(where: str, backend: Backend) -> None:
    if backend.version < 1:
        raise Refused(f"{where}: version", backend.version, "versions count from 1", "use the version's number")
    for endpoint in backend.endpoints:
        _check_endpoint(f"{where} v{backend.version}", endpoint)


def _check_endpoint(where: str, endpoint: Endpoint) -> None:
    rule = "an instance's id is 1 to 100 letters, digits and . _ @ -"
    _matches(IDENTIFIER, f"{where}: instance", endpoint.instance, rule, "use '<service>-v<version>-<ordinal>'")
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        rule = "the proxy takes addresses, not names, for instances"
        raise Refused(f"{where}: host", endpoint.host, rule, "use an IP address, for example 127.0.0.1") from None
    between(f"{where}: port", endpoint.port, 1, 65535)
    if endpoint.port in RESERVED_PORTS:
        raise Refused(f"{where}: port", endpoint.port, "8080 and 9090 are reserved", "choose another port")


def _check_lease(where: str, lease: Lease, stable: int | None, versions: list[int]) -> None:
    if stable is None:
        fix = "promote a first version"
        raise Refused(where, lease.release, "a service without a stable version has nothing to fall back on", fix)
    _known(f"{where}: candidate", lease.candidate, versions)
    if lease.candidate == stable:
        raise Refused(f"{where}: candidate", stable, "it is the stable version itself", "name another version")
    between(f"{where}: canary_permille", lease.canary_permille, 0, FULL)
    between(f"{where}: mirror_permille", lease.mirror_permille, 0, FULL)
    if lease.until_ms <= lease.from_ms:
        raise Refused(f"{where}: until_ms", lease.until_ms, f"it must be after from_ms {lease.from_ms}", "move the end")
    if lease.until_ms - lease.from_ms > LONGEST_LEASE_MS:
        rule = f"a lease holds at most {LONGEST_LEASE_MS} ms from {lease.from_ms}"
        raise Refused(f"{where}: until_ms", lease.until_ms, rule, "take a shorter one and renew it")
    _check_baseline(where, lease, stable, versions)
    rule = "a release's id is 1 to 100 letters, digits and . _ @ -"
    _matches(IDENTIFIER, f"{where}: release", lease.release, rule, "give the id of the release that holds the lease")


def _check_baseline(where: str, lease: Lease, stable: int, versions: list[int]) -> None:
    if lease.baseline is None:
        return
    _known(f"{where}: baseline", lease.baseline, versions)
    if lease.baseline in (lease.candidate, stable):
        rule = "it is the candidate or the stable version itself"
        raise Refused(f"{where}: baseline", lease.baseline, rule, "deploy a copy of stable as a version of its own")
    if 2 * lease.canary_permille > FULL:
        rule = "with a baseline of the same share a canary gets 500 at most"
        raise Refused(f"{where}: canary_permille", lease.canary_permille, rule, "lower it, or leave the baseline out")


def _check_mirror(where: str, mirror: Mirror, service: ServiceRoute, stable: dict[str, int | None]) -> None:
    between(f"{where}: permille", mirror.permille, 0, FULL)
    if mirror.service == service.name:
        version = mirror.version if mirror.version is not None else service.stable
        _known(f"{where}: version", version or 0, [b.version for b in service.backends])
        if version == service.stable:
            rule = "it is the version that answers the live requests"
            raise Refused(f"{where}: version", version, rule, "name another version, or another service")
    elif stable.get(mirror.service) is None:
        rule = "a copy goes to a service that has a stable version"
        raise Refused(f"{where}: service", mirror.service, rule, "release that service first")
    elif mirror.version is not None:
        rule = "copies for another service go to its stable version"
        raise Refused(f"{where}: version", mirror.version, rule, "leave the version out")


def _same_tokens(new: GatewayState, old: GatewayState) -> bool:
    held = {door.name: door.tokens for door in (*old.services, *old.groups)}
    # Tuples of the same objects are equal without a look into any of them.
    return all(held.get(door.name) == door.tokens for door in (*new.services, *new.groups))


def _check_tokens(state: GatewayState) -> None:
    """One token opens one door: the same secret twice would be fatal to Envoy, or open two."""
    owners: dict[str, str] = {}
    for kind, doors in (("service", state.services), ("group", state.groups)):
        for door in doors:
            for token in door.tokens:
                _check_token(f"{kind} {door.name}", token)
                owner = f"client {token.client} of {kind} {door.name}"
                if token.secret in owners:
                    rule = f"{owners[token.secret]} has the same token"
                    raise Refused("token.secret", f"({owner})", rule, "make a new token for one of them")
                owners[token.secret] = owner


def _matches(pattern: re.Pattern[str], field: str, value: str, rule: str, fix: str) -> None:
    if not pattern.fullmatch(value):
        raise Refused(field, value, rule, fix)


def _known(field: str, version: int, versions: list[int]) -> None:
    if version not in versions:
        listed = ", ".join(map(str, sorted(versions))) or "none"
        raise Refused(field, version, f"no such version has backends here (there are: {listed})", "deploy it first")


def _unique(field: str, values: Iterable[object], fix: str) -> None:
    for value in _twice(values):
        raise Refused(field, value, "it occurs twice", fix)


def _twice(values: Iterable[object]) -> Iterator[object]:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
