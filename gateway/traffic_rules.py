"""Our checks of how a service is called, balanced and bounded. Pure; the files that users write are checked by them."""

from __future__ import annotations

import json
import re

from gateway.port import CallRecords, Jwt, Limits, Sticky, Traffic
from rollout.errors import Refused
from rollout.limits import LARGEST_BODY

HEADER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # underscores are refused at the edge
COOKIE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 6265: a token
INSIDE = ("x-roundhouse-", "x-envoy-", "x-now-ms", "x-client-id", "x-request-id")  # made by the proxy itself
#: Members of a JSON web key that only its owner may know (RFC 7518).
PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "k"))
MOST_PER_S = 1_000_000.0
MOST_IN_FLIGHT = 100_000
SHORTEST_SLOW_START_S, LONGEST_SLOW_START_S = 0.001, 900.0


def check_traffic(where: str, traffic: Traffic) -> None:
    """Raises Refused for what cannot be, or cannot be together."""
    if traffic.sticky:
        check_sticky(where, traffic.sticky)
    if traffic.balance == "session" and traffic.sticky is None:
        rule = "balancing by session needs to know what a session is"
        raise Refused(f"{where}: balance", "session", rule, "set `sticky`, for example to the header x-session-id")
    if traffic.slow_start_s:
        between(f"{where}: slow_start_s", traffic.slow_start_s, SHORTEST_SLOW_START_S, LONGEST_SLOW_START_S)
    if traffic.slow_start_s and traffic.balance not in ("least_request", "round_robin"):
        rule = "only least_request and round_robin can start slowly"
        raise Refused(f"{where}: slow_start_s", traffic.slow_start_s, rule, "set it to 0, or choose one of the two")
    _check_limits(where, traffic.limits)
    if traffic.jwt and traffic.signed:
        rule = "a service takes web tokens, or keys of ours and signatures made with them"
        raise Refused(f"{where}: signed", True, rule, "leave out `signed` or `jwt`")
    if traffic.jwt:
        _check_jwt(where, traffic.jwt)
    if traffic.call_records:
        _check_call_records(where, traffic.call_records)


def check_sticky(where: str, sticky: Sticky) -> None:
    """Raises Refused for a name that cannot be a header's or a cookie's."""
    if sticky.by == "token":
        return
    pattern, rule = (
        (HEADER, "a header is 1 to 64 lower-case letters, digits and dashes")
        if sticky.by == "header"
        else (COOKIE, "a cookie's name is 1 to 64 characters of RFC 6265's token")
    )
    if not pattern.fullmatch(sticky.name):
        raise Refused(f"{where}: sticky.name", sticky.name, rule, "name one such as x-session-id")
    if sticky.by == "header" and sticky.name.startswith(INSIDE):
        rule = "the proxy itself sets this header, after the version was chosen"
        raise Refused(f"{where}: sticky.name", sticky.name, rule, "name a header that clients send")


def between(field: str, value: float, low: float, high: float) -> None:
    """Raises Refused for a number outside the bounds, and for what is no number."""
    if not low <= value <= high:
        raise Refused(field, value, f"it must lie between {low} and {high}", "choose a value in that range")


def _check_limits(where: str, limits: Limits) -> None:
    for name in ("requests_per_s", "token_requests_per_s"):
        rate = getattr(limits, name)
        if rate is not None:
            between(f"{where}: limits.{name}", rate, 0.01, MOST_PER_S)
    between(f"{where}: limits.in_flight", limits.in_flight, 1, MOST_IN_FLIGHT)
    between(f"{where}: limits.mirror_in_flight", limits.mirror_in_flight, 1, MOST_IN_FLIGHT)


def _check_jwt(where: str, jwt: Jwt) -> None:
    if not jwt.issuer or not all(jwt.audiences) or not jwt.audiences:
        rule = "a token is taken only from a named issuer and for a named audience"
        raise Refused(
            f"{where}: jwt", jwt.issuer or jwt.audiences, rule, "give `issuer` and at least one of `audiences`"
        )
    try:
        keys = json.loads(jwt.jwks)["keys"]
        good = bool(keys) and all("kty" in key for key in keys)
        secret = good and any(key["kty"] == "oct" or PRIVATE & key.keys() for key in keys)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = secret = False
    if secret:
        rule = "it holds a private or symmetric key, which would lie in records that others read"
        raise Refused(f"{where}: jwt.jwks", f"({len(jwt.jwks)} characters)", rule, "give the issuer's public key set")
    if not good:
        rule = "it must be a JSON web key set (RFC 7517) with at least one key"
        raise Refused(f"{where}: jwt.jwks", f"({len(jwt.jwks)} characters)", rule, "fetch the issuer's jwks_uri")


def _check_call_records(where: str, calls: CallRecords) -> None:
    between(f"{where}: call_records.percent", calls.percent, 0, 100)
    between(f"{where}: call_records.max_body_bytes", calls.max_body_bytes, 1, LARGEST_BODY)
